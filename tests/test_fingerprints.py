"""Hashes that change with what they stand for, and with nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.records import refs, unit
from transforms.fingerprints import VariantRun, add_hash_sums, uri_hash_sum


@pytest.mark.parametrize(
    "change",
    [
        {"module_sha256": "0" * 64},
        {"precision": "fast"},
        {"class_names": tuple("abcde")},
        {"n_classes": 6},
    ],
)
def test_the_fingerprint_changes_with_every_setting(tiny_run: VariantRun, change: dict) -> None:
    one = unit(refs(2))
    assert replace(tiny_run, **change).fingerprint(one) != tiny_run.fingerprint(one)
    assert replace(tiny_run, module_path="/elsewhere").fingerprint(one) == tiny_run.fingerprint(one)


@pytest.mark.parametrize(
    "change",
    [{"resize": "squash_bilinear"}, {"size": 64}, {"input_range": (-1.0, 1.0)}, {"activation": "sigmoid"}],
)
def test_the_fingerprint_changes_with_the_preprocessing(tiny_run: VariantRun, change: dict) -> None:
    one = unit(refs(2))
    other = replace(tiny_run, variant=replace(tiny_run.variant, **change))
    assert other.fingerprint(one) != tiny_run.fingerprint(one)


def test_the_fingerprint_changes_with_an_image_s_version(tiny_run: VariantRun) -> None:
    assert tiny_run.fingerprint(unit(refs(2))) != tiny_run.fingerprint(unit(refs(2, version="2")))


@given(st.lists(st.text(max_size=20), unique=True, max_size=30), st.integers(0, 30))
def test_hash_sums_are_order_free_and_add_up(uris: list[str], cut: int) -> None:
    whole = uri_hash_sum(uris)
    assert whole == uri_hash_sum(reversed(uris))
    assert whole == add_hash_sums(uri_hash_sum(uris[:cut]), uri_hash_sum(uris[cut:]))
    if uris:
        assert whole != uri_hash_sum(uris[1:])

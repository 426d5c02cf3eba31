"""Where a run's time went, in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.verdict import verdict
from tests.records import footer, refs, unit
from transforms import devices
from transforms.fingerprints import VariantRun
from transforms.records import StepSeconds


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [
        (
            StepSeconds(fetch=1, decode=20, wait=1, model=8, write=1),
            "bottleneck: model. Of the time 10% went into",
        ),
        (StepSeconds(fetch=1, decode=20, wait=8, model=1, write=1), "bottleneck: decode."),
        (StepSeconds(fetch=90, decode=20, wait=8, model=1, write=1), "bottleneck: storage."),
        (StepSeconds(fetch=1, decode=1, wait=1, model=1, write=8), "bottleneck: write."),
        (StepSeconds(), "nothing was left to do"),
    ],
)
def test_the_verdict_names_where_the_chain_spent_most(
    tiny_run: VariantRun, monkeypatch: pytest.MonkeyPatch, seconds: StepSeconds, starts: str
) -> None:
    monkeypatch.setattr(devices, "cores", lambda: 4)
    ours = footer(tiny_run, unit(refs(3)), seconds=seconds)
    of_another_run = replace(ours, seconds=StepSeconds(write=1e6), run="earlier")
    assert verdict([of_another_run, ours], "r", "exact").startswith(starts)


def test_fast_is_not_advised_to_who_has_it(tiny_run: VariantRun) -> None:
    footers = [footer(tiny_run, unit(refs(3)), seconds=StepSeconds(model=1))]
    assert "--precision fast" in verdict(footers, "r", "exact")
    assert "--precision fast" not in verdict(footers, "r", "fast")

"""Schemas, names, footers, Arrow columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.records import failure, footer, info, refs, score_batch, unit
from transforms import tables
from transforms.fingerprints import VariantRun


def test_a_row_holds_what_the_schema_promises(tiny_run: VariantRun) -> None:
    images = refs(3)
    target = tiny_run.target(unit(images))
    table = tables.rows_table(score_batch(target, 0, images), tiny_run, pa.schema([]))
    assert table.schema == tables.rows_schema(tiny_run, pa.schema([]))
    assert str(table.schema.field("logits").type) == "fixed_size_list<item: float>[5]"
    assert str(table.schema.field("features").type) == "fixed_size_list<item: float>[4]"
    row = table.to_pylist()[2]
    assert (row["uri"], row["size"], row["version"]) == ("/photos/0002.jpg", 102, "1")
    assert (row["sha256"], row["width"], row["height"], row["orientation"]) == ("ab" * 32, 640, 480, 6)
    assert row["fingerprint"] == target.fingerprint
    assert row["logits"] == [2.0, 2.5, 3.0, 3.5, 4.0]
    assert row["features"] == [2.0] * 4
    assert [top["index"] for top in row["top_classes"]] == [4, 3, 2, 1, 0]


def test_top_classes_are_named_and_their_probabilities_are_those_of_the_softmax() -> None:
    logits = np.array([[0.0, 2.0, 1.0, -1.0, 0.5, 0.25]], np.float32)
    (best,) = tables.top_classes(logits, "softmax", tuple("abcdef")).to_pylist()
    expected = np.exp(logits[0]) / np.exp(logits[0]).sum()
    assert [(top["index"], top["name"]) for top in best] == [(1, "b"), (2, "c"), (4, "e"), (5, "f"), (0, "a")]
    np.testing.assert_allclose([top["probability"] for top in best], expected[[1, 2, 4, 5, 0]], rtol=1e-6)


def test_without_class_names_the_index_stands_alone() -> None:
    (best,) = tables.top_classes(np.zeros((1, 2), np.float32), "softmax", None).to_pylist()
    assert [(top["index"], top["name"]) for top in best] == [(0, None), (1, None)]


def test_independent_classes_have_independent_probabilities() -> None:
    logits = np.array([[0.0, 100.0, -100.0]], np.float32)
    np.testing.assert_allclose(tables.probabilities(logits, "sigmoid"), [[0.5, 1.0, 0.0]], atol=1e-7)


@given(arrays.arrays(np.float32, (3, 7), elements=st.floats(-1e4, 1e4, width=32)))
def test_probabilities_sum_to_one_and_keep_the_order_of_the_logits(logits: np.ndarray) -> None:
    result = tables.probabilities(logits, "softmax")
    np.testing.assert_allclose(result.sum(axis=1), 1.0, rtol=1e-5)
    assert (np.diff(np.take_along_axis(result, np.argsort(logits, axis=1), axis=1)) >= 0).all()


def test_failures_keep_their_reason() -> None:
    (row,) = tables.failures_table([failure(refs(1)[0])]).to_pylist()
    assert row == {
        "uri": "/photos/0000.jpg",
        "size": 100,
        "version": "1",
        "step": "decode",
        "error": "truncated",
        "message": "cut off",
        "attempts": 1,
    }


def test_file_names_say_whose_they_are(tiny_run: VariantRun) -> None:
    target = tiny_run.target(unit(refs(2), number=17))
    rows = tables.rows_path(tiny_run, target)
    failures = tables.failures_path(tiny_run, target, "1a2b3c4d")
    assert rows == f"variant=acme-tiny-classification-1/part-000017-{target.fingerprint}.parquet"
    assert failures == (
        f"_failures/variant=acme-tiny-classification-1/part-000017-{target.fingerprint}-1a2b3c4d.parquet"
    )
    unfinished = f".part-000017-{target.fingerprint}.parquet.12ab34cd"
    for name in (rows, failures, unfinished):
        assert tables.unit_and_fingerprint(name) == (17, target.fingerprint)
    assert tables.unit_and_fingerprint("notes.txt") is None


def test_rubbish_is_what_a_committed_unit_does_not_name(tiny_run: VariantRun) -> None:
    current = footer(
        tiny_run,
        unit(refs(2), number=3),
        failures_file="_failures/x/part-000003-aaaaaaaaaaaa-11111111.parquet",
    )
    rows = [
        "part-000003-aaaaaaaaaaaa.parquet",
        "part-000003-bbbbbbbbbbbb.parquet",
        ".part-000003-aaaaaaaaaaaa.parquet.12345678",
        "part-000004-cccccccccccc.parquet",
        "notes.txt",
    ]
    failures = [
        "part-000003-aaaaaaaaaaaa-11111111.parquet",
        "part-000003-aaaaaaaaaaaa-22222222.parquet",
        "part-000004-cccccccccccc-33333333.parquet",
    ]
    assert tables.rubbish({(3, "a" * 12): current}, rows, failures, "v") == [
        "variant=v/part-000003-bbbbbbbbbbbb.parquet",
        "variant=v/.part-000003-aaaaaaaaaaaa.parquet.12345678",
        "_failures/variant=v/part-000003-aaaaaaaaaaaa-22222222.parquet",
    ]


def test_nullable_columns_are_only_those_a_listing_may_not_know(tiny_run: VariantRun) -> None:
    nullable = {field.name for field in tables.rows_schema(tiny_run, pa.schema([])) if field.nullable}
    assert nullable == {"size", "version"}
    assert pa.types.is_fixed_size_list(tables.rows_schema(tiny_run, pa.schema([])).field("logits").type)
    assert info(refs(1)[0]).orientation == 6

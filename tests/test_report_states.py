"""`pixelbeam report` of a dataset that is not as one finished run leaves it: begun, broken, superseded, in rounds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import dataset
from tests.report_dataset import BOTH, LOGITS, ROWS, article, page_of, words
from transforms.footers import Footer, read_footer

ROWS_IN_A_GROUP = 3


@pytest.fixture
def out(three_variants: Path, tmp_path: Path) -> Path:
    """A copy of the dataset to be broken; its images stay where they are."""
    shutil.copytree(three_variants, tmp_path / "out")
    return tmp_path / "out"


def rows_files(out: Path, name: str) -> list[Path]:
    return sorted((out / f"variant={name.replace('/', '-')}").glob("*.parquet"))


def rewrite(path: Path, change: Callable[[Footer], Footer]) -> None:
    """Write a rows file anew with another footer."""
    table, footer = pq.read_table(path), read_footer(str(path))
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table, row_group_size=ROWS_IN_A_GROUP)
        writer.add_key_value_metadata(change(footer).to_metadata())


def test_random_weights_are_a_warning(out: Path) -> None:
    for path in rows_files(out, BOTH):
        rewrite(path, lambda footer: replace(footer, random_weights=True))
    text = page_of(out)
    assert f"{BOTH} was made by a module without trained weights" in words(text.split("<main>")[0])
    assert "Random weights. These scores and features mean nothing" in article(text, BOTH)
    assert "Random weights" not in article(text, LOGITS)


def test_what_is_not_done_yet_is_told(out: Path) -> None:
    rows_files(out, BOTH)[1].unlink()
    said = article(page_of(out), BOTH)
    assert "Not complete. Not done yet: 1 of 4 units." in said
    assert "listed 31 done so far 23 8 not done yet" in said
    assert f"`pixelbeam verify {out}`".strip("`") in said


def test_a_variant_that_was_begun_and_has_no_file_is_named(out: Path) -> None:
    shutil.rmtree(out / "variant=acme-both-1")
    said = article(page_of(out), "acme-both-1")
    assert "Not complete. Not done yet: 4 of 4 units." in said
    assert "Nothing is done yet" in said


def test_files_that_cannot_be_read_are_counted(out: Path) -> None:
    first, second, *_ = rows_files(out, BOTH)
    first.write_bytes(first.read_bytes()[:-20])
    rewrite(second, lambda footer: footer)
    file = pq.ParquetFile(second)
    assert file.num_row_groups > 1
    content = bytearray(second.read_bytes())
    for group in range(file.num_row_groups):
        start = file.metadata.row_group(group).column(0).data_page_offset
        content[start : start + 20] = bytes(20)
    second.write_bytes(content)
    said = article(page_of(out), BOTH)
    assert "Broken, or replaced at that moment: 2 files could not be read." in said
    assert "8 not done, or unreadable" in said


def test_of_two_files_of_a_unit_the_newer_counts(out: Path) -> None:
    first = rows_files(out, BOTH)[0]
    older = first.with_name("part-000000-aaaaaaaaaaaa.parquet")
    shutil.copy(first, older)
    rewrite(
        older, lambda footer: replace(footer, finished=1.0, rows=100, failures_by={"infer: model_error": 7})
    )
    rows_files(out, LOGITS)[0].with_name("part-000099-aaaaaaaaaaaa.parquet").write_bytes(older.read_bytes())
    text = page_of(out)
    for name in (BOTH, LOGITS):
        said = article(text, name)
        assert f"rows {ROWS} " in said
        assert "model_error" not in said


def test_what_supersedes_a_file_that_is_gone_counts(out: Path) -> None:
    # Listed, then deleted by the run that had committed the newer one.
    rows_files(out, BOTH)[0].with_name("part-000000-aaaaaaaaaaaa.parquet").symlink_to("nowhere")
    said = article(page_of(out), BOTH)
    assert f"rows {ROWS} " in said
    assert "could not be read" not in said


def test_names_that_are_no_text_any_more_cannot_be_read(out: Path) -> None:
    first = rows_files(out, BOTH)[0]
    (failed,) = (out / "_failures" / "variant=acme-both-1").iterdir()
    footers = {first: read_footer(str(first)).to_metadata(), failed: {}}
    for path, metadata in footers.items():
        table = pq.read_table(path)
        names = pa.array([b"\xff" + name.encode() for name in table.column("uri").to_pylist()])
        broken = pa.StringArray.from_buffers(len(names), *names.buffers()[1:])
        table = table.set_column(0, table.schema.field(0), broken)
        with pq.ParquetWriter(path, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata(metadata)
    said = article(page_of(out), BOTH)
    assert "1 file could not be read" in said
    assert "No example could be read" in said


def with_features(path: Path, width: int | None, settings: dict) -> None:
    """Write a rows file anew as by another module, whose feature vectors are so long; None for no features."""
    table, footer = pq.read_table(path), read_footer(str(path))
    table = table.drop_columns(["features"])
    if width:
        values = pa.array(np.arange(table.num_rows * width, dtype=np.float32))
        table = table.append_column("features", pa.FixedSizeListArray.from_arrays(values, width))
    footer = replace(footer, finished=footer.finished - 1000, settings={**footer.settings, **settings})
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(footer.to_metadata())


@pytest.mark.parametrize("width", [None, 7])
def test_rows_of_two_settings_are_told_and_not_mixed(width: int | None, out: Path) -> None:
    # A run with --replace was interrupted.
    first = rows_files(out, BOTH)[0]
    others = read_footer(str(first)).rows
    with_features(first, width, {"n_features": width})
    superseded = rows_files(out, BOTH)[-1].with_name("part-000003-aaaaaaaaaaaa.parquet")
    shutil.copy(rows_files(out, BOTH)[-1], superseded)
    rewrite(superseded, lambda footer: replace(footer, finished=1.0))
    text = page_of(out)
    said = article(text, BOTH)
    assert "Made with other settings than those below, and therefore not looked at: 1 of 4 units." in said
    assert f"rows {ROWS} " in said
    assert f"Everything else is of {ROWS - others} of {ROWS} rows, from 3 of 4 files," in said
    assert f"vectors {ROWS - others} dimensions 4" in said
    assert "Two kinds of rows" not in article(text, LOGITS)


def test_failures_are_those_of_the_last_round(out: Path, tmp_path: Path, pixelbeam) -> None:
    (failed,) = {footer.failures_file for footer in dataset.footers(out / "variant=acme-logits-1")} - {None}
    (first, *_) = rows_files(out, LOGITS)
    table, footer = pq.read_table(first), read_footer(str(first))
    again = first.with_name(first.name.replace(".parquet", ".r1.parquet"))
    with pq.ParquetWriter(again, table.schema) as writer:
        writer.write_table(table.slice(0, 1))
        later = replace(
            footer, round=1, rows=1, failures=2, failures_by={"decode: truncated": 2}, run="later"
        )
        writer.add_key_value_metadata(later.to_metadata())
    said = article(page_of(out), LOGITS)
    assert "decode: truncated 2" in said
    assert "not_an_image" not in said
    assert "2 runs have a part in these rows" in said
    assert failed

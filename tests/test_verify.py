"""`pixelbeam verify`: silent where the promises hold, and told of each way to break them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from tests import bad, dataset
from tests.dataset import footers
from transforms import index
from transforms.fingerprints import uri_hash_sum
from transforms.footers import Footer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photographs: Path, tiny_toml: str, models: str) -> Path:
    """A dataset of three units, with one failure in the first."""
    root = tmp_path_factory.mktemp("whole")
    folder = root / "photos"
    shutil.copytree(photographs, folder)
    bad.write(folder, "text.jpg", 0)
    arguments = ["run", "--input", folder, "--output", root / "out", "--variant", tiny_toml]
    options = ["--images-per-unit", 10, "--batch-size", 4, "--model-dir", models]
    assert cli.main([str(argument) for argument in [*arguments, *options]]) == 0
    return root / "out"


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to be broken."""
    shutil.copytree(whole, tmp_path / "out")
    return tmp_path / "out"


def parts(out: Path) -> list[Path]:
    (directory,) = dataset.variants(out)
    return sorted(directory.glob("*.parquet"))


def rewrite(
    path: Path, change: Callable[[Footer], Footer], rows: Callable[[object], object] = lambda table: table
):
    """Write a rows file anew with another footer or other rows."""
    table = pq.read_table(path)
    (footer,) = [each for each in footers(path.parent) if each.fingerprint in path.name]
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(rows(table))
        writer.add_key_value_metadata(change(footer).to_metadata())


def append_blank(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def truncate_failures(out: Path) -> None:
    (path,) = (out / "_failures").glob("*/*.parquet")
    pq.write_table(pq.read_table(path).slice(1), path)


def same(footer: Footer) -> Footer:
    return footer


def drop_first(table):
    return table.slice(1)


def repeat_first(table):
    return pa.concat_tables([table.slice(0, 1), table.slice(0, 1), table.slice(2)])


def with_another_sha256(table):
    column = table.schema.get_field_index("sha256")
    return table.set_column(column, table.schema.field("sha256"), pa.array(["0" * 64] * table.num_rows))


def with_nan(table):
    values = np.array(table.column("features").combine_chunks().flatten(), copy=True)
    values[3] = np.nan
    column = table.schema.get_field_index("features")
    array = pa.FixedSizeListArray.from_arrays(pa.array(values), table.schema.field("features").type.list_size)
    return table.set_column(column, table.schema.field("features"), array)


def with_an_infinite_logit(table):
    values = np.array(table.column("logits").combine_chunks().flatten(), copy=True)
    values[3] = np.inf
    column = table.schema.get_field_index("logits")
    array = pa.FixedSizeListArray.from_arrays(pa.array(values), table.schema.field("logits").type.list_size)
    return table.set_column(column, table.schema.field("logits"), array)


def with_another_fingerprint(table):
    column = table.schema.get_field_index("fingerprint")
    values = ["0" * 12, *table.column("fingerprint").to_pylist()[1:]]
    return table.set_column(column, table.schema.field("fingerprint"), pa.array(values))


def test_a_whole_dataset_is_proven(out: Path, pixelbeam) -> None:
    for options in ([], ["--deep"]):
        code, output, _ = pixelbeam("verify", out, *options)
        assert code == 0
        assert output == (
            "acme-tiny-classification-1: 24 rows + 1 failure of 25 images: every image accounted for\n"
        )


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a unit is missing": (lambda out: parts(out)[1].unlink(), "1 of 3 units not done"),
    "a unit is there twice": (
        lambda out: shutil.copy(parts(out)[1], parts(out)[1].with_name("part-000001-aaaaaaaaaaaa.parquet")),
        "unit 1 has 2 rows files",
    ),
    "a unit is not in the index": (
        lambda out: rewrite(parts(out)[1], lambda footer: replace(footer, unit=7)),
        "belongs to no unit of the index",
    ),
    "a rows file is cut": (
        lambda out: parts(out)[0].write_bytes(parts(out)[0].read_bytes()[:-20]),
        "is no rows file of ours",
    ),
    "a rows file is a stranger": (
        lambda out: pq.write_table(
            pq.read_table(parts(out)[0], columns=["size"]).replace_schema_metadata(), parts(out)[0]
        ),
        "is no rows file of ours",
    ),
    "a count is wrong": (
        lambda out: rewrite(parts(out)[1], lambda footer: replace(footer, rows=9)),
        "9 rows + 0 failures, but the unit has 10 images",
    ),
    "rows were lost behind the footer's back": (
        lambda out: rewrite(parts(out)[1], same, drop_first),
        "it has 9 rows, its footer says 10",
    ),
    "the images are others": (
        lambda out: rewrite(parts(out)[1], lambda footer: replace(footer, rows_hash_sum=uri_hash_sum(["x"]))),
        "its images are not those of the unit",
    ),
    "an image changed since": (
        lambda out: rewrite(parts(out)[1], lambda footer: replace(footer, members="0" * 64)),
        "was made from other versions of its images",
    ),
    "the settings are mixed": (
        lambda out: rewrite(
            parts(out)[1], lambda footer: replace(footer, settings={**footer.settings, "precision": "fast"})
        ),
        "was made with other settings than most",
    ),
    "the failures are gone": (
        lambda out: shutil.rmtree(out / "_failures"),
        "is missing or broken; delete the rows file, run again",
    ),
    "the failures are fewer": (
        truncate_failures,
        "its failures file has 0 rows, not 1",
    ),
    "the failures are cut": (
        lambda out: next((out / "_failures").glob("*/*.parquet")).write_bytes(b"PAR1"),
        "is missing or broken; delete the rows file, run again",
    ),
    "a variant was begun and is not there": (
        lambda out: shutil.rmtree(dataset.variants(out)[0]),
        "3 of 3 units not done",
    ),
    "the failures are nowhere": (
        lambda out: rewrite(parts(out)[0], lambda footer: replace(footer, failures_file=None)),
        "it names no file for its 1 failures",
    ),
    "the index was touched": (
        lambda out: append_blank(Path(index.read(str(out)).part_paths()[0])),
        "was changed after it was written",
    ),
}


def test_the_first_line_says_whether_images_are_left_to_do_or_something_is_wrong(
    out: Path, pixelbeam
) -> None:
    shutil.copy(parts(out)[0], parts(out)[0].with_name("part-000007-aaaaaaaaaaaa.parquet"))
    assert pixelbeam("verify", out)[1].splitlines()[0].endswith(" of 25 images: 1 problem")
    parts(out)[1].unlink()
    parts(out)[-1].unlink()
    said = pixelbeam("verify", out)[1].splitlines()[0]
    assert said.endswith(": 14 rows + 1 failure of 25 images: not complete, 10 images to do")


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_named(out: Path, pixelbeam, name: str) -> None:
    strike, message = BREAKS[name]
    strike(out)
    code, output, _ = pixelbeam("verify", out)
    assert code == 1
    assert message in " ".join(output.replace("│", " ").replace("┃", " ").split())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (repeat_first, "its uris are not those of the unit, each once"),
        (with_nan, "its features hold NaN or infinite values"),
        (with_an_infinite_logit, "its logits hold NaN or infinite values"),
        (with_another_fingerprint, "some of its rows have another fingerprint"),
        (with_another_sha256, "has another sha256 than its row"),
    ],
)
def test_deep_reads_the_rows(out: Path, pixelbeam, rows, message: str) -> None:
    rewrite(parts(out)[1], same, rows)
    assert pixelbeam("verify", out)[0] == 0
    code, output, _ = pixelbeam("verify", out, "--deep")
    assert code == 1
    assert message in " ".join(output.replace("│", " ").split())


def test_deep_reads_the_failures(out: Path, pixelbeam) -> None:
    (path,) = (out / "_failures").glob("*/*.parquet")
    table = pq.read_table(path)
    column = table.schema.get_field_index("uri")
    pq.write_table(table.set_column(column, table.schema.field("uri"), pa.array(["/elsewhere.jpg"])), path)
    assert pixelbeam("verify", out)[0] == 0
    code, output, _ = pixelbeam("verify", out, "--deep")
    assert code == 1
    assert "its uris are not those of the unit, each once" in " ".join(output.replace("│", " ").split())


def test_rubbish_is_listed_and_swept_by_the_next_run(
    out: Path, pixelbeam, tiny_toml: str, whole: Path
) -> None:
    (failures,) = (out / "_failures").glob("*/*.parquet")
    orphan = failures.with_name(failures.name[:20] + failures.name[20:].replace("-", "-0"))
    shutil.copy(failures, orphan)
    unfinished = parts(out)[0].with_name(f".{parts(out)[0].name}.12345678")
    unfinished.write_bytes(b"PAR1")
    code, output, _ = pixelbeam("verify", out)
    assert code == 0
    assert f"swept by the next run: {orphan.relative_to(out)}" in output
    assert f"swept by the next run: {unfinished.relative_to(out)}" in output
    folder = whole.parent / "photos"
    assert pixelbeam("run", "--input", folder, "--output", out, "--variant", tiny_toml)[0] == 0
    assert not orphan.exists()
    assert not unfinished.exists()
    assert failures.exists()


def test_rubbish_is_named_as_it_is_called(out: Path, pixelbeam) -> None:
    rubbish = parts(out)[0].with_name("part-000000-aaaaaaaaaaaa.[bold].parquet")
    rubbish.write_bytes(b"")
    assert f"{rubbish.name}\n" in pixelbeam("verify", out)[1]


@pytest.mark.parametrize("command", ["verify", "report"])
def test_a_broken_record_of_a_run_is_one_line(command: str, out: Path, pixelbeam) -> None:
    (out / "_runs" / ".ipynb_checkpoints").mkdir()
    (out / "_runs" / "notes.txt").write_text("mine")
    assert pixelbeam(command, out)[0] == 0
    (record,) = (out / "_runs").glob("*Z.json")
    record.write_text(record.read_text(encoding="utf-8")[:100], encoding="utf-8")
    code, _, errors = pixelbeam(command, out)
    assert (code, errors.count("\n")) == (1, 1)
    assert f"{record} is no record of a run" in errors

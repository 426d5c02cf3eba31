"""`pixelbeam report`: one page that says what a dataset holds, whatever state the dataset is in."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.report import rows, sampling
from pipelines.report.parts import read_parts
from tests import bad, cloud, dataset, photos, report_dataset
from tests.gcs_server import GcsServer
from tests.report_dataset import BOTH, EVIL, EVIL_NAME, FEATURES, IMAGES, LOGITS, ROWS, article, words
from transforms.footers import Footer, read_footer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, models: str) -> Path:
    return report_dataset.write(tmp_path_factory.mktemp("report"), models)


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy of the dataset to be broken; its images stay where they are."""
    shutil.copytree(whole, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def page(pixelbeam) -> Callable[..., str]:
    """The page of an output directory."""

    def page(output: object, *options: object) -> str:
        code, said, errors = pixelbeam("report", output, *options)
        assert (code, said.count("\n")) == (0, 1), errors
        return Path(said.partition(": ")[0]).read_text(encoding="utf-8")

    return page


def rows_files(out: Path, name: str) -> list[Path]:
    return sorted((out / f"variant={name.replace('/', '-')}").glob("*.parquet"))


def rewrite(path: Path, change: Callable[[Footer], Footer]) -> None:
    """Write a rows file anew with another footer."""
    table, footer = pq.read_table(path), read_footer(str(path))
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(change(footer).to_metadata())


def data(page: str) -> dict:
    """The data that the page's script reads."""
    return json.loads(page.split('<script type="application/json" id="data">')[1].partition("</script>")[0])


def test_the_last_line_says_where_the_page_is_and_what_was_looked_at(out: Path, pixelbeam) -> None:
    code, said, errors = pixelbeam("report", out)
    path = out / "report.html"
    assert (code, errors) == (0, "")
    assert said == (
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, 3 variants, {3 * ROWS} of {3 * ROWS} rows looked at (seed 0), "
        f"{ROWS} pictures\n"
    )
    assert pixelbeam("verify", out)[0] == 0


def test_the_counts_of_each_variant_add_up(out: Path, page) -> None:
    text = page(out)
    for name in (BOTH, FEATURES, LOGITS):
        said = article(text, name)
        assert f"listed {IMAGES} fetched {IMAGES} decoded {ROWS} 3 could not be decoded rows {ROWS}" in said
        assert "decode: not_an_image 1" in said
        assert "000-text.jpg begins with b'milk, bread,', as no image does" in said
        assert "Everything else is of all 28 rows" in said
        assert "Bottleneck: " in said
        assert "tensorflow 2." in said
        assert "Not complete" not in said
    assert "Random weights" not in words(text.split("<script")[0])


def test_a_section_is_there_where_the_module_gives_what_it_is_about(out: Path, page) -> None:
    text = page(out)
    both, features, logits = (article(text, name) for name in (BOTH, FEATURES, LOGITS))
    for said, has_scores, has_features in ((both, 1, 1), (features, 0, 1), (logits, 1, 0)):
        assert ("Least confident" in said, "Most confident" in said) == (has_scores, has_scores)
        assert ("Map of the features" in said, "Health of the features" in said) == (
            has_features,
            has_features,
        )
        assert "3 of 28 images are in 1 group of equal bytes" in said
    charts = {name.partition("-")[2] for name in data(text)["charts"] if name.startswith("v1")}
    assert charts == {"rate", "map", "norms"}


def test_no_name_can_be_markup(out: Path, page) -> None:
    text = page(out)
    assert EVIL_NAME in words(text)
    assert EVIL in words(text)
    assert "<b onmouseover" not in text
    assert EVIL not in text
    # The data, the libraries and the page's own script: a name ends none of them and begins none.
    assert (text.count("<script"), text.count("</script")) == (3, 3)
    labels = {value["class"] for value in data(text)["charts"]["v0-classes"]["data"]["values"]}
    assert labels <= {*report_dataset.NAMES}


def test_the_page_asks_for_nothing_outside(out: Path, page) -> None:
    head, *_ = page(out).split('<script type="application/json"')
    assert "default-src 'none'" in head
    assert "http" not in head.replace("http-equiv", "").replace(str(out), "")


def test_random_weights_are_a_warning(out: Path, page) -> None:
    for path in rows_files(out, BOTH):
        rewrite(path, lambda footer: replace(footer, random_weights=True))
    text = page(out)
    assert f"{BOTH} was made by a module without trained weights" in words(text.split("<main>")[0])
    assert "Random weights. These scores and features mean nothing" in article(text, BOTH)
    assert "Random weights" not in article(text, LOGITS)


def test_what_is_not_done_yet_is_told(out: Path, page) -> None:
    rows_files(out, BOTH)[1].unlink()
    said = article(page(out), BOTH)
    assert "Not complete. 1 of 4 units are not done" in said
    assert "listed 31 done so far 23 8 not done yet" in said
    assert f"`pixelbeam verify {out}`".strip("`") in said


def test_a_variant_that_was_begun_and_has_no_file_is_named(out: Path, page) -> None:
    shutil.rmtree(out / "variant=acme-both-1")
    said = article(page(out), "acme-both-1")
    assert "Not complete. 4 of 4 units are not done" in said
    assert "Nothing is done yet" in said


def test_files_that_cannot_be_read_are_counted(out: Path, page) -> None:
    first, second, *_ = rows_files(out, BOTH)
    first.write_bytes(first.read_bytes()[:-20])
    content = bytearray(second.read_bytes())
    content[4:200] = bytes(196)
    second.write_bytes(content)
    said = article(page(out), BOTH)
    assert "2 files could not be read, because they are broken or were being replaced" in said
    assert "8 not done, or unreadable" in said


def test_of_two_files_of_a_unit_the_newer_counts(out: Path, page) -> None:
    first = rows_files(out, BOTH)[0]
    older = first.with_name("part-000000-aaaaaaaaaaaa.parquet")
    shutil.copy(first, older)
    rewrite(
        older, lambda footer: replace(footer, finished=1.0, rows=100, failures_by={"infer: model_error": 7})
    )
    rows_files(out, LOGITS)[0].with_name("part-000099-aaaaaaaaaaaa.parquet").write_bytes(older.read_bytes())
    text = page(out)
    for name in (BOTH, LOGITS):
        said = article(text, name)
        assert f"rows {ROWS} " in said
        assert "model_error" not in said


def test_what_supersedes_a_file_that_is_gone_counts(out: Path, page) -> None:
    # Listed, then deleted by the run that had committed the newer one.
    rows_files(out, BOTH)[0].with_name("part-000000-aaaaaaaaaaaa.parquet").symlink_to("nowhere")
    said = article(page(out), BOTH)
    assert f"rows {ROWS} " in said
    assert "could not be read" not in said


def test_names_that_are_no_text_any_more_cannot_be_read(out: Path, page) -> None:
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
    said = article(page(out), BOTH)
    assert "1 files could not be read" in said
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
def test_rows_of_two_settings_are_told_and_not_mixed(width: int | None, out: Path, page) -> None:
    # A run with --replace was interrupted.
    first = rows_files(out, BOTH)[0]
    others = read_footer(str(first)).rows
    with_features(first, width, {"n_features": width})
    text = page(out)
    said = article(text, BOTH)
    assert "Two kinds of rows. 1 of 4 units were made with other settings than those below" in said
    assert f"rows {ROWS} " in said
    assert f"Everything else is of {ROWS - others} of {ROWS} rows" in said
    assert f"vectors {ROWS - others} dimensions 4" in said
    assert "Two kinds of rows" not in article(text, LOGITS)


def test_pictures_of_what_is_gone_or_changed_are_left_out(
    tmp_path: Path, pixelbeam, page, photographs: Path, tiny_toml: str
) -> None:
    shutil.copytree(photographs, tmp_path / "photos")
    arguments = ["--input", tmp_path / "photos", "--output", tmp_path / "out", "--variant", tiny_toml]
    assert pixelbeam("run", *arguments)[0] == 0
    first, second, *_ = sorted((tmp_path / "photos").iterdir())
    first.unlink()
    second.write_bytes(photos.jpeg(photos.scene(30, 30, 5)))
    text = page(tmp_path / "out")
    assert "2 of 24 pictures could not be read in time, or their files are gone or have changed" in words(
        text
    )
    assert f'role="img" aria-label="no picture of {first.name}' in text
    assert len(data(text)["pictures"]) == 22
    # What is listed anew has another version than its row.
    assert pixelbeam("index", "--input", tmp_path / "photos", "--output", tmp_path / "out")[0] == 0
    assert len(data(page(tmp_path / "out"))["pictures"]) == 22
    assert all(picture.startswith("data:image/webp;base64,") for picture in data(text)["pictures"])


def test_pictures_that_a_page_has_no_room_for_are_not_called_lost(
    out: Path, page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.report.variant.MOST", 5)
    text = page(out)
    assert len(data(text)["pictures"]) == 5
    assert "pictures could not be read" not in text


def test_where_nothing_is_good_there_are_reasons_and_no_charts(
    tmp_path: Path, pixelbeam, page, tiny_toml: str
) -> None:
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(("text.jpg", "cut.jpg")):
        bad.write(tmp_path / "photos", name, number)
    arguments = ["--input", tmp_path / "photos", "--output", tmp_path / "out", "--variant", tiny_toml]
    assert pixelbeam("run", *arguments, "--max-failure-ratio", 1)[0] == 0
    text = page(tmp_path / "out")
    said = article(text, "acme/tiny/classification/1")
    assert "listed 2 fetched 2 decoded 0 2 could not be decoded rows 0" in said
    assert data(text) == {"pictures": [], "charts": {}}
    assert "Duplicates" not in said


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_images_are_enough(
    count: int, tmp_path: Path, pixelbeam, page, photographs: Path, tiny_toml: str
) -> None:
    arguments = ["--input", photographs, "--output", tmp_path / "out", "--variant", tiny_toml]
    assert pixelbeam("run", *arguments, "--limit", count)[0] == 0
    text = page(tmp_path / "out")
    assert len(data(text)["pictures"]) == count
    assert ("v0-map" in data(text)["charts"]) == (count > 2)


def test_images_in_a_container_have_pictures_and_kept_columns_are_named(
    tmp_path: Path, pixelbeam, page, photographs: Path, tiny_toml: str
) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for number, path in enumerate(sorted(photographs.iterdir())[:6]):
            (tmp_path / "label").write_text(str(number))
            tar.add(path, f"a/{number}.jpg")
            tar.add(tmp_path / "label", f"a/{number}.cls")
    arguments = ["--input", tmp_path / "shard.tar", "--output", tmp_path / "out", "--variant", tiny_toml]
    assert pixelbeam("run", *arguments, "--keep", "cls")[0] == 0
    text = page(tmp_path / "out")
    assert len(data(text)["pictures"]) == 6
    assert f'title="{tmp_path}/shard.tar::a/0.jpg"' in text
    assert "kept columns cls" in article(text, "acme/tiny/classification/1")


def test_of_a_larger_dataset_some_units_and_rows_are_looked_at(
    out: Path, page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "UNITS", 2)
    monkeypatch.setattr(sampling, "ROW_GROUPS", 1)
    monkeypatch.setattr(sampling, "ROWS", 4)
    monkeypatch.setattr(sampling, "FEATURE_ROWS", 3)
    text = page(out)
    said = article(text, BOTH)
    assert (
        "Counts and times are estimated from the footers of 2 of 4 units, chosen at random with seed 0"
        in said
    )
    assert "Everything else is of 4 of about " in said
    assert "from 1 of 4 files, chosen at random with seed 0" in said
    assert "Of 3 of the sampled images" in said
    # The same images are looked at in each variant.
    assert len(data(text)["pictures"]) == 4


def test_the_rows_that_are_looked_at_have_their_own_features(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BATCH_ROWS", 3)
    monkeypatch.setattr(sampling, "ROWS", 14)
    parts = read_parts(str(out), "acme-both-1", 4, lambda _: None)
    found = rows.read_rows(parts, lambda _: None)
    table = dataset.rows(out / "variant=acme-both-1").to_pylist()
    expected = {row["uri"]: row for row in table}
    assert 12 <= len({image.uri for image in found.images}) == len(found.images) <= 16
    for image, values in zip(found.images, found.features, strict=True):
        row = expected[image.uri]
        assert (image.version, image.sha256) == (row["version"], row["sha256"])
        assert vars(image.top) == row["top_classes"][0]
        assert values.tolist() == row["features"]


def test_a_dataset_in_a_bucket(
    gcs: GcsServer,
    pixelbeam,
    tiny_toml: str,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for path in photographs.iterdir():
        gcs.put("in", f"photos/{path.name}", path.read_bytes())
    arguments = ["--input", cloud.IN, "--output", cloud.OUT, "--variant", tiny_toml, *cloud.OPTIONS]
    assert pixelbeam("run", *arguments)[0] == 0
    monkeypatch.chdir(tmp_path)
    code, said, _ = pixelbeam("report", cloud.OUT)
    assert (code, said.partition(": ")[0]) == (0, "report.html")
    assert len(data((tmp_path / "report.html").read_text(encoding="utf-8"))["pictures"]) == 24
    code, said, _ = pixelbeam("report", cloud.OUT, "--output", "gs://out/pages/a.html")
    assert code == 0
    assert gcs.get("out", "pages/a.html").decode().startswith("<!doctype html>")


def test_a_page_that_cannot_be_written_is_one_line(out: Path, pixelbeam, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, message in (
        (tmp_path, "is a directory"),
        (tmp_path / "file" / "a.html", "cannot be written: "),
    ):
        code, said, errors = pixelbeam("report", out, "--output", path)
        assert (code, said, errors.count("\n")) == (2, "", 1)
        assert message in errors


def test_without_its_libraries_the_extra_is_named(
    out: Path, pixelbeam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "pipelines.report.page", raising=False)
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    code, _, errors = pixelbeam("report", out)
    assert (code, errors) == (
        2,
        "pixelbeam: the report needs vl_convert, which is not here; `pip install pixelbeam[report]`\n",
    )


def test_failures_are_those_of_the_last_round(out: Path, page, tmp_path: Path, pixelbeam) -> None:
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
    said = article(page(out), LOGITS)
    assert "decode: truncated 2" in said
    assert "not_an_image" not in said
    assert "2 runs have a part in these rows" in said
    assert failed

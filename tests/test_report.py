"""`pixelbeam report`: one page that says what a dataset holds."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
from pathlib import Path

import pytest

from pipelines.report import rows, sampling
from pipelines.report.parts import read_parts
from tests import bad, cloud, dataset, photos, report_dataset
from tests.gcs_server import GcsServer
from tests.report_dataset import (
    BOTH,
    EVIL,
    EVIL_NAME,
    FEATURES,
    IMAGES,
    LOGITS,
    ROWS,
    article,
    data,
    page_of,
    words,
)


@pytest.fixture
def out(three_variants: Path, tmp_path: Path) -> Path:
    """A copy of the dataset to be broken; its images stay where they are."""
    shutil.copytree(three_variants, tmp_path / "out")
    return tmp_path / "out"


def test_the_last_line_says_where_the_page_is_and_what_was_looked_at(out: Path, pixelbeam) -> None:
    code, said, errors = pixelbeam("report", out)
    path = out / "report.html"
    assert (code, errors) == (0, "")
    assert said == (
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, 3 variants, {3 * ROWS} of {3 * ROWS} rows looked at (seed 0), "
        f"{ROWS} pictures\n"
    )
    assert pixelbeam("verify", out)[0] == 0


def test_the_counts_of_each_variant_add_up(out: Path) -> None:
    text = page_of(out)
    for name in (BOTH, FEATURES, LOGITS):
        said = article(text, name)
        assert f"listed {IMAGES} fetched {IMAGES} decoded {ROWS} 3 could not be decoded rows {ROWS}" in said
        assert "decode: not_an_image 1" in said
        assert "000-text.jpg begins with b'milk, bread,', as no image does" in said
        assert "Everything else is of all 28 rows" in said
        assert "sampled" not in said
        assert "Bottleneck: " in said
        assert "tensorflow 2." in said
        assert "Not complete" not in said
    assert "Random weights" not in words(text.split("<script")[0])


def test_a_section_is_there_where_the_module_gives_what_it_is_about(out: Path) -> None:
    text = page_of(out)
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


def test_no_name_can_be_markup(out: Path) -> None:
    text = page_of(out)
    assert EVIL_NAME in words(text)
    assert EVIL in words(text)
    assert "<b onmouseover" not in text
    assert EVIL not in text
    # The data, the libraries and the page's own script: a name ends none of them and begins none.
    assert (text.count("<script"), text.count("</script")) == (3, 3)
    labels = {value["class"] for value in data(text)["charts"]["v0-classes"]["data"]["values"]}
    assert labels <= {*report_dataset.NAMES}


def test_the_page_asks_for_nothing_outside(out: Path) -> None:
    head, *_ = page_of(out).split('<script type="application/json"')
    assert "default-src 'none'" in head
    assert "http" not in head.replace("http-equiv", "").replace(str(out), "")


def test_pictures_of_what_is_gone_or_changed_are_left_out(
    tmp_path: Path, pixelbeam, photographs: Path, tiny_toml: str
) -> None:
    shutil.copytree(photographs, tmp_path / "photos")
    arguments = ["--input", tmp_path / "photos", "--output", tmp_path / "out", "--variant", tiny_toml]
    assert pixelbeam("run", *arguments)[0] == 0
    first, second, *_ = sorted((tmp_path / "photos").iterdir())
    first.unlink()
    second.write_bytes(photos.jpeg(photos.scene(30, 30, 5)))
    text = page_of(tmp_path / "out")
    said = words(text)
    assert "2 of 24 pictures could not be read in time, or the image is gone or has changed since" in said
    assert f'role="img" aria-label="no picture of {first.name}' in text
    assert len(data(text)["pictures"]) == 22
    # What is listed anew has another version than its row.
    assert pixelbeam("index", "--input", tmp_path / "photos", "--output", tmp_path / "out")[0] == 0
    assert len(data(page_of(tmp_path / "out"))["pictures"]) == 22
    assert all(picture.startswith("data:image/webp;base64,") for picture in data(text)["pictures"])


def test_pictures_that_a_page_has_no_room_for_are_not_called_lost(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.report.variant.MOST", 5)
    text = page_of(out)
    assert len(data(text)["pictures"]) == 5
    assert "pictures could not be read" not in text


def test_where_nothing_is_good_there_are_reasons_and_no_charts(
    tmp_path: Path, pixelbeam, tiny_toml: str
) -> None:
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(("text.jpg", "cut.jpg")):
        bad.write(tmp_path / "photos", name, number)
    arguments = ["--input", tmp_path / "photos", "--output", tmp_path / "out", "--variant", tiny_toml]
    assert pixelbeam("run", *arguments, "--max-failure-ratio", 1)[0] == 0
    text = page_of(tmp_path / "out")
    said = article(text, "acme/tiny/classification/1")
    assert "listed 2 fetched 2 decoded 0 2 could not be decoded rows 0" in said
    assert data(text) == {"pictures": [], "charts": {}}
    assert "Duplicates" not in said


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_images_are_enough(
    count: int, tmp_path: Path, pixelbeam, photographs: Path, tiny_toml: str
) -> None:
    arguments = ["--input", photographs, "--output", tmp_path / "out", "--variant", tiny_toml]
    assert pixelbeam("run", *arguments, "--limit", count)[0] == 0
    text = page_of(tmp_path / "out")
    assert len(data(text)["pictures"]) == count
    assert ("v0-map" in data(text)["charts"]) == (count > 2)
    said = article(text, "acme/tiny/classification/1")
    assert ("Fewer than three images have sound features, so there is no map" in said) == (count < 3)
    assert ("byte by byte" in said) == (count > 1)
    assert f"Everything else is of {'1 row' if count == 1 else f'all {count} rows'}." in said
    assert ("1 image in " in said) == (count == 1)


def test_of_many_copies_one_is_compared_with_the_others(
    tmp_path: Path, pixelbeam, photographs: Path, tiny_toml: str
) -> None:
    shutil.copytree(photographs, tmp_path / "photos")
    (first, *_) = sorted((tmp_path / "photos").iterdir())
    for number in range(100):
        shutil.copy(first, tmp_path / "photos" / f"copy-{number}.jpg")
    arguments = ["--input", tmp_path / "photos", "--output", tmp_path / "out", "--variant", tiny_toml]
    assert pixelbeam("run", *arguments)[0] == 0
    said = article(page_of(tmp_path / "out"), "acme/tiny/classification/1")
    assert "101 of 124 images are in 1 group of equal bytes" in said
    assert "Compared are 24 of 124 images: equal files once." in said
    assert "24 different images" in said
    assert "Map of the features" in said


def test_classes_of_one_name_are_told_apart(
    tmp_path: Path, pixelbeam, photographs: Path, tiny_toml: str
) -> None:
    (tmp_path / "names.txt").write_text("crane\n" * 5)
    arguments = ["--input", photographs, "--output", tmp_path / "out", "--variant", tiny_toml]
    assert pixelbeam("run", *arguments, "--class-names", tmp_path / "names.txt")[0] == 0
    text = page_of(tmp_path / "out")
    labels = {value["class"] for value in data(text)["charts"]["v0-classes"]["data"]["values"]}
    assert len(labels) > 1
    assert all(re.fullmatch(r"crane \(\d\)", label) for label in labels)
    assert all(f"{label}, " in article(text, "acme/tiny/classification/1") for label in labels)


def test_why_there_is_no_map_and_why_there_are_no_neighbours_is_told(
    tmp_path: Path, pixelbeam, photographs: Path, tiny_toml: str
) -> None:
    (tmp_path / "photos").mkdir()
    content = sorted(photographs.iterdir())[0].read_bytes()
    for number in range(5):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(content)
    arguments = ["--input", tmp_path / "photos", "--output", tmp_path / "out", "--variant", tiny_toml]
    assert pixelbeam("run", *arguments)[0] == 0
    said = article(page_of(tmp_path / "out"), "acme/tiny/classification/1")
    assert "These images are copies of one file, so there is no map" in said
    # What follows a picture's end is no part of it.
    for number in range(5):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(content + bytes(number))
    shutil.copy(sorted(photographs.iterdir())[1], tmp_path / "photos")
    assert pixelbeam("run", *arguments)[0] == 0
    said = article(page_of(tmp_path / "out"), "acme/tiny/classification/1")
    assert "Show all classes" in said or "Point at a dot to see its image" in said
    assert (
        "Most pairs of different images have features of the same direction, so there is no usual distance"
        in said
    )


def test_a_dataset_whose_name_is_not_utf8_has_a_page(out: Path, pixelbeam) -> None:
    odd = out.with_name(os.fsdecode(b"caf\xe9"))
    out.rename(odd)
    code, said, errors = pixelbeam("report", odd)
    assert (code, errors) == (0, "")
    assert said.startswith(f"{out.parent}/caf\\xe9/report.html: ")
    text = (odd / "report.html").read_text(encoding="utf-8")
    assert "<h1>caf\\xe9</h1>" in text


def test_images_in_a_container_have_pictures_and_kept_columns_are_named(
    tmp_path: Path, pixelbeam, photographs: Path, tiny_toml: str
) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for number, path in enumerate(sorted(photographs.iterdir())[:6]):
            (tmp_path / "label").write_text(str(number))
            tar.add(path, f"a/{number}.jpg")
            tar.add(tmp_path / "label", f"a/{number}.cls")
    arguments = ["--input", tmp_path / "shard.tar", "--output", tmp_path / "out", "--variant", tiny_toml]
    assert pixelbeam("run", *arguments, "--keep", "cls")[0] == 0
    text = page_of(tmp_path / "out")
    assert len(data(text)["pictures"]) == 6
    assert f'title="{tmp_path}/shard.tar::a/0.jpg"' in text
    assert "kept columns cls" in article(text, "acme/tiny/classification/1")


def test_of_a_larger_dataset_some_units_and_rows_are_looked_at(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "UNITS", 2)
    monkeypatch.setattr(sampling, "ROW_GROUPS", 1)
    monkeypatch.setattr(sampling, "ROWS", 4)
    monkeypatch.setattr(sampling, "FEATURE_ROWS", 3)
    text = page_of(out)
    said = article(text, BOTH)
    assert (
        "Counts and times are estimated from the footers of 2 of 4 units, chosen at random with seed 0"
        in said
    )
    assert "Everything else is of 4 of about " in said
    assert "from 1 of about 4 files, chosen at random with seed 0" in said
    assert re.search(r"Compared are [23] of 4 sampled images: equal files once\.", said)
    assert "in every sampled vector" in said
    specs = data(text)["charts"]
    titles = [
        specs[f"v0-{name}"]["encoding"][axis]["title"] for name, axis in (("classes", "x"), ("norms", "y"))
    ]
    assert titles == ["sampled images"] * 2
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

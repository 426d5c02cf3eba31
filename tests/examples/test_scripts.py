"""Each script of examples/, run as its docstring says, against the dataset read with pyarrow."""

from __future__ import annotations

import re
import runpy
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import dataset
from tests.examples.commands import run
from tests.examples.conftest import B3, B4, COPIES, EXAMPLES, FOLDERS, directory, pixelbeam


def folder_of(uri: str) -> str:
    return Path(uri).parent.name


def best(table: pa.Table) -> list[dict[str, Any]]:
    return [classes[0] for classes in table["top_classes"].to_pylist()]


def vectors(table: pa.Table, column: str = "features") -> npt.NDArray[np.float32]:
    return np.stack(table[column].to_numpy())


def cells(table: str, border: str) -> list[list[str]]:
    """The cells of the lines of a printed table."""
    lines = [line for line in table.splitlines() if line.startswith(border)]
    return [[cell.strip() for cell in re.split(r"[│┆|]", line)[1:-1]] for line in lines]


def by_folder(table: pa.Table) -> dict[tuple[str, int], list[float]]:
    """Probabilities of the best class, by folder and class."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for uri, top in zip(table["uri"].to_pylist(), best(table), strict=True):
        found[folder_of(uri), top["index"]].append(top["probability"])
    return found


def test_top_classes_by_folder(folder: Path, rows: dict[str, Any]) -> None:
    printed = cells(run(folder, "top_classes_by_folder.py"), "│")
    found = {(line[0], int(line[1])): (int(line[3]), float(line[4])) for line in printed if line[3].isdigit()}
    expected = by_folder(rows[B4])
    assert {key: count for key, (count, _) in found.items()} == {k: len(v) for k, v in expected.items()}
    assert all(abs(mean - np.mean(expected[key])) < 1e-4 for key, (_, mean) in found.items())
    assert sum(count for count, _ in found.values()) == rows[B4].num_rows


def test_least_certain(folder: Path, rows: dict[str, Any]) -> None:
    heading, *lines = run(folder, "least_certain.py", "--count", "40").splitlines()
    assert {line.index(str(folder)) for line in lines} == {heading.index("uri")}
    printed = [line.split() for line in lines]
    margins = {
        uri: (top[0]["probability"] - top[1]["probability"], str(top[0]["index"]), str(top[1]["index"]))
        for uri, top in zip(rows[B4]["uri"].to_pylist(), rows[B4]["top_classes"].to_pylist(), strict=True)
    }
    assert len(printed) == 40
    for (margin, first, second, uri), expected in zip(printed, sorted(margins.values())[:40], strict=True):
        assert abs(float(margin) - expected[0]) < 1e-4
        assert (first, second) == margins[uri][1:]


def test_class_statistics(folder: Path, rows: dict[str, Any]) -> None:
    table = run(folder, "class_statistics.py")
    printed = cells(table, "│")
    assert len(re.findall(r"\d [│┆]", table)) == 4 * (len(printed) - 1)
    found = [line for line in printed if line[0].isdigit()]
    expected: dict[int, list[float]] = defaultdict(list)
    for top in best(rows[B4]):
        expected[top["index"]].append(top["probability"])
    order = sorted(expected, key=lambda index: (-len(expected[index]), index))
    assert [(int(line[0]), int(line[2])) for line in found] == [(each, len(expected[each])) for each in order]
    for line in found:
        shares = expected[int(line[0])]
        np.testing.assert_allclose([float(x) for x in line[3:]], [np.mean(shares), min(shares)], atol=1e-4)


@pytest.mark.parametrize("kind", ["Flat", "IVF2,SQfp16"])
def test_nearest_neighbours(folder: Path, rows: dict[str, Any], kind: str) -> None:
    printed = run(folder, "nearest_neighbours.py", "--count", "5", "--index", kind).splitlines()
    found = {uri: float(cosine) for cosine, uri in (line.split() for line in printed)}
    uris, features = rows[B4]["uri"].to_pylist(), vectors(rows[B4])
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    start = str(folder / "photographs" / "coffee" / "00.jpg")
    cosines = dict(zip(uris, features @ features[uris.index(start)], strict=True))
    assert len(found) == 5
    assert {str(folder / "photographs" / copy) for copy in COPIES["coffee/00.jpg"]} <= set(found)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert all(abs(cosine - cosines[uri]) < 1e-3 for uri, cosine in found.items())
    if kind == "Flat":
        del cosines[start]
        np.testing.assert_allclose(list(found.values()), sorted(cosines.values())[:-6:-1], atol=1e-4)


@pytest.mark.full
def test_linear_probe(folder: Path) -> None:
    lines = run(folder, "linear_probe.py").splitlines()
    assert re.fullmatch(r"51 images, 1[0-6] of them held out; 3 labels", lines[0])
    usual, probe = (float(line.split(": accuracy ")[1]) for line in lines[1:])
    assert [line.split(":")[0] for line in lines[1:]] == ["most frequent label", "linear probe"]
    # Three photographs, with colours of their own, are told apart by four numbers; three equal folders are not guessed.
    assert usual < 0.5
    assert probe > 0.8


@pytest.mark.full
def test_a_linear_probe_of_a_kept_column(folder: Path) -> None:
    """Labels that have nothing to do with the image are not learnt: copies and scores do not leak."""
    uris = sorted((folder / "photographs").rglob("[0-9][0-9].jpg"))
    random = np.random.default_rng(0).permutation(["odd", "even"] * len(uris))
    lines = ["uri,animal", *(f"{uri},{label}" for uri, label in zip(uris, random, strict=False))]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    places = ["--input", folder / "labels.csv", "--output", folder / "kept", "--model-dir", folder / "models"]
    pixelbeam("run", *places, "--keep", "animal", "--variant", folder / B4 / "tiny.toml")
    printed = run(folder, "linear_probe.py", "--label", "animal", **{"dataset/": "kept/"})
    assert "; 2 labels" in printed
    assert float(printed.split()[-1]) < 0.8


@pytest.mark.full
def test_copies_of_an_image_are_held_out_together() -> None:
    """As many copies as there are, or else the probe would know what it is asked."""
    split = runpy.run_path(str(EXAMPLES / "linear_probe.py"))["split"]
    images = np.repeat(np.arange(40), 3)
    train, held_out = split(images % 2, images)
    assert len(held_out) == 30
    assert not set(images[train]) & set(images[held_out])


def test_duplicates(folder: Path, rows: dict[str, Any]) -> None:
    by_content: dict[str, list[str]] = defaultdict(list)
    for uri, sha256 in sorted(zip(*(rows[B4][name].to_pylist() for name in ("uri", "sha256")), strict=True)):
        by_content[sha256].append(uri)
    repeated = sorted(uris for uris in by_content.values() if len(uris) > 1)
    assert [len(uris) for uris in repeated] == [2, 3]
    size = sum(Path(uri).stat().st_size for uris in repeated for uri in uris[1:])
    expected = [line for first, *others in repeated for line in (first, *(f"    {uri}" for uri in others))]
    expected.append(f"files that repeat another one: 3, {size:,} bytes")
    assert run(folder, "duplicates.py").splitlines() == expected


def test_join_variants(folder: Path, rows: dict[str, Any]) -> None:
    printed = run(folder, "join_variants.py")
    agreed = sum(a["index"] == b["index"] for a, b in zip(best(rows[B4]), best(rows[B3]), strict=True))
    assert 0 < agreed < 51
    assert printed.splitlines() == ["images in both: 51", f"of the same class: {agreed}"]
    both = pq.read_table(folder / "both.parquet").sort_by("uri")
    assert both["uri"].to_pylist() == rows[B4]["uri"].to_pylist()
    expected = np.concatenate([vectors(rows[B4]), vectors(rows[B3])], axis=1)
    np.testing.assert_array_equal(vectors(both), expected)


def test_an_image_that_changed_is_not_joined(folder: Path, rows: dict[str, Any]) -> None:
    changed = folder / "changed" / directory(folder, B3).name
    changed.mkdir(parents=True)
    sha256 = rows[B3]["sha256"].to_pylist()
    sha256[0] = "0" * 64
    number = rows[B3].column_names.index("sha256")
    pq.write_table(rows[B3].set_column(number, "sha256", pa.array(sha256)), changed / "part.parquet")
    line = {"dataset/variant=tensorflow": "changed/variant=tensorflow"}
    assert run(folder, "join_variants.py", **line).startswith("images in both: 50\n")


@pytest.mark.full
def test_own_pipeline(folder: Path, rows: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    printed = run(folder, "own_pipeline.py", "2> errors.txt", **{f" dataset {B4}": f" mine {B4}/tiny.toml"})
    assert (folder / "errors.txt").read_text() == "52 images in 1 unit, 52 new\n"
    assert f"{B4}: 51 rows committed" in printed.splitlines()
    # It ends as a run does.
    assert "bottleneck" in printed
    mine = dataset.rows(folder / "mine" / directory(folder, B4).name)
    same = ["uri", "size", "version", "sha256", "width", "height", "orientation"]
    assert mine.select(same).equals(rows[B4].select(same))
    np.testing.assert_allclose(vectors(mine, "logits"), vectors(rows[B4], "logits"), rtol=1e-5, atol=1e-6)
    pixelbeam("verify", folder / "mine", "--deep")


def test_one_image(folder: Path, rows: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of the image's row, without Beam and without a word of TensorFlow."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    printed = run(folder, "one_image.py", "2> imports.txt", **{f" {B4}": f" {B4}/tiny.toml"}).splitlines()
    lines = (folder / "imports.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("import time:")] == []
    imported = {line.split()[-1] for line in lines}
    assert {"transforms.images", "transforms.modules", "tensorflow"} <= imported
    others = {name for name in imported if re.match(r"(apache_beam|pipelines)\b", name)}
    assert others == {"pipelines", "pipelines.quiet"}
    uris = rows[B4]["uri"].to_pylist()
    row = rows[B4].slice(uris.index(str(folder / "photographs/coffee/00.jpg")), 1)
    expected = [(f"class {top['index']}", top["probability"]) for top in row["top_classes"].to_pylist()[0]]
    found = [line.split(": ") for line in printed[:-1]]
    assert [name for name, _ in found] == [name for name, _ in expected]
    np.testing.assert_allclose([float(x) for _, x in found], [x for _, x in expected], atol=1e-5)
    assert printed[-1].startswith("4 features, length ")
    np.testing.assert_allclose(float(printed[-1].split()[-1]), np.linalg.norm(vectors(row)), rtol=1e-5)


@pytest.mark.full
def test_classes_with_spark(folder: Path, rows: dict[str, Any]) -> None:
    printed = cells(run(folder, "classes_with_spark.py"), "|")
    lines = [line for line in printed if len(line) == 4 and line[2].isdigit()]
    counts = {(line[0], int(line[1])): (int(line[2]), float(line[3])) for line in lines}
    expected = by_folder(rows[B4])
    assert {key: count for key, (count, _) in counts.items()} == {k: len(v) for k, v in expected.items()}
    assert all(abs(mean - np.mean(expected[key])) < 1e-4 for key, (_, mean) in counts.items())
    folders = np.array([folder_of(uri) for uri in rows[B4]["uri"].to_pylist()])
    lengths = np.linalg.norm(vectors(rows[B4]), axis=1)
    found = {line[0]: float(line[1]) for line in printed if len(line) == 2 and line[0] in FOLDERS}
    assert set(found) == set(FOLDERS)
    for name, length in found.items():
        np.testing.assert_allclose(length, lengths[folders == name].mean(), atol=1e-4)


def test_every_example_is_run_here_and_named() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert set(re.findall(r'run\(folder, "(\w+\.py)"', Path(__file__).read_text(encoding="utf-8"))) == scripts
    for document in (EXAMPLES / "README.md", EXAMPLES.parent / "README.md"):
        text = document.read_text(encoding="utf-8")
        assert [name for name in [*sorted(scripts), "bigquery.sql"] if f"{name}`" not in text] == []

"""Each script of examples/ told something wrong: one line says what, and there is no traceback."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.examples.commands import command, completed, run, typed
from tests.examples.conftest import B4, EXAMPLES, directory

HEAVY = ("linear_probe.py", "classes_with_spark.py")
OF_A_DATASET = (
    "top_classes_by_folder.py",
    "least_certain.py",
    "class_statistics.py",
    "nearest_neighbours.py",
    "join_variants.py",
    "duplicates.py",
)
OF_CLASSES = ("top_classes_by_folder.py", "least_certain.py", "class_statistics.py")


def complaint(folder: Path, line: str) -> str:
    """The last line on stderr of a command that fails with nothing on stdout; usage or Java may precede it."""
    done = completed(folder, line)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def make(folder: Path, table: pa.Table) -> str:
    """A variant's directory with one rows file, as the command line takes it."""
    path = folder / "made" / directory(folder, B4).name
    path.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path / "part.parquet")
    return f"made/{path.name}"


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_what_is_not_installed_is_named(folder: Path, script: str) -> None:
    install = typed(script)[0]
    # -S: a Python without any package.
    line = complaint(folder, command(script).replace("python ", "python -S ", 1))
    assert re.fullmatch(rf"No module named '\w+': {install}", line)


@pytest.mark.parametrize(
    "script", [*OF_A_DATASET, *(pytest.param(each, marks=pytest.mark.full) for each in HEAVY)]
)
def test_a_directory_that_is_not_there_is_named(folder: Path, script: str) -> None:
    error = complaint(folder, command(script).replace("dataset/", "datasets/"))
    assert "datasets/variant=" in error
    assert re.search("no (such |classifier's )?rows|does not exist", error)


@pytest.mark.parametrize("script", OF_CLASSES)
def test_a_variant_without_classes_is_told(folder: Path, rows: dict[str, Any], script: str) -> None:
    made = make(folder, rows[B4].drop_columns(["top_classes"]))
    error = complaint(folder, f"python examples/{script} {made}")
    assert f"no classifier's rows in {made}: " in error
    assert "top_classes" in error


@pytest.mark.parametrize(
    "cut",
    [
        lambda table: table.slice(0, 0),
        lambda table: table.set_column(
            table.column_names.index("top_classes"),
            "top_classes",
            pa.array(
                [classes[:1] for classes in table["top_classes"].to_pylist()], table["top_classes"].type
            ),
        ),
    ],
    ids=["no rows", "one class"],
)
def test_nothing_is_uncertain_without_a_second_class(
    folder: Path, rows: dict[str, Any], cut: Callable[[pa.Table], pa.Table]
) -> None:
    made = make(folder, cut(rows[B4]))
    error = complaint(folder, f"python examples/least_certain.py {made}")
    assert error == f"{made}: no image with a best and a second class"


def test_an_image_may_be_named_by_the_end_of_its_uri(folder: Path) -> None:
    image = "photographs/coffee/98.jpg"
    found = {
        name: run(folder, "nearest_neighbours.py", **{"photographs/coffee/00.jpg": name})
        for name in (str(folder / image), f"./{image}", "98.jpg")
    }
    assert len(set(found.values())) == 1
    assert image not in found["98.jpg"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("coffee/000-text.jpg", "has no row of coffee/000-text.jpg"),
        ("8.jpg", "has no row of 8.jpg"),
        ("07.jpg", "3 rows end in 07.jpg: /.*/07.jpg, /.*/07.jpg, /.*/07.jpg"),
    ],
)
def test_a_name_that_is_not_of_one_image_is_told(folder: Path, name: str, words: str) -> None:
    line = command("nearest_neighbours.py").replace("photographs/coffee/00.jpg", name)
    assert re.search(f"error: .*{words}$", complaint(folder, line))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("/a/x.jpg", ["/a/x.jpg"]),
        ("a/x.jpg", ["/a/x.jpg", "/b/a/x.jpg"]),
        ("../b/a/x.jpg", ["/b/a/x.jpg"]),
        ("y.jpg", ["gs://bucket/c.tar::y.jpg"]),
        ("(1) +ü.jpg", ["/d/(1) +ü.jpg"]),
        ("z-1.jpg", []),
    ],
)
def test_a_uri_goes_before_the_end_of_others(name: str, found: list[str]) -> None:
    uris = ["/a/x.jpg", "/b/a/x.jpg", "gs://bucket/c.tar::y.jpg", "/d/(1) +ü.jpg", "/d/z.1.jpg"]
    rows = ds.dataset(pa.table({"uri": uris, "features": [[0.0]] * len(uris)}))
    ending_in = runpy.run_path(str(EXAMPLES / "nearest_neighbours.py"))["ending_in"]
    assert ending_in(name, rows)["uri"].to_pylist() == found


@pytest.mark.full
@pytest.mark.parametrize(
    ("replaced", "error"),
    [
        (
            {"coffee/00.jpg": "coffee/0.jpg"},
            "[Errno 2] No such file or directory: 'photographs/coffee/0.jpg'",
        ),
        ({B4: "google/b4"}, "no variant is called 'google/b4'; `pixelbeam variants` lists them"),
    ],
    ids=["image", "variant"],
)
def test_what_one_image_cannot_find_is_told(folder: Path, replaced: dict[str, str], error: str) -> None:
    line = command("one_image.py")
    for old, new in replaced.items():
        line = line.replace(old, new)
    assert complaint(folder, line) == error


@pytest.mark.full
def test_what_an_own_pipeline_cannot_find_is_told(folder: Path) -> None:
    line = command("own_pipeline.py").replace(" photographs ", " photos ").replace(B4, f"{B4}/tiny.toml")
    assert complaint(folder, line) == "no such file or directory: 'photos'; check --input"

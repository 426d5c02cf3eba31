"""The documents of `--json`: what docs/json.md says of them, and that stdout holds nothing else."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import bad

PAGE = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")
BY_NAME = {"failures_by", "work"}
"""Objects whose keys are no fields."""


def fields_in_page(command: str) -> set[str]:
    """The fields of a document, as its table has them."""
    section = PAGE.split(f"## `pixelbeam {command}")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def fields_of(document: object, name: str = "") -> Iterator[str]:
    """Paths of all that a document holds."""
    if isinstance(document, dict):
        for key, value in document.items():
            part = "NAME" if name.rpartition(".")[2] in BY_NAME else key
            yield from fields_of(value, f"{name}.{part}" if name else part)
    elif isinstance(document, list):
        yield f"{name}[]"
        for value in document:
            yield from fields_of(value, f"{name}[]")
    else:
        yield name


def leaves(names: set[str]) -> set[str]:
    """Those that hold no others."""
    return {name for name in names if not any(other.startswith((f"{name}.", f"{name}[")) for other in names)}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Path:
    """Photographs, a text named .jpg and a text."""
    folder = tmp_path_factory.mktemp("images") / "images"
    shutil.copytree(photographs, folder)
    bad.write(folder, "text.jpg", 0)
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def documents(images: Path, tiny_toml: str, models: str, tmp_path: Path, pixelbeam) -> dict[str, Any]:
    """What each command prints: of a listing from which images went, and of an output that lacks a file."""
    out = tmp_path / "out"
    scored = ("--variant", tiny_toml, "--model-dir", models)
    photo = shutil.copy(images / "photo-00001.jpg", tmp_path / "gone.jpg")
    found: dict[str, Any] = {}

    def tell(command: str, *words: object) -> int:
        code, output, _ = pixelbeam(command, *words, "--json")
        found[command] = json.loads(output)
        return code

    listed = ("--output", out, "--images-per-unit", 10)
    assert pixelbeam("index", "--input", photo, *listed)[0] == 0
    assert tell("plan", "--input", images, *listed, *scored, "--hourly-price", "cpu=0.4") == 0
    assert tell("index", "--input", images, *listed) == 0
    assert pixelbeam("run", "--input", images, *listed, *scored)[0] == 0
    assert tell("verify", out) == 0
    found["whole"] = found["verify"]
    (rows, *_) = sorted((out / "variant=acme-tiny-classification-1").glob("*.parquet"))
    (out / "_failures" / rows.parent.name / "part-000002-aaaaaaaaaaaa-bbbbbbbb.parquet").touch()
    rows.unlink()
    assert tell("verify", out) == 1
    assert tell("variants") == 0
    return found


def test_the_page_has_the_fields_of_each_document(documents: dict[str, Any]) -> None:
    for command in ("verify", "index", "plan", "variants"):
        is_there = {name.removeprefix(".") for name in fields_of(documents[command])}
        in_page = fields_in_page(command)
        if command == "plan":
            in_page |= {name for name in fields_in_page("index") if name.startswith("changes.")}
        assert leaves(is_there) == leaves(in_page), command


def test_verify_counts_rows_failures_and_what_is_wrong(documents: dict[str, Any]) -> None:
    whole, broken = documents["whole"], documents["verify"]
    assert (whole["images"], whole["units"], whole["deep"], whole["wrong"]) == (26, 4, False, [])
    (variant,) = whole["variants"]
    assert (variant["rows"], variant["failures"]) == (25, 1)
    assert variant["failures_by"] == {"decode: not_an_image": 1}
    assert (variant["variant"], variant["random_weights"]) == ("acme/tiny/classification/1", False)
    assert variant["rubbish"] == []
    assert [each["what"] for each in broken["wrong"]] == [
        "1 of 4 units not done; run the same `pixelbeam run` again"
    ]
    assert len(broken["variants"][0]["rubbish"]) == 1


def test_index_and_plan_tell_what_changed(documents: dict[str, Any]) -> None:
    for document in (documents["index"], documents["plan"]):
        changes = document["changes"]
        assert (document["images"], document["units"]) == (26, 4)
        assert (changes["new"], changes["changed"], changes["gone"]) == (25, 0, 1)
        assert [Path(uri).name for uri in changes["first_gone"]] == ["gone.jpg"]
    assert documents["index"]["ignored"] == 1
    assert Path(documents["index"]["index"]).is_dir()
    assert documents["plan"]["work"]["acme/tiny/classification/1"]["images"] == 26


def test_where_nothing_can_be_told_stdout_is_empty(tmp_path: Path, pixelbeam) -> None:
    code, output, errors = pixelbeam("verify", tmp_path, "--json")
    assert (code, output) == (2, "")
    assert errors.startswith("pixelbeam: ")


def test_failures_of_rounds_are_counted_once(images: Path, tiny_toml: str, tmp_path: Path, pixelbeam) -> None:
    out = tmp_path / "out"
    words = ("--input", images, "--output", out, "--variant", tiny_toml)
    assert pixelbeam("run", *words)[0] == 0
    assert pixelbeam("run", *words, "--retry-failures")[0] == 0
    code, output, _ = pixelbeam("verify", out, "--json")
    (variant,) = json.loads(output)["variants"]
    assert (code, variant["rows"], variant["failures"]) == (0, 24, 1)

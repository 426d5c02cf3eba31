"""Directories that a command is given: what cannot be meant is one line that says what is there and what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.directories import open_dataset, variants_of
from tests.gcs_server import GcsServer
from transforms.errors import UsageError

READERS = ("verify", "watch", "report")


def refused(pixelbeam: Callable[..., Any], *arguments: object) -> str:
    """What a command says that is refused: one line, exit code 2."""
    code, said, errors = pixelbeam(*arguments)
    assert (code, said, errors.count("\n")) == (2, "", 1), errors
    return str(errors).removeprefix("pixelbeam: ").rstrip("\n")


@pytest.fixture
def listed(pixelbeam, photographs: Path, tmp_path: Path) -> Path:
    """A dataset of which only the index was made, with a file and a variant's directory."""
    out = tmp_path / "out"
    assert pixelbeam("index", "--input", photographs, "--output", out)[0] == 0
    (out / "variant=acme-tiny").mkdir()
    (out / "report.html").write_text("")
    return out


@pytest.mark.parametrize("command", READERS)
def test_what_is_no_dataset_is_told_apart(command: str, pixelbeam, tmp_path: Path) -> None:
    file, empty = tmp_path / "file", tmp_path / "empty"
    file.write_text("")
    empty.mkdir()
    advice = "give the --output of `pixelbeam run`"
    assert refused(pixelbeam, command, file) == f"{file} is a file; {advice}"
    assert refused(pixelbeam, command, file / "x") == f"{file}/x is not there; {advice}"
    assert refused(pixelbeam, command, tmp_path / "none") == f"{tmp_path}/none is not there; {advice}"
    assert (
        refused(pixelbeam, command, empty) == f"{empty} holds no dataset (no _index/CURRENT.json); {advice}"
    )
    assert os.listdir(empty) == []


@pytest.mark.parametrize("command", READERS)
def test_the_dataset_around_is_named(command: str, pixelbeam, listed: Path) -> None:
    inside = listed / "variant=acme-tiny"
    expected = f"{inside} holds no dataset (no _index/CURRENT.json); did you mean {listed}?"
    assert refused(pixelbeam, command, inside) == expected
    page = listed / "report.html"
    assert refused(pixelbeam, command, page) == f"{page} is a file; did you mean {listed}?"


def test_the_dataset_around_is_named_in_a_bucket(gcs: GcsServer, pixelbeam, photographs: Path) -> None:
    assert pixelbeam("index", "--input", photographs, "--output", "gs://out")[0] == 0
    with pytest.raises(UsageError, match=r"holds no dataset .*; did you mean gs://out\?$"):
        open_dataset("gs://out/variant=acme-tiny/x")
    with pytest.raises(UsageError, match=r"gs://in holds no dataset .*; give the --output of"):
        open_dataset("gs://in")


@pytest.mark.parametrize("command", ["verify", "report"])
def test_an_index_alone_is_no_dataset_yet(command: str, pixelbeam, listed: Path) -> None:
    (listed / "variant=acme-tiny").rmdir()
    expected = f"{listed} holds an index only; let `pixelbeam run --output {listed}` begin first"
    assert refused(pixelbeam, command, listed) == expected


def test_there_is_nothing_to_watch_of_an_index(pixelbeam, listed: Path) -> None:
    assert refused(pixelbeam, "watch", listed).startswith(
        f"no run was begun on {listed}, it was only listed; "
    )


def test_variants_are_those_that_are_there_and_those_that_were_asked_for(listed: Path) -> None:
    (listed / "_runs").mkdir()
    record = '{"variants": [{"directory": "acme-other"}, {"directory": "acme-tiny"}]}'
    (listed / "_runs" / "2026-01-01T00-00-00Z.json").write_text(record)
    assert variants_of(str(listed)) == ["acme-other", "acme-tiny"]


@pytest.mark.parametrize("command", ["run", "index", "plan"])
def test_an_output_that_cannot_be_is_refused(
    command: str,
    pixelbeam,
    photographs: Path,
    tmp_path: Path,
    tiny_toml: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    variant = [] if command == "index" else ["--variant", tiny_toml]
    for output, expected in (
        ("file", f"--output file: {tmp_path}/file is a file; give a directory"),
        ("file/a/b", f"--output file/a/b: {tmp_path}/file is a file; give a directory"),
        ("", "--output must be a directory or a URL, got ''"),
        ("caf\udce9", "--output 'caf\\udce9' is not UTF-8, and Arrow opens no other; give another name"),
        ("gs://", "--output gs:// names no bucket; give one, such as gs://BUCKET/FOLDER"),
        (
            f"{photographs}/",
            f"--output {photographs}/ is an --input too; give the dataset a directory of its own",
        ),
    ):
        assert refused(pixelbeam, command, "--input", photographs, "--output", output, *variant) == expected


@pytest.mark.parametrize("command", ["run", "pull", "plan"])
def test_modules_are_not_kept_in_a_file(
    command: str, pixelbeam, photographs: Path, tmp_path: Path, tiny_toml: str
) -> None:
    (tmp_path / "file").write_text("")
    images = [] if command == "pull" else ["--input", photographs, "--output", tmp_path / "out"]
    for models, expected in (
        (tmp_path / "file", f"--model-dir {tmp_path}/file: {tmp_path}/file is a file; give a directory"),
        (
            tmp_path / "file" / "x",
            f"--model-dir {tmp_path}/file/x: {tmp_path}/file is a file; give a directory",
        ),
    ):
        arguments = ["--variant", tiny_toml, "--model-dir", models]
        assert refused(pixelbeam, command, *images, *arguments) == expected
    assert not (tmp_path / "out").exists()

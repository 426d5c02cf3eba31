"""A folder of photographs, and runs over it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import bad


@pytest.fixture
def folder(tmp_path: Path, photographs: Path) -> Path:
    """24 photographs, a text and a cut one."""
    folder = tmp_path / "photos"
    shutil.copytree(photographs, folder)
    bad.write(folder, "text.jpg", 0)
    bad.write(folder, "cut.jpg", 1)
    return folder


@pytest.fixture
def run(pixelbeam, folder: Path, tmp_path: Path, tiny_toml: str):
    """Runs the tiny variant over the folder into `out`; options may be added."""

    def run(
        *options: object, inputs: tuple[object, ...] = (folder,), variants: tuple[str, ...] = (tiny_toml,)
    ):
        arguments = ["run", "--input", *inputs, "--output", tmp_path / "out", "--variant", *variants]
        return pixelbeam(*arguments, "--images-per-unit", 10, "--batch-size", 4, *options)

    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"

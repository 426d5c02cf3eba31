"""A place like that in which the examples' docstrings are typed, with a dataset made by the real pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines import cli
from tests import bad, dataset, photos, tiny

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
B4 = "google/efficientnet/b4/classification/1"
B3 = "tensorflow/efficientnet/b3/classification/1"
FOLDERS = {"chelsea": 1, "coffee": 2, "retina": 5}
"""Folders of photographs, each of pieces of one."""
EACH = 16
COPIES = {"coffee/00.jpg": ["coffee/98.jpg", "coffee/99.jpg"], "chelsea/03.jpg": ["chelsea/99.jpg"]}


def write_photographs(folder: Path) -> None:
    """Three folders of pieces of one photograph each, copies of some, and a text."""
    random = np.random.default_rng(0)
    for name, number in FOLDERS.items():
        whole = Image.fromarray(photos.photographs()[number])
        (folder / name).mkdir(parents=True)
        for piece in range(EACH):
            left, top = (int(random.integers(0, side // 2)) for side in whole.size)
            box = (left, top, left + whole.width // 2, top + whole.height // 2)
            content = photos.encode(whole.resize((120, 90), box=box), "JPEG")
            (folder / name / f"{piece:02d}.jpg").write_bytes(content)
    for original, copies in COPIES.items():
        for copy in copies:
            shutil.copy(folder / original, folder / copy)
    bad.write(folder / "coffee", "text.jpg", 0)


def pixelbeam(*arguments: object) -> None:
    assert cli.main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with examples/, photographs/, models/ and a dataset of two variants, of which one unit has two rounds.

    The modules are tiny ones; the variants have the names that the docstrings use.
    """
    folder = tmp_path_factory.mktemp("place")
    (folder / "examples").symlink_to(EXAMPLES)
    write_photographs(folder / "photographs")
    options = ["--model-dir", folder / "models", "--images-per-unit", 16, "--variant"]
    for seed, name in enumerate((B4, B3)):
        (folder / name).mkdir(parents=True)
        options.append(tiny.write_variant(str(folder / name), seed, name=name))
        (folder / "models" / name.replace("/", "-")).mkdir(parents=True)
        shutil.copytree(
            folder / name / "module", folder / "models" / name.replace("/", "-"), dirs_exist_ok=True
        )
    places = ["--input", folder / "photographs", "--output", folder / "dataset"]
    # One image is away while it is to be read, and comes back.
    pixelbeam("index", *places, "--images-per-unit", 16)
    image = folder / "photographs" / "retina" / "07.jpg"
    image.rename(folder / "07.jpg")
    pixelbeam("run", *places, *options)
    (folder / "07.jpg").rename(image)
    pixelbeam("run", *places, "--retry-failures", *options)
    return folder


@pytest.fixture(scope="session")
def rows(folder: Path) -> dict[str, Any]:
    """The rows of each variant, by its name."""
    tables = {name: dataset.rows(directory(folder, name)) for name in (B4, B3)}
    for name, table in tables.items():
        assert table.num_rows == len(FOLDERS) * EACH + 3
        assert len(list(directory(folder, name).glob("*.r1.parquet"))) == 1
    return tables


def directory(folder: Path, name: str) -> Path:
    return folder / "dataset" / f"variant={name.replace('/', '-')}"

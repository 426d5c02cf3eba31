"""A bucket for modules, and the commands that use it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import model_dir
from tests import tiny
from tests.gcs_server import GcsServer
from tests.model_bucket.kept import LABELS, MODELS
from transforms import runtime


@pytest.fixture
def bucket(gcs: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GcsServer:
    """The server with a bucket `models`, and a machine and a process that have had no model yet."""
    gcs.create_bucket("models")
    gcs.put("models", LABELS, "".join(f"class {number}\n" for number in range(tiny.CLASSES)).encode())
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(runtime, "_cache", {})
    monkeypatch.setattr(model_dir, "IMAGENET_WIDTHS", (tiny.CLASSES,))
    monkeypatch.setattr("transforms.patience.LONGEST_WAIT_SECONDS", 0.05)
    return gcs


@pytest.fixture
def run(pixelbeam, photographs: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs a variant over the photographs."""

    def run(toml: object, models: object = MODELS, output: str = "out") -> tuple[int, str, str]:
        options = ["--output", tmp_path / output, "--variant", toml, "--model-dir", models]
        return pixelbeam("run", "--input", photographs, *options)

    return run


@pytest.fixture
def pulled(bucket: GcsServer, pixelbeam, tiny_toml: str) -> GcsServer:
    """The server with the tiny module kept in the bucket; what was asked for that is not counted."""
    assert pixelbeam("pull", "--variant", tiny_toml, "--model-dir", MODELS)[0] == 0
    bucket.reset_counts()
    return bucket


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A TOML file of a tiny module that a test may change."""
    (tmp_path / "own").mkdir()
    return tiny.write_variant(str(tmp_path / "own"))

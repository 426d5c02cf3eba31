"""What a bucket of modules holds, and what is said where it lacks something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.gcs_server import GcsServer
from transforms import runtime
from transforms.variants import find

MODELS = "gs://models/kept"
NAME = "acme-tiny-classification-1"
DESCRIPTION = f"kept/{NAME}.json"
LABELS = "kept/ImageNetLabels.txt"
UPLOADS = {"upload", "upload_start", "upload_chunk"}
FILES = {
    *("fingerprint.pb", "keras_metadata.pb", "saved_model.pb"),
    *("variables/variables.data-00000-of-00001", "variables/variables.index"),
}
NOWHERE = "http://127.0.0.1:9/acme/tiny/classification/1"


def description(gcs: GcsServer) -> dict[str, object]:
    return json.loads(gcs.get("models", DESCRIPTION))


def graph(gcs: GcsServer) -> str:
    """Name of the object that is the graph of the description."""
    return f"kept/{description(gcs)['graph']}"


def change_description(gcs: GcsServer, **fields: object) -> None:
    gcs.put("models", DESCRIPTION, json.dumps(description(gcs) | fields).encode())


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_cache", {})


def assert_refused(answer: tuple[int, str, str], lack: str, toml: str, tmp_path: Path) -> None:
    """The run says in one line what is wrong and how to pull, and has written nothing."""
    name = find(toml).name
    line = f"pixelbeam: {name} cannot be taken from {MODELS}: {lack}; "
    assert answer == (1, "", f"{line}run pixelbeam pull --variant {toml} --model-dir {MODELS}\n")
    assert not (tmp_path / "out").exists()

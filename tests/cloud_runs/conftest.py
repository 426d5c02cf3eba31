"""What the runs from bucket to bucket need: photographs in gs://in/photos, and the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cloud import IN, OPTIONS, OUT
from tests.gcs_server import GcsServer


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.patience.LONGEST_WAIT_SECONDS", 0.1)


@pytest.fixture
def run(pixelbeam, tiny_toml: str):
    """Runs the tiny variant from bucket to bucket; options may be added."""

    def run(
        *options: object, source: object = IN, output: object = OUT, variants: tuple[str, ...] = (tiny_toml,)
    ) -> tuple[int, str, str]:
        arguments = ["run", "--input", source, "--output", output, "--variant", *variants]
        return pixelbeam(*arguments, *OPTIONS, *options)

    return run


@pytest.fixture
def fill(gcs: GcsServer, photographs: Path):
    """Stores so many photographs in gs://in/photos, and among them other contents by name."""

    def fill(count: int, others: dict[str, bytes] | None = None) -> None:
        good = [path.read_bytes() for path in sorted(photographs.iterdir())]
        gcs.fill("in", "photos/{:04d}.jpg", count, good)
        for number, (name, content) in enumerate((others or {}).items()):
            gcs.put("in", f"photos/{number * count // len(others):04d}-{name}", content)

    return fill


@pytest.fixture
def command(models: str, tiny_toml: str) -> Callable[..., list[object]]:
    """The words of a run for a process of its own."""

    def command(source: object = IN, output: object = OUT) -> list[object]:
        arguments = ["run", "--input", source, "--output", output, "--variant", tiny_toml]
        return [*arguments, "--model-dir", models, *OPTIONS]

    return command

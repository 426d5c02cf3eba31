"""Killed at any moment and run again: the same rows, nothing twice, nothing astray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import bad, dataset, photos

UNITS = 8
IMAGES_PER_UNIT = 25


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs large enough for a unit to take a while, and some bad images in every other unit."""
    folder = tmp_path_factory.mktemp("photos")
    photos.write_photographs(folder, UNITS * IMAGES_PER_UNIT - 8, size=(1000, 750))
    for number in range(8):
        bad.write(folder, "cut.jpg", number * 50)
    return folder


def command(folder: Path, out: Path, models: str, tiny_toml: str) -> list[str]:
    options = ["--images-per-unit", IMAGES_PER_UNIT, "--batch-size", 4, "--model-dir", models]
    arguments = ["run", "--input", folder, "--output", out, "--variant", tiny_toml, *options]
    return [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]


@pytest.fixture(scope="module")
def undisturbed(folder: Path, models: str, tiny_toml: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of a run that nobody killed."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    subprocess.run(command(folder, out, models, tiny_toml), check=True, capture_output=True)
    return out


def kill_when(arguments: list[str], scratch: Path, moment: Callable[[], bool]) -> None:
    """SIGKILL a command once something is seen from outside; it must not have ended by then."""
    scratch.mkdir(exist_ok=True)
    process = subprocess.Popen(
        arguments,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not moment():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def rows_files(out: Path) -> list[Path]:
    return list(out.glob("variant=*/part-*.parquet"))


def committed_at_least(out: Path, count: int) -> Callable[[], bool]:
    return lambda: len(rows_files(out)) >= count


@pytest.mark.full
@pytest.mark.parametrize("committed", [1, 3, 5])
def test_killed_when_a_rows_file_appears(
    folder: Path, models: str, tiny_toml: str, undisturbed: Path, tmp_path: Path, committed: int
) -> None:
    arguments = command(folder, tmp_path / "out", models, tiny_toml)
    kill_when(arguments, tmp_path / "scratch", committed_at_least(tmp_path / "out", committed))
    done = {path: path.stat().st_mtime_ns for path in rows_files(tmp_path / "out")}
    assert committed <= len(done) < UNITS
    subprocess.run(arguments, check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    dataset.assert_equal(tmp_path / "out", undisturbed)


@pytest.mark.full
def test_killed_in_the_middle_of_a_unit(
    folder: Path, models: str, tiny_toml: str, undisturbed: Path, tmp_path: Path
) -> None:
    arguments = command(folder, tmp_path / "out", models, tiny_toml)
    kill_when(
        arguments, tmp_path / "scratch", lambda: any((tmp_path / "scratch").glob("pixelbeam-*/rows.parquet"))
    )
    assert rows_files(tmp_path / "out") == []
    subprocess.run(arguments, check=True, capture_output=True)
    dataset.assert_equal(tmp_path / "out", undisturbed)


@pytest.mark.full
def test_killed_again_and_again(
    folder: Path, models: str, tiny_toml: str, undisturbed: Path, tmp_path: Path
) -> None:
    arguments = command(folder, tmp_path / "out", models, tiny_toml)
    for committed in (2, 4, 6):
        kill_when(arguments, tmp_path / "scratch", committed_at_least(tmp_path / "out", committed))
    subprocess.run(arguments, check=True, capture_output=True)
    dataset.assert_equal(tmp_path / "out", undisturbed)

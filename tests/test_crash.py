"""What no exception can catch, from the command line: the process that dies, the run that finds the guilty image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.commands import verify
from tests import dataset
from tests import touchy_modules as touchy

SECONDS_A_CALL = 3


def pixelbeam(*arguments: object) -> tuple[int, str]:
    """The command in a process of its own, as it is installed, but with little patience: exit code and stderr."""
    code = (
        "import sys; from functools import partial\n"
        "from pipelines import cli; from transforms import prepare, runtime\n"
        f"prepare.one_at_a_time = partial(prepare.one_at_a_time, image_seconds={SECONDS_A_CALL})\n"
        f"runtime.CALL_SECONDS = {SECONDS_A_CALL}\n"
        "sys.exit(cli.console())"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("colour", "last_words", "reason"),
    [
        pytest.param(touchy.ABORTS, "the process died (SIGABRT)", "SIGABRT", id="aborts"),
        pytest.param(touchy.HANGS, "did not come back", "did not end", id="hangs", marks=pytest.mark.full),
    ],
)
def test_the_image_that_ends_the_process_is_a_failure_of_the_third_run(
    tmp_path: Path, colour: tuple[int, int, int], last_words: str, reason: str
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(11):
        colour_here = colour if number == 7 else (40, 40, 60 + 10 * number)
        (photos / f"{number:02d}.jpg").write_bytes(touchy.image(colour_here))
    arguments = ["run", "--input", photos, "--output", tmp_path / "out", "--model-dir", tmp_path / "models"]
    arguments += ["--variant", touchy.variant_toml(tmp_path), "--images-per-unit", 4, "--batch-size", 2]
    for _ in range(2):
        code, errors = pixelbeam(*arguments)
        assert code == 1
        assert last_words in errors
        assert errors.splitlines()[-1].startswith("pixelbeam: ")
        assert "run the same command again" in errors.splitlines()[-1]
    code, errors = pixelbeam(*arguments)
    assert (code, (tmp_path / "out" / "_attempts").exists()) == (0, False), errors
    dataset.assert_conserved(tmp_path / "out")
    (directory,) = dataset.variants(tmp_path / "out")
    (failure,) = dataset.failures(directory)
    assert (failure["uri"], failure["step"], failure["error"]) == (
        str(photos / "07.jpg"),
        "infer",
        "worker_died",
    )
    assert reason in failure["message"]
    assert verify.main(str(tmp_path / "out"), deep=True) == 0

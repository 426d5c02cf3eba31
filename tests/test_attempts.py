"""Markers of attempts: whoever left them they count, until their run ends in order or all is done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from transforms import attempts

RUN, LATER_RUN = "2026-11-21T05-12-09Z", "2026-11-21T06-00-00Z"


def test_a_unit_without_attempts_has_none(tmp_path: Path) -> None:
    assert attempts.count(str(tmp_path / "out"), 3) == 0


def test_a_marker_is_named_after_its_unit_and_run(tmp_path: Path) -> None:
    attempts.begin(str(tmp_path), RUN, 17)
    (marker,) = (tmp_path / "_attempts").iterdir()
    unit, run_id, mine = marker.name.split(".")
    assert (unit, run_id, len(mine)) == ("part-000017", RUN, 8)


def test_attempts_of_all_runs_count_for_their_unit(tmp_path: Path) -> None:
    for run_id, unit in ((RUN, 1), (RUN, 1), (LATER_RUN, 1), (RUN, 11), (RUN, 1_000_001)):
        attempts.begin(str(tmp_path), run_id, unit)
    assert [attempts.count(str(tmp_path), unit) for unit in (1, 11, 1_000_001, 0)] == [3, 1, 1, 0]


def test_the_marker_of_a_process_that_died_stays(tmp_path: Path) -> None:
    die = (
        "import os, signal, sys; from transforms import attempts; "
        f"attempts.begin(sys.argv[1], {RUN!r}, 2); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", die, str(tmp_path)], check=False).returncode == -9
    assert attempts.count(str(tmp_path), 2) == 1


def test_the_end_of_an_attempt_removes_its_marker_alone(tmp_path: Path) -> None:
    mine, _ = (attempts.begin(str(tmp_path), RUN, 5) for _ in range(2))
    attempts.end(mine)
    attempts.end(mine)
    assert attempts.count(str(tmp_path), 5) == 1
    assert not Path(mine).exists()


def test_an_orderly_end_forgets_only_its_own_run(tmp_path: Path) -> None:
    for run_id, unit in ((RUN, 1), (RUN, 2), (LATER_RUN, 1)):
        attempts.begin(str(tmp_path), run_id, unit)
    attempts.forget(str(tmp_path), RUN)
    attempts.forget(str(tmp_path), RUN)
    assert [attempts.count(str(tmp_path), unit) for unit in (1, 2)] == [1, 0]


def test_a_complete_run_leaves_nothing(tmp_path: Path) -> None:
    attempts.sweep(str(tmp_path))
    attempts.begin(str(tmp_path), RUN, 1)
    attempts.sweep(str(tmp_path))
    assert list(tmp_path.iterdir()) == []

"""`pixelbeam plan`: what a run would do, and that nothing is done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests import photos


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    photos.write_photographs(tmp_path / "photos", 10, size=(60, 40))
    return tmp_path / "photos"


@pytest.fixture
def plan(pixelbeam, tmp_path: Path, tiny_toml: str):
    """What a plan for the tiny variant says."""

    def plan(*arguments: object) -> dict:
        code, printed, _ = pixelbeam(
            "plan", "--output", tmp_path / "out", "--variant", tiny_toml, "--json", *arguments
        )
        assert code == 0
        return json.loads(printed)

    return plan


@pytest.fixture
def run(pixelbeam, tmp_path: Path, tiny_toml: str):
    def run(*arguments: object) -> None:
        assert pixelbeam("run", "--output", tmp_path / "out", "--variant", tiny_toml, *arguments)[0] == 0

    return run


TINY = "acme/tiny/classification/1"


def test_before_the_first_run_everything_is_to_do_and_nothing_is_written(
    plan, folder: Path, tmp_path: Path
) -> None:
    said = plan("--input", folder, "--images-per-unit", 4)
    assert (said["images"], said["units"]) == (10, 3)
    assert said["changes"] == {"new": 10, "changed": 0, "duplicates": 0, "gone": 0, "first_gone": []}
    assert said["variants"] == {TINY: {"units": 3, "images": 10, "is_pulled": True}}
    assert not (tmp_path / "out").exists()


def test_a_trial_is_planned_as_it_is_run(plan, folder: Path) -> None:
    said = plan("--input", folder, "--images-per-unit", 4, "--limit", 5)
    assert (said["images"], said["units"], said["changes"]["new"]) == (5, 2, 5)


def test_new_changed_and_deleted_images_are_told(plan, run, folder: Path, tmp_path: Path) -> None:
    run("--input", folder, "--images-per-unit", 4)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    first, second, third, *_ = sorted(folder.iterdir())
    shutil.copy(second, folder / "z.jpg")
    shutil.copy(third, second)
    first.unlink()
    said = plan("--input", folder, folder / "z.jpg", "--images-per-unit", 4)
    assert said["changes"] == {
        "new": 1,
        "changed": 1,
        "duplicates": 1,
        "gone": 1,
        "first_gone": [str(first)],
    }
    # The unit of four with the changed image, and a new one; what is gone stays in the index.
    assert (said["images"], said["units"]) == (11, 4)
    assert said["variants"][TINY] == {"units": 2, "images": 5, "is_pulled": True}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_without_inputs_the_index_is_taken_as_it_is(
    plan, run, pixelbeam, folder: Path, tmp_path: Path
) -> None:
    assert pixelbeam("index", "--input", folder, "--output", tmp_path / "out", "--images-per-unit", 4)[0] == 0
    said = plan()
    assert (said["images"], said["units"], said["changes"]) == (10, 3, None)
    assert said["variants"][TINY]["units"] == 3
    run("--input", folder)
    assert plan()["variants"][TINY] == {"units": 0, "images": 0, "is_pulled": True}
    assert plan("--precision", "fast")["variants"][TINY]["units"] == 3


def test_without_inputs_and_index_is_one_line(pixelbeam, tmp_path: Path, tiny_toml: str) -> None:
    code, _, error = pixelbeam("plan", "--output", tmp_path / "out", "--variant", tiny_toml)
    assert code == 2
    assert error.splitlines() == [
        f"pixelbeam: {tmp_path / 'out'} holds no index; name the images with --input"
    ]


def test_a_person_is_told_what_is_deleted_and_what_is_not_known(
    pixelbeam, folder: Path, tmp_path: Path
) -> None:
    arguments = ["--output", tmp_path / "out", "--variant", "google/efficientnet/b7/classification/1"]
    assert pixelbeam("index", "--input", folder, "--output", tmp_path / "out")[0] == 0
    gone = sorted(folder.iterdir())[:6]
    for path in gone:
        path.unlink()
    code, printed, error = pixelbeam(
        "plan", "--input", folder, *arguments, "--model-dir", tmp_path / "models"
    )
    assert code == 0
    assert printed.splitlines() == [
        "10 images in 1 unit",
        "  new: 0",
        "  changed: 0",
        f"  deleted: 6 ({', '.join(map(str, gone[:5]))}, ...)",
        "    their rows stay",
        "  listed twice: 0",
        "google/efficientnet/b7/classification/1: 10 images to do in 1 unit",
    ]
    assert "its module is not pulled yet" in error

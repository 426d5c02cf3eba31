"""`pixelbeam plan`: what a run would do, and that nothing is done."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from pipelines import listing
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
B7 = "google/efficientnet/b7/classification/1"


def test_before_the_first_run_everything_is_to_do_and_nothing_is_written(
    plan, folder: Path, tmp_path: Path
) -> None:
    said = plan("--input", folder, "--images-per-unit", 4)
    assert (said["images"], said["units"]) == (10, 3)
    assert said["changes"] == {"new": 10, "changed": 0, "duplicates": 0, "gone": 0, "first_gone": []}
    assert said["work"][TINY].items() >= {"units": 3, "images": 10, "is_pulled": True}.items()
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
    assert said["work"][TINY].items() >= {"units": 2, "images": 5, "is_pulled": True}.items()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_without_inputs_the_index_is_taken_as_it_is(
    plan, run, pixelbeam, folder: Path, tmp_path: Path
) -> None:
    assert pixelbeam("index", "--input", folder, "--output", tmp_path / "out", "--images-per-unit", 4)[0] == 0
    said = plan()
    assert (said["images"], said["units"], said["changes"]) == (10, 3, None)
    assert said["work"][TINY]["units"] == 3
    run("--input", folder)
    done = plan()
    assert done["work"][TINY] == {"units": 0, "images": 0, "is_pulled": True, "bytes_out": 0.0}
    assert (done["sample"], done["bytes_in"], done["costs"]) == (None, None, [])
    assert plan("--precision", "fast")["work"][TINY]["units"] == 3


def test_without_inputs_and_index_is_one_line(pixelbeam, tmp_path: Path, tiny_toml: str) -> None:
    code, _, error = pixelbeam("plan", "--output", tmp_path / "out", "--variant", tiny_toml)
    assert code == 2
    assert error.splitlines() == [
        f"pixelbeam: {tmp_path / 'out'} holds no index; name the images with --input"
    ]


def test_a_person_is_told_what_is_deleted_and_what_is_not_known(
    pixelbeam, folder: Path, tmp_path: Path
) -> None:
    arguments = ["--output", tmp_path / "out", "--variant", B7]
    assert pixelbeam("index", "--input", folder, "--output", tmp_path / "out")[0] == 0
    gone = sorted(folder.iterdir())[:6]
    for path in gone:
        path.unlink()
    code, printed, error = pixelbeam(
        "plan", "--input", folder, *arguments, "--model-dir", tmp_path / "models"
    )
    assert code == 0
    lines = printed.splitlines()
    assert lines[:5] == [
        "10 images in 1 unit",
        "  new: 0",
        "  changed: 0",
        f"  deleted: 6, whose rows stay ({', '.join(map(str, gone[:5]))}, ...)",
        "  listed twice: 0",
    ]
    assert lines[5].startswith(f"{B7}: 10 images to do in 1 unit, 1")
    assert any(
        re.match(r"measured here on 10 images: .* images/s a core, 6 fetch: not_found$", line)
        for line in lines
    )
    assert "its module is not pulled yet" in error


def test_what_only_another_variant_lacks_is_to_be_read(plan, run, folder: Path, tmp_path: Path) -> None:
    run("--input", folder, "--images-per-unit", 4)
    said = plan("--variant", B7, "--model-dir", tmp_path / "models")
    assert (said["work"][TINY]["images"], said["work"][B7]["images"]) == (0, 10)
    assert said["bytes_in"] == pytest.approx(sum(path.stat().st_size for path in folder.iterdir()))


def test_where_no_image_can_be_read_that_is_said(
    pixelbeam, folder: Path, tmp_path: Path, tiny_toml: str
) -> None:
    assert pixelbeam("index", "--input", folder, "--output", tmp_path / "out")[0] == 0
    shutil.rmtree(folder)
    code, printed, _ = pixelbeam("plan", "--output", tmp_path / "out", "--variant", tiny_toml)
    assert (code, printed.splitlines()[-1]) == (0, "no image could be read")


def test_hours_and_money_are_told_for_each_kind_of_worker(
    pixelbeam, plan, folder: Path, tmp_path: Path
) -> None:
    arguments = ["--input", folder, "--variant", B7, "--model-dir", tmp_path / "models"]
    prices = ["--hourly-price", "nvidia-l4=0.9", "cpu=0.4"]
    said = plan(*arguments, *prices)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert said["bytes_in"] == pytest.approx(size)
    assert said["work"][B7]["bytes_out"] == pytest.approx(10 * (250 + 4 * (1000 + 2560) * 0.92))
    costs = {each["worker"]: each for each in said["costs"]}
    assert costs["nvidia-l4"]["price"] == pytest.approx(0.9 * costs["nvidia-l4"]["worker_hours"])
    assert costs["nvidia-tesla-t4"]["price"] is None
    code, printed, _ = pixelbeam("plan", "--output", tmp_path / "out", *arguments, *prices)
    assert code == 0
    assert re.search(r"│cpu *│n2-standard-8 *│ *\d+ *│(model|decode) *│ *<0\.01 *│ *<0\.01 *│", printed)
    assert "not measured here: the models' rates" in printed
    assert f"  nvidia-l4: scaled from {costs['nvidia-l4']['source']}" in printed.splitlines()
    assert pixelbeam("plan", "--output", tmp_path / "out", *arguments, "--hourly-price", "1")[0] == 2


def test_units_are_those_that_a_run_would_cut(
    pixelbeam, plan, monkeypatch, folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(listing, "MIN_IMAGES_PER_UNIT", 1)
    monkeypatch.setattr(listing, "LEAST_UNITS", 1)
    monkeypatch.setattr("pipelines.run.UNIT_SECONDS", 1e-3)
    slow = "google/imagenet/efficientnet_v2_imagenet21k_xl/feature_vector/2"
    said = plan("--input", folder, "--variant", slow, "--model-dir", tmp_path / "models")
    assert said["units"] == 10

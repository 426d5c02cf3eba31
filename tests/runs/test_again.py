"""The same output again: what is done stays, what is new or other is done."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipelines import listing
from tests import bad, dataset, photos, tiny
from transforms.listing import list_images


def test_the_same_command_again_changes_nothing(run, out: Path) -> None:
    run()
    before = dataset.files(out)
    code, output, _ = run()
    assert code == 0
    assert "–" in output
    after = dataset.files(out)
    assert {name for name in after if name not in before} == {
        f"_runs/{name}" for name in os.listdir(out / "_runs")
    } - set(before)
    assert {name: after[name] for name in before} == before


def test_a_missing_rows_file_alone_is_done_again(run, out: Path) -> None:
    run()
    whole = dataset.rows(dataset.only(out))
    paths = sorted(dataset.only(out).glob("*.parquet"))
    kept = {path.name: path.stat().st_mtime_ns for path in paths[1:]}
    paths[0].unlink()
    assert run()[0] == 0
    assert dataset.rows(dataset.only(out)).equals(whole)
    assert {
        path.name: path.stat().st_mtime_ns for path in sorted(dataset.only(out).glob("*.parquet"))[1:]
    } == kept


def test_new_images_become_new_units(run, out: Path, folder: Path) -> None:
    run()
    before = dataset.files(out)
    photos.write_photographs(folder / ".." / "photos", 3, seed=9, size=(40, 30))
    for number in range(3):
        (folder / f"photo-{number:05d}.jpg").rename(folder / f"zebra-{number}.jpg")
    # The three originals are gone now, the index keeps them, and their rows stay.
    code, _, errors = run()
    assert (code, "29 images in 4 units, 3 new" in errors) == (0, True)
    after = dataset.files(out)
    rows = {name for name in before if name.startswith("variant=")}
    assert {name: after[name] for name in rows} == {name: before[name] for name in rows}
    assert len([name for name in after if name.startswith("variant=")]) == len(rows) + 1
    dataset.assert_conserved(out)


def test_a_changed_image_is_done_anew_and_its_stale_row_goes(run, pixelbeam, out: Path, folder: Path) -> None:
    run()
    before = dataset.files(out)
    path = folder / "photo-00020.jpg"
    path.write_bytes(bad.JPEG)
    code, _, errors = run()
    assert (code, "26 images in 3 units, 1 changed" in errors) == (0, True)
    (row,) = [row for row in dataset.rows(dataset.only(out)).to_pylist() if row["uri"] == str(path)]
    assert row["size"] == len(bad.JPEG)
    rows = {name for name in dataset.files(out) if name.startswith("variant=")}
    assert len(rows) == 3
    assert len(rows & set(before)) == 2
    assert pixelbeam("verify", out, "--deep")[0] == 0


def test_other_settings_are_refused_and_replaced_when_asked(run, pixelbeam, out: Path) -> None:
    run()
    before = dataset.files(out)
    code, _, errors = run("--precision", "fast")
    assert code == 2
    assert "made with precision exact, not fast; give --replace" in errors
    assert dataset.files(out) == before
    assert run("--precision", "fast", "--replace")[0] == 0
    assert {footer.settings["precision"] for footer in dataset.footers(dataset.only(out))} == {"fast"}
    assert not set(before) & {name for name in dataset.files(out) if "part-" in name and "_index" not in name}
    assert pixelbeam("verify", out, "--deep")[0] == 0


def test_another_module_is_refused_and_replaced_when_asked(run, pixelbeam, out: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    mine = tiny.write_variant(str(tmp_path / "mine"), seed=1)
    run(variants=(mine,))
    shutil.rmtree(tmp_path / "mine" / "module")
    tiny.write_variant(str(tmp_path / "mine"), seed=2)
    code, _, errors = run(variants=(mine,))
    assert code == 2
    assert "made with module" in errors
    old = dataset.rows(dataset.only(out))
    assert run("--replace", variants=(mine,))[0] == 0
    assert not dataset.rows(dataset.only(out)).column("features").equals(old.column("features"))
    assert len(dataset.footers(dataset.only(out))) == 3
    assert pixelbeam("verify", out, "--deep")[0] == 0


def test_another_policy_is_refused(run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    run(variants=(tiny.write_variant(str(tmp_path / "mine")),))
    code, _, errors = run(variants=(tiny.write_variant(str(tmp_path / "mine"), resize="squash_bilinear"),))
    assert code == 2
    assert "made with resize center_crop_bilinear, not squash_bilinear" in errors


def test_a_trial_takes_the_first_images_and_a_run_goes_on_from_there(run, out: Path) -> None:
    assert run("--limit", "5", "--max-failure-ratio", "0.5")[0] == 0
    assert len(dataset.uris(out)) == 5
    assert run()[0] == 0
    assert len(dataset.uris(out)) == 26
    dataset.assert_conserved(out)
    code, _, errors = run("--limit", "5")
    assert code == 2
    assert "has an index of 26 images already" in errors


def test_an_interrupted_listing_is_done_again(run, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments):
        yield from list(list_images(*arguments))[:5]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(listing, "list_images", interrupted)
        code, _, errors = run()
    assert (code, errors.splitlines()[-1]) == (
        130,
        "pixelbeam: interrupted; run the same command again to go on",
    )
    assert run()[0] == 0
    dataset.assert_conserved(out)


def test_a_refused_run_leaves_the_index_as_it_was(run, pixelbeam, out: Path, folder: Path) -> None:
    run()
    shutil.copy(folder / "photo-00000.jpg", folder / "another.jpg")
    assert run("--precision", "fast")[0] == 2
    assert pixelbeam("verify", out)[0] == 0


def test_a_dataset_with_many_failures_can_be_gone_on_with(run, out: Path, folder: Path) -> None:
    assert run("--max-failure-ratio", "0", "--images-per-unit", "26")[0] == 3
    assert run("--max-failure-ratio", "0")[0] == 3
    shutil.copy(folder / "photo-00000.jpg", folder / "another.jpg")
    code, _, errors = run("--max-failure-ratio", "0")
    assert code == 3
    assert "2 of 27 images of acme/tiny/classification/1 failed, more than --max-failure-ratio 0.0" in errors
    dataset.assert_conserved(out)

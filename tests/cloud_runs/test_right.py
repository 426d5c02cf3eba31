"""On a server that is right: rows are those of a local run, once each, and only what is new is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import progress
from tests import bad, cloud, dataset, tiny
from tests.cloud import BAD, IN, OUT, UNIT, assert_complete, few_requests_at_once
from transforms import snapshots

STRANGE_NAMES = ("a b.jpg", "100%25#1.jpg", "what[1]?.jpg", "naïve/日本.jpg", "x::y.jpg")
# A file's own name is the same in the bucket and in the folder; what depends on where it lies is left out.
OF_THE_PLACE = ["uri", "version", "fingerprint"]


def test_from_bucket_to_bucket_is_as_from_folder_to_folder(
    gcs, run, fill, pixelbeam, tmp_path: Path, tiny_toml: str
) -> None:
    fill(60, BAD)
    for number, name in enumerate(STRANGE_NAMES):
        gcs.put("in", f"photos/{name}", gcs.get("in", f"photos/{number:04d}.jpg"))
    (tmp_path / "other").mkdir()
    other = tiny.write_variant(str(tmp_path / "other"), seed=1, resize="squash_bilinear", name="acme/other/1")
    options = {"variants": (tiny_toml, other)}
    folder = cloud.bring_home(gcs, tmp_path / "photos", IN)
    assert run("--max-failure-ratio", 0.5, source=folder, output=tmp_path / "local", **options)[0] == 0
    gcs.reset_counts()
    code, _, errors = run("--max-failure-ratio", 0.5, **options)
    assert (code, "74 images in 4 units, 74 new" in errors) == (0, True)
    counts = gcs.counts
    downloads = {name: count for name, count in counts.downloads.items() if name.startswith("in/photos/")}
    assert downloads == dict.fromkeys((f"in/{name}" for name in gcs.objects("in")), 1)
    home = cloud.bring_home(gcs, tmp_path / "home")
    n_rows, n_failures = (len(list(home.glob(glob))) for glob in ("variant=*/*", "_failures/*/*"))
    assert (n_rows, n_failures) == (2 * 4, 2 * 4)
    # Beside these: a marker a unit, the index, what is current of it, the record of the run.
    assert counts.requests["upload"] == n_rows + n_failures + 4 + 3
    assert_complete(pixelbeam)
    cloud.assert_nothing_astray(home)
    dataset.assert_conserved(home)
    for mine, theirs in zip(dataset.variants(home), dataset.variants(tmp_path / "local"), strict=True):
        rows, expected = dataset.rows(mine), dataset.rows(theirs)
        assert rows.drop_columns(OF_THE_PLACE).equals(expected.drop_columns(OF_THE_PLACE))
        assert [uri.removeprefix(IN) for uri in rows.column("uri").to_pylist()] == [
            uri.removeprefix(str(folder)) for uri in expected.column("uri").to_pylist()
        ]
        assert cloud.reasons(mine) == cloud.reasons(theirs)
        assert {name.partition("-")[2]: why for name, why in cloud.reasons(mine).items()} == {
            name: bad.REASONS[name] for name in BAD
        }


def test_the_summary_and_the_lines_on_the_way_name_urls(
    gcs, run, fill, pixelbeam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.05)
    fill(60, {"text.jpg": BAD["text.jpg"]})
    few_requests_at_once(gcs, monkeypatch)
    code, output, errors = run()
    assert code == 0
    assert [line for line in output.splitlines() if "gs://" in line] == [
        f"{OUT}/variant=acme-tiny-classification-1/*.parquet",
        f"{OUT}/_failures/variant=acme-tiny-classification-1/*.parquet",
    ]
    listing, *lines = errors.splitlines()
    assert listing == "61 images in 4 units, 61 new"
    assert lines
    assert all(" of 61 images, " in line for line in lines)
    code, output, errors = pixelbeam("index", "--input", IN, "--output", OUT)
    assert (code, errors) == (0, "61 images in 4 units\n")
    assert output.startswith(f"{OUT}/_index/")


@pytest.mark.parametrize("output", ["gs://out", "gs://out/", "gs://out/data/", "gs://out/a b/ü#1"])
def test_an_output_may_be_any_folder_of_a_bucket(
    gcs, run, fill, pixelbeam, tmp_path: Path, output: str
) -> None:
    fill(3)
    # Cloud consoles make such an object for a folder.
    gcs.put("out", "data/", b"")
    assert run(output=output)[0] == 0
    assert_complete(pixelbeam, output)
    cloud.assert_nothing_astray(cloud.bring_home(gcs, tmp_path, output.rstrip("/")))


def test_only_what_was_added_or_changed_is_done(gcs, run, fill, pixelbeam, tmp_path: Path) -> None:
    fill(200)
    assert run()[0] == 0
    before = cloud.objects(gcs, "out", "data/variant=")
    assert len(before) == 10
    for number in (3, 4, 50, 100, 199):
        gcs.put("in", f"photos/{number:04d}.jpg", bad.JPEG)
    gcs.fill("in", "photos/new-{:02d}.jpg", 40, [bad.JPEG])
    gcs.reset_counts()
    code, _, errors = run()
    assert (code, "240 images in 12 units, 40 new, 5 changed" in errors) == (0, True)
    after = cloud.objects(gcs, "out", "data/variant=")
    unit_of = {name: int(name.split("part-")[1][:6]) for name in (*before, *after)}
    untouched = {name: each for name, each in before.items() if unit_of[name] not in {0, 2, 5, 9}}
    assert len(untouched) == 6
    assert {name: after[name] for name in untouched} == untouched
    assert sorted(unit_of[name] for name in set(after) - set(before)) == [0, 2, 5, 9, 10, 11]
    assert len(after) == 12
    downloads = {name for name in gcs.counts.downloads if name.startswith("in/")}
    done = {f"{number:04d}" for unit in (0, 2, 5, 9) for number in range(unit * UNIT, (unit + 1) * UNIT)}
    done |= {f"new-{number:02d}" for number in range(40)}
    assert downloads == {f"in/photos/{name}.jpg" for name in done}
    assert_complete(pixelbeam)
    home = cloud.bring_home(gcs, tmp_path)
    cloud.assert_nothing_astray(home)
    sizes = {row["uri"]: row["size"] for row in cloud.rows(home).select(["uri", "size"]).to_pylist()}
    assert sizes[f"{IN}/0050.jpg"] == len(bad.JPEG) != sizes[f"{IN}/0051.jpg"]


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_what_happens_to_images_after_the_listing_is_told(
    gcs, run, fill, pixelbeam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    fill(40)
    update = snapshots.update

    def update_and_strike(*arguments: object) -> object:
        result = update(*arguments)
        gcs.delete("in", "photos/0003.jpg")
        gcs.put("in", "photos/0005.jpg", bad.JPEG)
        # The same bytes again are another generation all the same.
        gcs.put("in", "photos/0007.jpg", gcs.get("in", "photos/0007.jpg"))
        return result

    monkeypatch.setattr(snapshots, "update", update_and_strike)
    gcs.set(faults=cloud.every_fault(1, share))
    assert run()[0] == 0
    assert_complete(pixelbeam)
    home = cloud.bring_home(gcs, tmp_path)
    assert cloud.reasons(cloud.only_variant(home)) == {
        "0003.jpg": ("fetch", "not_found"),
        "0005.jpg": ("fetch", "changed"),
        "0007.jpg": ("fetch", "changed"),
    }


def test_a_manifest_in_a_bucket_may_hold_blank_lines_duplicates_and_what_is_not_there(
    gcs, run, fill, pixelbeam, tmp_path: Path
) -> None:
    fill(30)
    names = [f"photos/{number:04d}.jpg" for number in range(10)]
    gcs.put("out", "elsewhere.jpg", bad.JPEG)
    lines = [*names, "", f"gs://in/{names[3]}", "photos/0003.jpg", "gs://out/elsewhere.jpg", "none.jpg"]
    gcs.put("in", "list.txt", "\r\n".join(lines).encode())
    code, _, errors = run(source="gs://in/list.txt")
    assert (code, errors.splitlines()[0]) == (0, "12 images in 1 unit, 12 new, 2 listed twice")
    assert_complete(pixelbeam)
    home = cloud.bring_home(gcs, tmp_path)
    assert cloud.reasons(cloud.only_variant(home)) == {"none.jpg": ("fetch", "not_found")}
    assert cloud.rows(home).num_rows == 11

"""Units, appending, changed images, two listings at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.records import refs
from transforms import index, snapshots, sorting
from transforms.changes import Changes
from transforms.index import Index
from transforms.records import ImageRef, Place
from transforms.snapshots import UnitSize


def update(output: Path, listed: Iterable[ImageRef], images_per_unit: int = 4) -> tuple[Index, Changes]:
    return snapshots.update(str(output), listed, UnitSize(images_per_unit))


def members(work: Index) -> list[list[ImageRef]]:
    return [index.members(unit) for unit in work.units()]


def test_a_listing_is_cut_into_units_sorted_within_a_part(tmp_path: Path) -> None:
    work, changes = update(tmp_path, reversed(refs(10)))
    assert members(work) == [refs(10)[:4], refs(10)[4:8], refs(10)[8:]]
    assert changes == Changes(new=10, changed=0, duplicates=0, gone=0)
    assert [unit.number for unit in work.units()] == [0, 1, 2]
    assert (work.n_images, work.n_units) == (10, 3)
    assert index.read(str(tmp_path)) == work


def test_parts_have_a_row_group_a_unit_and_no_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "UNITS_PER_PART", 2)
    work, _ = update(tmp_path, refs(11), images_per_unit=2)
    assert [part.units for part in work.parts] == [2, 2, 2]
    assert [unit.number for unit in work.units()] == list(range(6))
    for path in work.part_paths():
        metadata = pq.read_metadata(path)
        assert metadata.num_row_groups == 2
        assert not metadata.row_group(0).column(0).is_stats_set
    assert [ref for unit in members(work) for ref in unit] == refs(11)


def test_of_equal_uris_the_first_counts(tmp_path: Path) -> None:
    work, changes = update(tmp_path, [*refs(3), *refs(2, version="2")])
    assert members(work) == [refs(3)]
    assert changes.duplicates == 2


def test_a_listing_that_the_memory_does_not_hold_is_sorted_and_of_equal_uris_the_first_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorting, "IMAGES_IN_MEMORY", 3)
    monkeypatch.setattr(sorting, "IMAGES_A_BLOCK", 2)
    work, changes = update(tmp_path, [*reversed(refs(10)), *refs(10, version="2")])
    assert members(work) == [refs(10)[:4], refs(10)[4:8], refs(10)[8:]]
    assert changes == Changes(new=10, changed=0, duplicates=10, gone=0)


def test_the_same_listing_again_changes_nothing(tmp_path: Path) -> None:
    first, _ = update(tmp_path, refs(10))
    before = os.stat(tmp_path / "_index" / "CURRENT.json")
    second, changes = update(tmp_path, refs(10), images_per_unit=7)
    assert second == first
    assert changes == Changes(0, 0, 0, 0)
    # Not even the same is written once more.
    assert os.path.samestat(os.stat(tmp_path / "_index" / "CURRENT.json"), before)
    assert len(os.listdir(tmp_path / "_index")) == 2


def test_new_images_become_new_units_and_old_parts_stay(tmp_path: Path) -> None:
    first, _ = update(tmp_path, refs(6))
    second, changes = update(tmp_path, refs(9), images_per_unit=2)
    assert second.parts[:1] == first.parts
    assert second.ancestors == (first.snapshot,)
    assert members(second) == [refs(9)[:4], refs(9)[4:6], refs(9)[6:8], refs(9)[8:]]
    assert changes.new == 3


def test_a_changed_image_stays_in_its_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "UNITS_PER_PART", 1)
    first, _ = update(tmp_path, refs(8))
    changed = [ImageRef(ref.uri, 99, "2") if number == 5 else ref for number, ref in enumerate(refs(8))]
    second, changes = update(tmp_path, changed)
    assert changes == Changes(new=0, changed=1, duplicates=0, gone=0)
    assert second.parts[0] == first.parts[0]
    assert members(second) == [changed[:4], changed[4:]]
    before, after = (list(work.units()) for work in (first, second))
    assert before[0].members == after[0].members
    assert before[1].members != after[1].members
    assert before[1].uri_hash_sum == after[1].uri_hash_sum


def test_unit_numbers_never_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "UNITS_PER_PART", 1)
    update(tmp_path, refs(8))
    changed = [ImageRef(ref.uri, 99, "2") if number == 1 else ref for number, ref in enumerate(refs(12))]
    work, changes = update(tmp_path, changed)
    assert changes == Changes(new=4, changed=1, duplicates=0, gone=0)
    assert [unit.number for unit in work.units()] == [0, 1, 2]
    assert members(work) == [changed[:4], changed[4:8], changed[8:]]


def test_a_part_has_at_most_512_units(tmp_path: Path) -> None:
    work, _ = update(tmp_path, refs(513), images_per_unit=1)
    assert [part.units for part in work.parts] == [512, 1]


def test_what_was_current_once_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "ABANDONED_AFTER_SECONDS", -3600)
    first, _ = update(tmp_path, refs(4))
    for version in ("2", "3"):
        update(tmp_path, refs(4, version=version))
    assert [len(index.members(unit)) for unit in first.units()] == [4]


def test_an_image_that_is_gone_stays_listed_as_it_was(tmp_path: Path) -> None:
    first, _ = update(tmp_path, refs(4))
    gone = [*refs(3), ImageRef(refs(4)[3].uri, None, None)]
    assert update(tmp_path, gone) == (first, Changes(0, 0, 0, 0))
    assert update(tmp_path, refs(2)) == (first, Changes(new=0, changed=0, duplicates=0, gone=2))
    assert update(tmp_path, refs(4)[2:]) == (first, Changes(new=0, changed=0, duplicates=0, gone=2))


@pytest.mark.parametrize(
    "values", [["A", "B", "C"], ["a", "b", "c"]], ids=["other values", "the same values"]
)
def test_of_other_columns_the_values_of_an_image_that_is_gone_are_not_known(
    tmp_path: Path, values: list[str]
) -> None:
    def update_with(column: str, values: list[str]) -> tuple[Index, Changes]:
        listed = [replace(ref, kept=(value,)) for ref, value in zip(refs(4), values, strict=False)]
        columns = pa.schema([(column, pa.string())])
        return snapshots.update(str(tmp_path), listed, UnitSize(4), lambda: columns)

    update_with("label", ["a", "b", "c", "d"])
    work, changes = update_with("title", values)
    assert changes == Changes(new=0, changed=3, duplicates=0, gone=1)
    assert [ref.kept for ref in members(work)[0]] == [(value,) for value in (*values, None)]
    assert [index.kept_columns(path).names for path in work.part_paths()] == [["title"]]


def test_a_preview_is_what_an_update_would_do_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "UNITS_PER_PART", 1)
    output, folder = tmp_path / "output", tmp_path / "folder"
    folder.mkdir()
    update(output, refs(8))
    before = sorted(output.rglob("*"))
    changed = [ImageRef(ref.uri, 99, "2") if number == 5 else ref for number, ref in enumerate(refs(11))][1:]
    paths, changes = snapshots.preview(str(output), changed, UnitSize(2), lambda: pa.schema([]), str(folder))
    assert sorted(output.rglob("*")) == before
    assert changes == Changes(new=3, changed=1, duplicates=0, gone=1)
    assert changes.first_gone == (refs(1)[0].uri,)
    planned = [unit for path in paths for unit in index.units_of(path)]
    work, updated = update(output, changed, images_per_unit=2)
    assert updated == changes
    facts = [(unit.number, unit.n_images, unit.members, unit.uri_hash_sum) for unit in planned]
    assert facts == [(unit.number, unit.n_images, unit.members, unit.uri_hash_sum) for unit in work.units()]
    assert [path.startswith(str(output)) for path in paths] == [True, False, False, False]


def test_a_preview_of_a_first_listing(tmp_path: Path) -> None:
    paths, changes = snapshots.preview(
        str(tmp_path / "output"), refs(5), UnitSize(2), lambda: pa.schema([]), str(tmp_path)
    )
    assert changes == Changes(new=5, changed=0, duplicates=0, gone=0)
    assert [unit.n_images for path in paths for unit in index.units_of(path)] == [2, 2, 1]
    assert not (tmp_path / "output").exists()


def test_an_interrupted_listing_leaves_nothing_and_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "UNITS_PER_PART", 1)

    def interrupted() -> Iterable[ImageRef]:
        yield from refs(9)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update(tmp_path, interrupted())
    assert not (tmp_path / "_index").exists()
    commits = []

    def commit(*paths: str) -> None:
        if commits:
            raise KeyboardInterrupt
        commits.append(commit_part(*paths))

    commit_part = snapshots.commit
    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "commit", commit)
        with pytest.raises(KeyboardInterrupt):
            update(tmp_path, refs(9))
    assert commits
    assert index.read(str(tmp_path)) is None
    assert os.listdir(tmp_path / "_index") == []
    work, _ = update(tmp_path, refs(9))
    assert work.n_images == 9


def test_a_killed_listing_is_swept_when_it_is_old(tmp_path: Path) -> None:
    for name in ("2020-01-01T00-00-00Z-aaaaaa", "2999-01-01T00-00-00Z-bbbbbb"):
        (tmp_path / "_index" / name).mkdir(parents=True)
        (tmp_path / "_index" / name / "part-00000.parquet").write_bytes(b"")
    work, _ = update(tmp_path, refs(3))
    assert sorted(os.listdir(tmp_path / "_index")) == sorted(
        ["2999-01-01T00-00-00Z-bbbbbb", "CURRENT.json", work.snapshot]
    )


def test_two_listings_at_once_make_one_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(2)
    read_current, begun = snapshots.read_current, threading.local()
    results: list[Index] = []

    def read_and_wait(directory: str) -> tuple[Index | None, str | None]:
        current = read_current(directory)
        if not hasattr(begun, "here"):
            # Both have looked for an index by now, and neither has written one.
            begun.here = True
            barrier.wait(30)
        return current

    def listing(images: list[ImageRef]) -> None:
        results.append(snapshots.update(str(tmp_path), images, UnitSize(4))[0])

    monkeypatch.setattr(snapshots, "read_current", read_and_wait)
    mine, other = refs(6), [*refs(4), ImageRef("/more/a.jpg", 1, "1")]
    threads = [threading.Thread(target=listing, args=(images,)) for images in (mine, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work = index.read(str(tmp_path))
    assert work in results
    listed_once = sorted(ref.uri for unit in members(work) for ref in unit)
    assert listed_once == sorted({ref.uri for ref in [*mine, *other]})
    folders = {part.path.split("/")[0] for part in work.parts}
    assert set(os.listdir(tmp_path / "_index")) == {"CURRENT.json", *folders}


def test_an_index_that_another_listing_made_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_current, others = snapshots._make_current, [[*refs(4), ImageRef("/more/a.jpg", 1, "1")]]

    def make_current_behind_another(*arguments: object) -> bool:
        if others:
            update(tmp_path, others.pop())
        return make_current(*arguments)

    monkeypatch.setattr(snapshots, "_make_current", make_current_behind_another)
    work, changes = update(tmp_path, refs(6))
    assert changes == Changes(new=2, changed=0, duplicates=0, gone=1)
    assert sorted(ref.uri for unit in members(work) for ref in unit) == sorted(
        ["/more/a.jpg", *(ref.uri for ref in refs(6))]
    )


def test_a_compressed_container_is_in_one_unit(tmp_path: Path) -> None:
    containers = {"/a.tar": 6, "/b.tar.gz": 6, "/c.tgz": 2}
    listed = [
        ImageRef(f"{container}::{number}.jpg", 1, "1", Place(container, number * 512, None))
        for container, count in containers.items()
        for number in range(count)
    ]
    work, _ = update(tmp_path, listed)
    assert [len(unit) for unit in members(work)] == [4, 8, 2]
    assert members(work)[1] == listed[4:12]


@pytest.mark.parametrize(("images", "units"), [(10, 1), (1_000, 16), (4_000, 16), (100_000, 25)])
def test_a_small_listing_is_cut_for_all_threads_unless_units_get_too_small(images: int, units: int) -> None:
    size = UnitSize(images=4096, units=16, least_images=60)
    assert -(-images // size.of(images)) == units


def test_units_are_cut_as_their_size_says(tmp_path: Path) -> None:
    work, _ = snapshots.update(str(tmp_path), refs(20), UnitSize(images=100, units=4, least_images=2))
    assert [unit.n_images for unit in work.units()] == [5, 5, 5, 5]

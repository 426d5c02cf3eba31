"""One target's rows and failures: streamed, committed once, swept."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.records import batches, refs, score_batch, unit
from transforms import snapshots, storage
from transforms.commit import TargetWriter, committed, receipt_of
from transforms.errors import RunError
from transforms.fingerprints import VariantRun, uri_hash_sum
from transforms.footers import read_footer
from transforms.records import Receipt
from transforms.snapshots import UnitSize
from transforms.tables import rows_path

IMAGES = refs(10)
GOOD, BAD = IMAGES[:8], IMAGES[8:]


def files(output: Path) -> list[str]:
    return sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())


def write(output: Path, run: VariantRun, good: list = GOOD, bad: list = BAD) -> Receipt:
    of = unit(sorted([*good, *bad], key=lambda ref: ref.uri))
    writer = TargetWriter(str(output), run, run.target(of), "run-1")
    for batch in batches(run, of, good, bad):
        writer.add(batch)
    return writer.commit()


def test_rows_and_failures_are_committed_together(tmp_path: Path, tiny_run: VariantRun) -> None:
    receipt = write(tmp_path, tiny_run)
    target = tiny_run.target(unit(IMAGES))
    assert receipt == Receipt(tiny_run.variant.name, 0, 8, 2, rows_path(tiny_run, target))
    rows = pq.read_table(tmp_path / receipt.path)
    assert rows.column("uri").to_pylist() == [ref.uri for ref in GOOD]
    said = read_footer(str(tmp_path / receipt.path))
    failures = pq.read_table(tmp_path / said.failures_file)
    assert failures.column("uri").to_pylist() == [ref.uri for ref in BAD]
    assert files(tmp_path) == sorted([receipt.path, said.failures_file])


def test_the_footer_tells_counts_hashes_and_seconds(tmp_path: Path, tiny_run: VariantRun) -> None:
    said = read_footer(str(tmp_path / write(tmp_path, tiny_run).path))
    assert (said.rows, said.failures, said.failures_by) == (8, 2, {"decode: truncated": 2})
    assert said.rows_hash_sum == uri_hash_sum(ref.uri for ref in GOOD)
    assert said.failures_hash_sum == uri_hash_sum(ref.uri for ref in BAD)
    assert said.members == unit(IMAGES).members
    assert said.settings == tiny_run.settings
    assert (said.seconds.fetch, said.seconds.decode, said.seconds.model) == (2.0, 4.0, 6.0)
    assert said.seconds.write > 0
    assert said.run == "run-1"
    assert said.finished > said.started == 1000.0
    assert set(said.packages) >= {"tensorflow", "pyarrow", "pixelbeam"}


def test_a_unit_without_a_row_is_committed_too(tmp_path: Path, tiny_run: VariantRun) -> None:
    receipt = write(tmp_path, tiny_run, good=[], bad=IMAGES)
    assert (receipt.rows, receipt.failures) == (0, 10)
    assert pq.read_table(tmp_path / receipt.path).num_rows == 0
    target = tiny_run.target(unit(IMAGES))
    assert receipt_of(tiny_run, target, committed(str(tmp_path), tiny_run, target)) == receipt


def test_rows_are_grouped_and_floats_plain(tmp_path: Path, tiny_run: VariantRun) -> None:
    images = refs(5000)
    of = unit(images)
    writer = TargetWriter(str(tmp_path), tiny_run, tiny_run.target(of), "r")
    for number, start in enumerate(range(0, 5000, 500)):
        writer.add(score_batch(tiny_run.target(of), number, images[start : start + 500], last=start == 4500))
    metadata = pq.read_metadata(tmp_path / writer.commit().path)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [
        2048,
        452,
        2048,
        452,
    ]
    column = metadata.row_group(0).column(metadata.row_group(0).num_columns - 1)
    assert column.path_in_schema.startswith("features")
    assert column.compression == "ZSTD"
    assert not any("DICTIONARY" in encoding for encoding in column.encodings)


def test_the_first_of_two_attempts_counts_and_the_other_leaves_nothing(
    tmp_path: Path, tiny_run: VariantRun
) -> None:
    of = unit(IMAGES)
    writers = [
        TargetWriter(str(tmp_path), tiny_run, tiny_run.target(of), f"run-{number}") for number in (1, 2)
    ]
    # The attempts fail on different images.
    for writer, (good, bad) in zip(
        writers, [(IMAGES[:8], IMAGES[8:]), (IMAGES[3:], IMAGES[:3])], strict=True
    ):
        for batch in batches(tiny_run, of, good, bad):
            writer.add(batch)
    first, second = (writer.commit() for writer in writers)
    assert first == second
    said = read_footer(str(tmp_path / first.path))
    assert said.run == "run-1"
    assert files(tmp_path) == sorted([first.path, said.failures_file])


def test_failures_of_an_attempt_that_died_are_no_part_of_the_dataset(
    tmp_path: Path, tiny_run: VariantRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> bool:
        raise KeyboardInterrupt

    commit = storage.commit
    with monkeypatch.context() as patch:
        patch.setattr(
            storage, "commit", lambda local, path: commit(local, path) if "/_failures/" in path else die()
        )
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, tiny_run, good=IMAGES[3:], bad=IMAGES[:3])
    (orphan,) = files(tmp_path)
    assert orphan.startswith("_failures/")
    receipt = write(tmp_path, tiny_run)
    said = read_footer(str(tmp_path / receipt.path))
    assert files(tmp_path) == sorted([receipt.path, said.failures_file])
    assert orphan != said.failures_file


def test_a_new_fingerprint_removes_what_it_supersedes(tmp_path: Path, tiny_run: VariantRun) -> None:
    old = write(tmp_path, tiny_run)
    other = replace(tiny_run, precision="fast")
    new = write(tmp_path, other)
    assert new.path != old.path
    said = read_footer(str(tmp_path / new.path))
    assert files(tmp_path) == sorted([new.path, said.failures_file])


def test_a_missing_image_is_noticed_before_the_commit(tmp_path: Path, tiny_run: VariantRun) -> None:
    of = unit(IMAGES)
    writer = TargetWriter(str(tmp_path), tiny_run, tiny_run.target(of), "r")
    for batch in batches(tiny_run, of, GOOD, BAD[:1]):
        writer.add(batch)
    with pytest.raises(RuntimeError, match="lists 10 images, but 8 rows and 1 failures came"):
        writer.commit()
    assert files(tmp_path) == []


@pytest.mark.parametrize("numbers", [(1,), (0, 0), (0, 2)])
def test_batches_out_of_order_are_refused(
    tmp_path: Path, tiny_run: VariantRun, numbers: tuple[int, ...]
) -> None:
    target = tiny_run.target(unit(IMAGES))
    writer = TargetWriter(str(tmp_path), tiny_run, target, "r")
    for number in numbers[:-1]:
        writer.add(score_batch(target, number, IMAGES[:1]))
    with pytest.raises(RuntimeError, match="was due"):
        writer.add(score_batch(target, numbers[-1], IMAGES[1:2]))


def test_a_batch_of_another_unit_is_refused(tmp_path: Path, tiny_run: VariantRun) -> None:
    writer = TargetWriter(str(tmp_path), tiny_run, tiny_run.target(unit(IMAGES)), "r")
    with pytest.raises(RuntimeError, match="was due"):
        writer.add(score_batch(tiny_run.target(unit(IMAGES[:3], number=1)), 0, IMAGES[:1]))


def test_local_files_are_removed(
    tmp_path: Path, tiny_run: VariantRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    write(tmp_path / "out", tiny_run)
    TargetWriter(str(tmp_path / "out"), tiny_run, tiny_run.target(unit(IMAGES)), "r").close()
    assert os.listdir(scratch) == []


def test_rows_whose_failures_are_gone_are_done_anew(tmp_path: Path, tiny_run: VariantRun) -> None:
    receipt = write(tmp_path, tiny_run)
    target = tiny_run.target(unit(IMAGES))
    assert receipt_of(tiny_run, target, committed(str(tmp_path), tiny_run, target)) == receipt
    (tmp_path / read_footer(str(tmp_path / receipt.path)).failures_file).unlink()
    assert committed(str(tmp_path), tiny_run, target) is None
    assert files(tmp_path) == []


def test_a_run_whose_index_moved_on_commits_nothing(tmp_path: Path, tiny_run: VariantRun) -> None:
    old, _ = snapshots.update(str(tmp_path), refs(10), UnitSize(10))
    (of,) = old.units()
    changed = [*refs(9), refs(10, version="2")[9]]
    writer = TargetWriter(str(tmp_path), tiny_run, tiny_run.target(of), "r")
    for batch in batches(tiny_run, of, GOOD, BAD):
        writer.add(batch)
    snapshots.update(str(tmp_path), changed, UnitSize(10))
    with pytest.raises(RunError, match="an image of unit 0 changed"):
        writer.commit()
    assert not (tmp_path / tiny_run.variant.directory).exists()
    assert [name for name in files(tmp_path) if "variant=" in name] == []


def test_a_run_goes_on_where_only_other_units_changed(
    tmp_path: Path, tiny_run: VariantRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = snapshots.update(str(tmp_path), refs(11), UnitSize(10))
    of = next(old.units())
    snapshots.update(str(tmp_path), [*refs(10), refs(11, version="2")[10]], UnitSize(10))
    writer = TargetWriter(str(tmp_path), tiny_run, tiny_run.target(of), "r")
    for batch in batches(tiny_run, of, GOOD, BAD):
        writer.add(batch)
    assert writer.commit().rows == 8

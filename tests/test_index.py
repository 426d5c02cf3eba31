"""What an index says of itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.records import refs
from transforms import index, snapshots
from transforms.errors import RunError
from transforms.fingerprints import members_hash, uri_hash_sum
from transforms.index import Index
from transforms.snapshots import UnitSize


def listed(output: Path, count: int) -> Index:
    return snapshots.update(str(output), refs(count), UnitSize(4))[0]


def test_units_carry_the_hashes_of_their_members(tmp_path: Path) -> None:
    work = listed(tmp_path, 6)
    for unit in work.units():
        images = index.members(unit)
        assert unit.n_images == len(images)
        assert unit.uri_hash_sum == uri_hash_sum(ref.uri for ref in images)
        assert unit.members == members_hash(images)


def test_check_parts_finds_what_was_touched(tmp_path: Path) -> None:
    work = listed(tmp_path, 3)
    assert index.check_parts(work) == []
    path = Path(work.part_paths()[0])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == work.parts[0].sha256
    path.write_bytes(path.read_bytes() + b" ")
    assert index.check_parts(work) == [f"{path} was changed after it was written"]
    path.unlink()
    assert index.check_parts(work) == [f"{path} is missing"]


def test_a_broken_index_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "_index").mkdir()
    (tmp_path / "_index" / "CURRENT.json").write_text("{")
    with pytest.raises(RunError, match="is not an index"):
        index.read(str(tmp_path))

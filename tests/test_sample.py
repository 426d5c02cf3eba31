"""A sample of images is read and decoded as a run would do it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import sample
from tests import bad
from transforms import index, listing, snapshots
from transforms.records import ImageRef, Unit
from transforms.snapshots import UnitSize
from transforms.variants import find

B0 = find("google/efficientnet/b0/classification/1")


@pytest.fixture
def units(photographs: Path, tmp_path: Path) -> list[Unit]:
    """Six units of four photographs."""
    images = listing.list_images([str(photographs)], listing.Found())
    work, _ = snapshots.update(str(tmp_path / "out"), images, UnitSize(4))
    return list(work.units())


def test_images_are_chosen_from_all_over_the_same_each_time(units: list[Unit], monkeypatch) -> None:
    monkeypatch.setattr(sample, "SAMPLED", 6)
    monkeypatch.setattr(sample, "UNITS_SAMPLED", 3)
    chosen = sample.choose(units)
    assert chosen == sample.choose(units)
    assert len({ref.uri for ref in chosen}) == 6
    members = {ref.uri: unit.number for unit in units for ref in index.members(unit)}
    assert len({members[ref.uri] for ref in chosen}) == 3


def test_of_few_images_all_are_chosen(units: list[Unit]) -> None:
    assert len(sample.choose(units)) == 24
    assert sample.choose([]) == []


def test_reading_and_decoding_are_measured(units: list[Unit], tmp_path: Path) -> None:
    refs = sample.choose(units)[:10]
    refs.append(ImageRef(str(bad.write(tmp_path, "text.jpg", 0)), None, None))
    refs.append(ImageRef(str(tmp_path / "none.jpg"), None, None))
    measured = sample.measure(refs, [B0])
    assert measured is not None
    assert measured.images == 12
    assert measured.failures_by == {"fetch: not_found": 1, "decode: not_an_image": 1}
    read = [Path(ref.uri).stat().st_size for ref in refs[:11]]
    assert measured.bytes_an_image == pytest.approx(sum(read) / 11)
    assert measured.fetched_per_second > 0
    assert measured.decode_seconds > 0


def test_nothing_is_measured_where_nothing_can_be_read(tmp_path: Path) -> None:
    assert sample.measure([ImageRef(str(tmp_path / "none.jpg"), None, None)], [B0]) is None
    assert sample.measure([], [B0]) is None

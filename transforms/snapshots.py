"""Bringing an index up to date: a listing compared with it, and a new snapshot that replaces it in one step."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.fingerprints import members_hash, uri_hash_sum
from transforms.index import FOOTER_KEY, SCHEMA, Index, Part, index_directory, members, read_current, units_of
from transforms.records import ImageRef
from transforms.storage import commit, delete_directory, list_names, swap

UNITS_PER_PART = 512
ABANDONED_AFTER_SECONDS = 24 * 3600
SNAPSHOT_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ-[0-9a-f]{6}$")


@dataclass(frozen=True)
class Changes:
    """What an update found.

    Attributes:
        new: Images that were not in the index.
        changed: Images that were, with another size or version.
        duplicates: Images listed more than once, counted each time after the first.
    """

    new: int
    changed: int
    duplicates: int


@dataclass(frozen=True)
class UnitSize:
    """How new images are cut into units.

    Attributes:
        images: The most that a unit holds.
        units: The fewest that the images are cut into, so that every thread has some, as long as
        least_images: are left in each.
    """

    images: int
    units: int = 1
    least_images: int = 1

    def of(self, n_images: int) -> int:
        """Images a unit, where so many are to be cut."""
        return min(self.images, max(self.least_images, -(-n_images // self.units)))


def update(
    output: str, list_images: Callable[[], Iterable[ImageRef]], unit_size: UnitSize
) -> tuple[Index, Changes]:
    """Bring the index up to date with a listing: new images become new units, changed ones stay in theirs.

    Where two processes do this at once, one wins and the other starts again from the winner's index, so that
    nothing is indexed twice.

    Args:
        output: The output directory.
        list_images: Gives a fresh listing; of equal uris the first counts.
        unit_size: Size of new units; existing ones keep theirs.

    Returns:
        The current index, and what the listing changed in it.
    """
    while True:
        current, token = read_current(index_directory(output))
        index, changes = _next_snapshot(index_directory(output), current, list_images(), unit_size)
        if index == current or _make_current(index, token):
            return index, changes


def _next_snapshot(
    directory: str, current: Index | None, listed: Iterable[ImageRef], unit_size: UnitSize
) -> tuple[Index, Changes]:
    """The index after a listing, its new parts written but not yet current; `current` itself if nothing is new."""
    compared = _Comparison(current)
    snapshot = f"{time.strftime('%Y-%m-%dT%H-%M-%SZ', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    writer = _SnapshotWriter(directory, snapshot, current.n_units if current else 0)
    complete = False
    try:
        added = writer.add_units(compared.new_images(listed), unit_size)
        kept = writer.replace_changed(current, compared.changed) if current else []
        complete = True
    finally:
        if not complete:
            delete_directory(os.path.join(directory, snapshot))
    changes = Changes(compared.new, len(compared.changed), compared.duplicates)
    if current and not added and not compared.changed:
        return current, changes
    ancestors = (*current.ancestors, current.snapshot) if current else ()
    return Index(directory, snapshot, ancestors, (*kept, *added)), changes


def _make_current(index: Index, token: str | None) -> bool:
    """Whether this snapshot became the current one; if another process was faster, its parts are removed."""
    if not swap(os.path.join(index.directory, "CURRENT.json"), _to_json(index), token):
        delete_directory(os.path.join(index.directory, index.snapshot))
        return False
    _sweep_abandoned(index)
    return True


class _Comparison:
    """Tells new, changed and repeated images from those that an index holds already."""

    def __init__(self, current: Index | None) -> None:
        self.new = 0
        self.duplicates = 0
        self.changed: dict[str, ImageRef] = {}
        self._known: dict[str, tuple[int | None, str | None]] = {}
        for unit in current.units() if current else ():
            self._known.update((ref.uri, (ref.size, ref.version)) for ref in members(unit))

    def new_images(self, listed: Iterable[ImageRef]) -> Iterator[ImageRef]:
        seen: set[str] = set()
        for ref in listed:
            if ref.uri in seen:
                self.duplicates += 1
                continue
            seen.add(ref.uri)
            if ref.uri not in self._known:
                self.new += 1
                yield ref
            elif ref.version is not None and (ref.size, ref.version) != self._known[ref.uri]:
                self.changed[ref.uri] = ref


class _SnapshotWriter:
    """Writes the parts of one snapshot; numbers its units from `first_unit`."""

    def __init__(self, directory: str, snapshot: str, first_unit: int) -> None:
        self._directory = directory
        self._snapshot = snapshot
        self._first_unit = first_unit
        self._parts = 0

    def add_units(self, refs: Iterable[ImageRef], unit_size: UnitSize) -> list[Part]:
        parts = []
        remaining = iter(refs)
        while chunk := list(itertools.islice(remaining, unit_size.images * UNITS_PER_PART)):
            images_per_unit = unit_size.of(len(chunk))
            chunk.sort(key=lambda ref: ref.uri)
            groups = [chunk[i : i + images_per_unit] for i in range(0, len(chunk), images_per_unit)]
            parts.append(self._write(groups, self._first_unit))
            self._first_unit += len(groups)
        return parts

    def replace_changed(self, current: Index, changed: dict[str, ImageRef]) -> list[Part]:
        """The current parts, those that hold a changed image written anew with the same boundaries."""
        parts = []
        for part, path in zip(current.parts, current.part_paths(), strict=True):
            groups = [members(unit) for unit in units_of(path)] if changed else []
            if any(ref.uri in changed for group in groups for ref in group):
                groups = [[changed.get(ref.uri, ref) for ref in group] for group in groups]
                parts.append(self._write(groups, part.first_unit))
            else:
                parts.append(part)
        return parts

    def _write(self, groups: list[list[ImageRef]], first_unit: int) -> Part:
        units = [
            {
                "n_images": len(group),
                "uri_hash_sum": uri_hash_sum(ref.uri for ref in group),
                "members": members_hash(group),
            }
            for group in groups
        ]
        footer = json.dumps({"first_unit": first_unit, "units": units}).encode()
        name = f"{self._snapshot}/part-{self._parts:05d}.parquet"
        self._parts += 1
        with tempfile.NamedTemporaryFile(suffix=".parquet") as temporary:
            with pq.ParquetWriter(
                temporary.name,
                SCHEMA.with_metadata({FOOTER_KEY: footer}),
                compression="zstd",
                write_statistics=False,
            ) as writer:
                for group in groups:
                    writer.write_table(_table(group), row_group_size=len(group))
            sha256 = hashlib.sha256(temporary.read()).hexdigest()
            commit(temporary.name, os.path.join(self._directory, name))
        return Part(name, sha256, first_unit, len(groups), sum(map(len, groups)))


def _table(refs: list[ImageRef]) -> pa.Table:
    columns = [[ref.uri for ref in refs], [ref.size for ref in refs], [ref.version for ref in refs]]
    return pa.table(
        [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def _to_json(index: Index) -> bytes:
    fields = {
        "snapshot": index.snapshot,
        "ancestors": index.ancestors,
        "images": index.n_images,
        "units": index.n_units,
        "parts": [asdict(part) for part in index.parts],
    }
    return json.dumps(fields, indent=1).encode()


def _sweep_abandoned(index: Index) -> None:
    """Remove what interrupted listings left; a listing younger than a day may be running elsewhere.

    What was current once stays: a run that began with it may be going on.
    """
    known = {index.snapshot, *index.ancestors}
    oldest = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime(time.time() - ABANDONED_AFTER_SECONDS))
    for name in list_names(index.directory):
        if SNAPSHOT_NAME.match(name) and name not in known and name < oldest:
            delete_directory(os.path.join(index.directory, name))

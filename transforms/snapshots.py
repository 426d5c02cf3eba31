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

from transforms.changes import Changes, Comparison
from transforms.containers import compressed
from transforms.fingerprints import members_hash, uri_hash_sum
from transforms.index import FOOTER_KEY, SCHEMA, Index, Part, index_directory, read_current, table_of
from transforms.records import ImageRef
from transforms.sorting import SortedImages, read_images, sort_images, write_images
from transforms.storage import commit, delete_directory, list_names, swap

UNITS_PER_PART = 512
ABANDONED_AFTER_SECONDS = 24 * 3600
SNAPSHOT_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ-[0-9a-f]{6}$")


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
    output: str,
    images: Iterable[ImageRef],
    unit_size: UnitSize,
    kept_columns: Callable[[], pa.Schema] = lambda: pa.schema([]),
) -> tuple[Index, Changes]:
    """Bring the index up to date with a listing: new images become new units, changed ones stay in theirs.

    Where two processes do this at once, one wins and the other compares again with the winner's index, so that
    nothing is indexed twice. What is listed goes through files on the local disk, so that memory does not grow with it.

    Args:
        output: The output directory.
        images: As listed; of equal uris the first counts.
        unit_size: Size of new units; existing ones keep theirs.
        kept_columns: The columns that images carry along, asked for once they are listed.

    Returns:
        The current index, and what the listing changed in it.
    """
    with tempfile.TemporaryDirectory(prefix="pixelbeam-") as folder:
        listed = sort_images(images, folder)
        kept = kept_columns()
        while True:
            current, token = read_current(index_directory(output))
            compared = Comparison(current, kept, folder)
            index = _next_snapshot(index_directory(output), current, listed, unit_size, compared)
            if index == current or _make_current(index, token):
                return index, compared.changes


def preview(
    output: str,
    images: Iterable[ImageRef],
    unit_size: UnitSize,
    kept_columns: Callable[[], pa.Schema],
    folder: str,
) -> tuple[list[str], Changes]:
    """What `update` would do, which is left undone.

    Args:
        output: The output directory.
        images: As listed.
        unit_size: Size of new units.
        kept_columns: The columns that images carry along.
        folder: On the local disk, for the parts that would be written.

    Returns:
        Paths of the parts that would be current, and what the listing would change.
    """
    listed = sort_images(images, folder)
    current, _ = read_current(index_directory(output))
    compared = Comparison(current, kept_columns(), folder)
    index = _next_snapshot(index_directory(folder), current, listed, unit_size, compared)
    stay = set(current.parts) if current else set()
    owners = [current if current and part in stay else index for part in index.parts]
    paths = [
        os.path.join(owner.directory, part.path) for owner, part in zip(owners, index.parts, strict=True)
    ]
    return paths, compared.changes


def _next_snapshot(
    directory: str, current: Index | None, listed: SortedImages, unit_size: UnitSize, compared: Comparison
) -> Index:
    """The index after a listing, its new parts written but not yet current; `current` itself if nothing is new."""
    snapshot = f"{time.strftime('%Y-%m-%dT%H-%M-%SZ', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    writer = _SnapshotWriter(directory, snapshot, current.n_units if current else 0, compared.kept)
    complete = False
    try:
        with tempfile.TemporaryFile() as spool:
            n_new = write_images(compared.new_images(listed), spool)
            added = writer.add_units(read_images(spool), unit_size.of(n_new))
        replaced = writer.replace(current, compared) if current else []
        complete = True
    finally:
        if not complete:
            delete_directory(os.path.join(directory, snapshot))
    if current and not added and tuple(replaced) == current.parts:
        return current
    ancestors = (*current.ancestors, current.snapshot) if current else ()
    return Index(directory, snapshot, ancestors, (*replaced, *added))


def _make_current(index: Index, token: str | None) -> bool:
    """Whether this snapshot became the current one; if another process was faster, its parts are removed."""
    if not swap(os.path.join(index.directory, "CURRENT.json"), _to_json(index), token):
        delete_directory(os.path.join(index.directory, index.snapshot))
        return False
    _sweep_abandoned(index)
    return True


class _SnapshotWriter:
    """Writes the parts of one snapshot; numbers its units from `first_unit`."""

    def __init__(self, directory: str, snapshot: str, first_unit: int, kept: pa.Schema) -> None:
        self._directory = directory
        self._snapshot = snapshot
        self._first_unit = first_unit
        self._kept = kept
        self._parts = 0

    def add_units(self, refs: Iterable[ImageRef], images_per_unit: int) -> list[Part]:
        """New units of sorted images."""
        parts = []
        units = _cut(refs, images_per_unit)
        while first := next(units, None):
            part = itertools.chain([first], itertools.islice(units, UNITS_PER_PART - 1))
            parts.append(self._write(part, self._first_unit))
            self._first_unit += parts[-1].units
        return parts

    def replace(self, current: Index, compared: Comparison) -> list[Part]:
        """The current parts, those that hold a changed image written anew with the same boundaries."""
        return [
            self._write(compared.updated_units(path), part.first_unit) if path in compared.stale else part
            for part, path in zip(current.parts, current.part_paths(), strict=True)
        ]

    def _write(self, groups: Iterable[list[ImageRef]], first_unit: int) -> Part:
        name = f"{self._snapshot}/part-{self._parts:05d}.parquet"
        self._parts += 1
        units = []
        n_images = 0
        with tempfile.NamedTemporaryFile(suffix=".parquet") as temporary:
            schema = pa.schema([*SCHEMA, *self._kept])
            with pq.ParquetWriter(
                temporary.name, schema, compression="zstd", write_statistics=False
            ) as writer:
                for group in groups:
                    writer.write_table(table_of(group, self._kept), row_group_size=len(group))
                    n_images += len(group)
                    units.append(
                        {
                            "n_images": len(group),
                            "uri_hash_sum": uri_hash_sum(ref.uri for ref in group),
                            "members": members_hash(group),
                        }
                    )
                footer = json.dumps({"first_unit": first_unit, "units": units})
                writer.add_key_value_metadata({FOOTER_KEY: footer.encode()})
            sha256 = hashlib.sha256(temporary.read()).hexdigest()
            commit(temporary.name, os.path.join(self._directory, name))
        return Part(name, sha256, first_unit, len(units), n_images)


def _cut(refs: Iterable[ImageRef], images_per_unit: int) -> Iterator[list[ImageRef]]:
    """Units of so many images; a compressed container, which can only be read from its beginning, is in one."""
    unit: list[ImageRef] = []
    for ref in refs:
        if len(unit) >= images_per_unit and not _follows_in_compressed(ref, unit[-1]):
            yield unit
            unit = []
        unit.append(ref)
    if unit:
        yield unit


def _follows_in_compressed(ref: ImageRef, before: ImageRef) -> bool:
    return (
        ref.place is not None
        and before.place is not None
        and ref.place.container == before.place.container
        and compressed(ref.place.container)
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

"""What is to be done: the listed images cut into units, kept beside the output, only ever added to."""

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

from transforms.errors import RunError
from transforms.fingerprints import members_hash, uri_hash_sum
from transforms.records import ImageRef, Unit
from transforms.storage import commit, delete, list_names, open_file, read_versioned, swap

UNITS_PER_PART = 512
ABANDONED_AFTER_SECONDS = 24 * 3600
SCHEMA = pa.schema(
    [pa.field("uri", pa.string(), nullable=False), ("size", pa.int64()), ("version", pa.string())]
)
FOOTER_KEY = b"pixelbeam"
SNAPSHOT_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ-[0-9a-f]{6}$")


@dataclass(frozen=True)
class Part:
    """One Parquet file of the index.

    Attributes:
        path: Relative to the index directory.
        sha256: Of the file, 64 hex digits.
        first_unit: Number of the unit in its first row group.
        units: Row groups.
        images: Rows.
    """

    path: str
    sha256: str
    first_unit: int
    units: int
    images: int


@dataclass(frozen=True)
class Index:
    """One snapshot of what is to be done.

    Attributes:
        directory: Where the index lies.
        snapshot: Name of the snapshot.
        ancestors: Names of those that it was made from, the oldest first.
        parts: In the order of their units.
    """

    directory: str
    snapshot: str
    ancestors: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def n_images(self) -> int:
        """Images in all units."""
        return sum(part.images for part in self.parts)

    @property
    def n_units(self) -> int:
        """Units in all parts."""
        return sum(part.units for part in self.parts)

    def part_paths(self) -> list[str]:
        """Each part's full path."""
        return [os.path.join(self.directory, part.path) for part in self.parts]

    def units(self) -> Iterator[Unit]:
        """Every unit, in order."""
        return itertools.chain.from_iterable(map(units_of, self.part_paths()))


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


def index_directory(output: str) -> str:
    """Where an output directory keeps its index."""
    return os.path.join(output, "_index")


def read(output: str) -> Index | None:
    """The current index of an output directory; None before a listing was completed."""
    return _read_current(index_directory(output))[0]


def units_of(part_path: str) -> Iterator[Unit]:
    """The units of one index part, read from its footer."""
    with open_file(part_path) as file:
        footer = json.loads(pq.ParquetFile(file).schema_arrow.metadata[FOOTER_KEY])
    for row_group, unit in enumerate(footer["units"]):
        yield Unit(footer["first_unit"] + row_group, part_path, row_group, **unit)


def members(unit: Unit) -> list[ImageRef]:
    """The images of one unit, in order."""
    with open_file(unit.index_part) as file:
        table = pq.ParquetFile(file).read_row_group(unit.row_group)
    return _refs(table)


def update(
    output: str, list_images: Callable[[], Iterable[ImageRef]], images_per_unit: int
) -> tuple[Index, Changes]:
    """Bring the index up to date with a listing: new images become new units, changed ones stay in theirs.

    Where two processes do this at once, one wins and the other starts again from the winner's index, so that
    nothing is indexed twice.

    Args:
        output: The output directory.
        list_images: Gives a fresh listing; of equal uris the first counts.
        images_per_unit: Size of new units; existing ones keep theirs.

    Returns:
        The current index, and what the listing changed in it.
    """
    while True:
        current, token = _read_current(index_directory(output))
        index, changes = _next_snapshot(index_directory(output), current, list_images(), images_per_unit)
        if index == current or _make_current(index, token):
            return index, changes


def _next_snapshot(
    directory: str, current: Index | None, listed: Iterable[ImageRef], images_per_unit: int
) -> tuple[Index, Changes]:
    """The index after a listing, its new parts written but not yet current; `current` itself if nothing is new."""
    compared = _Comparison(current)
    snapshot = f"{time.strftime('%Y-%m-%dT%H-%M-%SZ', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    writer = _SnapshotWriter(directory, snapshot, current.n_units if current else 0)
    complete = False
    try:
        added = writer.add_units(compared.new_images(listed), images_per_unit)
        kept = writer.replace_changed(current, compared.changed) if current else []
        complete = True
    finally:
        if not complete:
            delete(os.path.join(directory, snapshot))
    changes = Changes(compared.new, len(compared.changed), compared.duplicates)
    if current and not added and not compared.changed:
        return current, changes
    ancestors = (*current.ancestors, current.snapshot) if current else ()
    return Index(directory, snapshot, ancestors, (*kept, *added)), changes


def _make_current(index: Index, token: str | None) -> bool:
    """Whether this snapshot became the current one; if another process was faster, its parts are removed."""
    if not swap(os.path.join(index.directory, "CURRENT.json"), _to_json(index), token):
        delete(os.path.join(index.directory, index.snapshot))
        return False
    _sweep_abandoned(index)
    return True


def holds(output: str, unit: Unit) -> bool:
    """Whether the current index still has the unit as it is; another launcher may have found an image changed."""
    current = read(output)
    if current is None or unit.index_part in current.part_paths():
        return True
    return any(other.number == unit.number and other.members == unit.members for other in current.units())


def check_parts(index: Index) -> list[str]:
    """What is wrong with the index's files, one line each; none where all are as CURRENT.json says."""
    wrong = []
    for part, path in zip(index.parts, index.part_paths(), strict=True):
        try:
            content = read_versioned(path)[0]
        except OSError as error:
            content = None
            wrong.append(f"{path} cannot be read: {error.strerror}")
            continue
        if content is None:
            wrong.append(f"{path} is missing")
        elif hashlib.sha256(content).hexdigest() != part.sha256:
            wrong.append(f"{path} was changed after it was written")
    return wrong


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

    def add_units(self, refs: Iterable[ImageRef], images_per_unit: int) -> list[Part]:
        parts = []
        remaining = iter(refs)
        while chunk := list(itertools.islice(remaining, images_per_unit * UNITS_PER_PART)):
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


def _refs(table: pa.Table) -> list[ImageRef]:
    columns = (table.column(name).to_pylist() for name in SCHEMA.names)
    return [ImageRef(uri, size, version) for uri, size, version in zip(*columns, strict=True)]


def _read_current(directory: str) -> tuple[Index | None, str | None]:
    path = os.path.join(directory, "CURRENT.json")
    content, token = read_versioned(path)
    if content is None:
        return None, None
    try:
        fields = json.loads(content)
        parts = tuple(Part(**part) for part in fields["parts"])
        return Index(directory, fields["snapshot"], tuple(fields["ancestors"]), parts), token
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not an index ({error}); give another --output") from error


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
            delete(os.path.join(index.directory, name))

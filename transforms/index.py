"""What is to be done: the listed images cut into units, kept beside the output."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.errors import RunError
from transforms.metadata import read_metadata
from transforms.records import ImageRef, Place, Unit
from transforms.storage import open_file, read_versioned

SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        ("size", pa.int64()),
        ("version", pa.string()),
        ("_container", pa.string()),
        ("_offset", pa.int64()),
        ("_image_column", pa.string()),
    ]
)
"""The columns of every part, before those that are kept from the source."""
FOOTER_KEY = b"pixelbeam"


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


def index_directory(output: str) -> str:
    """Where an output directory keeps its index."""
    return os.path.join(output, "_index")


def read(output: str) -> Index | None:
    """The current index of an output directory; None before a listing was completed."""
    return read_current(index_directory(output))[0]


def units_of(part_path: str) -> Iterator[Unit]:
    """The units of one index part, read from its footer."""
    footer = json.loads(read_metadata(part_path).metadata[FOOTER_KEY])
    for row_group, unit in enumerate(footer["units"]):
        yield Unit(footer["first_unit"] + row_group, part_path, row_group, **unit)


def members(unit: Unit) -> list[ImageRef]:
    """The images of one unit, in order."""
    with open_file(unit.index_part) as file:
        table = pq.ParquetFile(file).read_row_group(unit.row_group)
    return refs_of(table)


def kept_columns(part_path: str) -> pa.Schema:
    """The columns of an index part that are kept from the source."""
    schema = read_metadata(part_path).schema.to_arrow_schema()
    return pa.schema([schema.field(number) for number in range(len(SCHEMA), len(schema))])


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


def table_of(refs: Sequence[ImageRef], kept: pa.Schema) -> pa.Table:
    """A unit's images as a row group; the inverse of `refs_of`."""
    places = [ref.place for ref in refs]
    columns = [
        [ref.uri for ref in refs],
        [ref.size for ref in refs],
        [ref.version for ref in refs],
        [place and place.container for place in places],
        [None if place is None else place.offset for place in places],
        [place and place.image_column for place in places],
        *([ref.kept[number] for ref in refs] for number in range(len(kept))),
    ]
    schema = pa.schema([*SCHEMA, *kept])
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def refs_of(table: pa.Table) -> list[ImageRef]:
    """The images in a row group of a part."""
    uris, sizes, versions, containers, offsets, columns, *kept = (
        column.to_pylist() for column in table.columns
    )
    places = [
        None if container is None else Place(container, offset, column)
        for container, offset, column in zip(containers, offsets, columns, strict=True)
    ]
    values = zip(*kept, strict=True) if kept else itertools.repeat(())
    return [ImageRef(*fields) for fields in zip(uris, sizes, versions, places, values, strict=False)]


def read_current(directory: str) -> tuple[Index | None, str | None]:
    """The current index of an index directory, or None, and the token to replace it by `storage.swap`."""
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

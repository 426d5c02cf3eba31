"""Parquet files with a column of image bytes."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.compression import Broken, WatchedFile
from transforms.containers import Layout, Member, break_at, broken, check_keep, too_many_bytes
from transforms.errors import BadImage, UsageError

USUAL_NAME = "image"

BATCH_ROWS = 64
BATCH_BYTES = 16_000_000
READ_BYTES = 1 << 20
"""Without a buffer Arrow reads a row group's whole column before its first row."""


def has_images(file: BinaryIO, path: str, layout: Layout) -> bool:
    """Whether the file is a container: it has a column of images, or cannot be read; else it is a manifest.

    Args:
        file: Seekable, at position 0.
        path: Its name, for the message.
        layout: What the column of images is called, if that is known.

    Raises:
        UsageError: It holds neither images nor a column `uri`, or several columns may hold the images.
    """
    try:
        schema = _Table(file).schema
    except Broken:
        return True
    if layout.image_column is None and _is_manifest(schema):
        return False
    _image_column(schema, path, layout)
    return True


def kept_types(file: BinaryIO, path: str, layout: Layout) -> pa.Schema:
    """See `containers.kept_types`; a file that cannot be read has no rows, and null for each column."""
    try:
        schema = _Table(file).schema
    except Broken:
        return pa.schema([(name, pa.null()) for name in layout.keep])
    _check_kept(schema, path, layout)
    return pa.schema([(name, _decoded(schema.field(name).type)) for name in layout.keep])


def scan(file: BinaryIO, path: str, layout: Layout) -> Iterator[Member]:
    """See `containers.scan`: every row is a member; the images are not read.

    Raises:
        UsageError: There is no column of images; or a kept column is missing or cannot be read.
    """
    try:
        table = _Table(file)
    except Broken:
        if file.seek(0, os.SEEK_END):
            yield break_at(0, layout)
        return
    check_keep(layout, _image_column(table.schema, path, layout), path)
    _check_kept(table.schema, path, layout)
    if not layout.keep:
        yield from (Member(str(row), row, None, ()) for row in range(table.n_rows))
        return
    row = 0
    try:
        for group in range(table.n_groups):
            for batch in table.batches(group, list(layout.keep), BATCH_ROWS):
                columns = [_values(batch.column(name)) for name in layout.keep]
                for kept in zip(*columns, strict=True):
                    yield Member(str(row), row, None, kept)
                    row += 1
    except Broken as error:
        names = ", ".join(map(repr, layout.keep))
        raise UsageError(
            f"{path}: {names} cannot be read from row {row} on: {error}; do not keep it"
        ) from error


def read(file: BinaryIO, path: str, layout: Layout, offsets: Sequence[int]) -> Iterator[bytes | BadImage]:
    """See `containers.read`; of each row group with a wanted row the images down to the last such row are read.

    Memory: about three pages of the column, besides a batch of rows; who writes the file decides how large they are.
    A row group that cannot be read fails from there on; the next one is tried.
    """
    try:
        table = _Table(file)
    except Broken as error:
        yield from [broken("byte 0", error)] * len(offsets)
        return
    name = _image_column(table.schema, path, layout)
    column = f"{name}.bytes" if pa.types.is_struct(table.schema.field(name).type) else name
    for group in range(table.n_groups):
        first, last = table.starts[group], table.starts[group + 1]
        wanted = offsets[bisect_left(offsets, first) : bisect_left(offsets, last)]
        yield from _row_group(table, group, column, wanted, BATCH_ROWS)
    for row in offsets[bisect_left(offsets, table.n_rows) :]:
        yield BadImage("changed", f"there is no row {row} any more")


class _Table:
    """A Parquet file.

    Attributes:
        schema: Of its columns.
        starts: The number of each row group's first row, and of all rows.

    Raises:
        Broken: It is no Parquet file, or its footer is cut off.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._watched = WatchedFile(file)
        try:
            source = pa.PythonFile(self._watched, mode="r")
            self._file = pq.ParquetFile(source, buffer_size=READ_BYTES, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise self._broken(error) from error
        self.schema: pa.Schema = self._file.schema_arrow
        metadata = self._file.metadata
        self.starts = [0]
        for group in range(metadata.num_row_groups):
            self.starts.append(self.starts[-1] + metadata.row_group(group).num_rows)

    @property
    def n_rows(self) -> int:
        return self.starts[-1]

    @property
    def n_groups(self) -> int:
        return len(self.starts) - 1

    def batches(self, group: int, columns: list[str], most_rows: int) -> Iterator[pa.RecordBatch]:
        """A row group's columns, at most so many rows at a time, and fewer if they are large.

        Raises:
            Broken: They cannot be read on.
        """
        rows = max(1, min(most_rows, self._rows_that_fit(group, columns)))
        batches = self._file.iter_batches(rows, [group], columns, use_threads=False)
        try:
            yield from batches
        except (pa.ArrowException, OSError) as error:
            raise self._broken(error) from error

    def _rows_that_fit(self, group: int, columns: list[str]) -> int:
        metadata = self._file.metadata.row_group(group)
        chunks = [metadata.column(number) for number in range(metadata.num_columns)]
        wanted = tuple(f"{column}." for column in columns)
        n_bytes = sum(
            chunk.total_uncompressed_size for chunk in chunks if f"{chunk.path_in_schema}.".startswith(wanted)
        )
        return BATCH_BYTES * metadata.num_rows // max(n_bytes, 1)

    def _broken(self, error: Exception) -> Broken:
        """What a Parquet error means; what the file itself raised is raised again."""
        if self._watched.failed:
            raise error
        return Broken(str(error).partition("\n")[0])


def _row_group(
    table: _Table, group: int, column: str, wanted: Sequence[int], most_rows: int
) -> Iterator[bytes | BadImage]:
    done = 0
    try:
        for image in _images(table, group, column, wanted, most_rows):
            yield image
            done += 1
    except Broken as error:
        if most_rows > 1:
            # For the rows before the break, which were in one batch with it.
            yield from _row_group(table, group, column, wanted[done:], 1)
        else:
            yield from [broken(f"row {wanted[done]}", error)] * (len(wanted) - done)


def _images(
    table: _Table, group: int, column: str, wanted: Sequence[int], most_rows: int
) -> Iterator[bytes | BadImage]:
    """The images of the wanted rows, which lie in that row group."""
    remaining = iter(wanted)
    row = next(remaining, None)
    start = table.starts[group]
    batches = table.batches(group, [column], most_rows)
    while row is not None:
        batch = next(batches, None)
        if batch is None:
            raise Broken(f"its row group has only {start - table.starts[group]} rows")
        cells = batch.column(0)
        values = cells.field(0) if pa.types.is_struct(cells.type) else cells
        while row is not None and row < start + len(values):
            yield _image(values[row - start].as_py(), row)
            row = next(remaining, None)
        start += len(values)


def _image(value: bytes | None, row: int) -> bytes | BadImage:
    if not value:
        return BadImage("no_image", f"row {row} holds no bytes")
    return too_many_bytes(len(value)) or value


def _values(column: pa.Array) -> list[Any]:
    """Python values; Arrow's own where Python has none that are fine enough (nanoseconds)."""
    if "[ns" in str(column.type):
        return [value if value.is_valid else None for value in column]
    try:
        return column.to_pylist()
    except UnicodeDecodeError as error:
        raise Broken(str(error)) from error


def _image_column(schema: pa.Schema, path: str, layout: Layout) -> str:
    """The name of the column that holds the images, as bytes or as Hugging Face's struct of bytes and path."""
    name = layout.image_column
    if name is None:
        candidates = _candidates(schema)
        if not candidates:
            raise UsageError(
                f"{path} holds no images: no column of bytes and no 'uri', only {_columns(schema)}; name other files"
            )
        if len(candidates) > 1 and USUAL_NAME not in candidates:
            names = ", ".join(map(repr, candidates))
            raise UsageError(
                f"{path}: several columns hold bytes: {names}; say which are the images by --image-column"
            )
        name = USUAL_NAME if USUAL_NAME in candidates else candidates[0]
    elif name not in schema.names:
        raise UsageError(
            f"{path} has no column {name!r} for the images, only {_columns(schema)}; correct --image-column"
        )
    elif not _holds_bytes(schema.field(name).type):
        raise UsageError(
            f"{path}: column {name!r} holds {schema.field(name).type}, not the bytes of images; correct --image-column"
        )
    return name


def _candidates(schema: pa.Schema) -> list[str]:
    """Columns that may hold images; bytes of one fixed length, which hashes have, only where there are no others."""
    names = [field.name for field in schema if _holds_bytes(field.type) and field.name != "uri"]
    return [name for name in names if not _is_fixed(schema.field(name).type)] or names


def _is_manifest(schema: pa.Schema) -> bool:
    if "uri" not in schema.names:
        return False
    return all(_is_fixed(schema.field(name).type) for name in _candidates(schema))


def _holds_bytes(column: pa.DataType) -> bool:
    if pa.types.is_struct(column):
        children = {field.name: field.type for field in column}
        return set(children) <= {"bytes", "path"} and "bytes" in children and _is_bytes(children["bytes"])
    return _is_bytes(column)


def _is_bytes(column: pa.DataType) -> bool:
    column = _decoded(column)
    kinds = (
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_fixed_size_binary,
    )
    return any(is_kind(column) for is_kind in kinds)


def _is_fixed(column: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_binary(_decoded(column)))


def _is_text(column: pa.DataType) -> bool:
    return bool(pa.types.is_string(column) or pa.types.is_large_string(column))


def _decoded(column: pa.DataType) -> pa.DataType:
    return column.value_type if pa.types.is_dictionary(column) else column


def _check_kept(schema: pa.Schema, path: str, layout: Layout) -> None:
    for name in layout.keep:
        if name not in schema.names:
            raise UsageError(
                f"{path} has no column {name!r} to keep, only {_columns(schema)}; correct --keep"
            )


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name!r} ({field.type})" for field in schema) or "none"

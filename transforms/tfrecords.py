"""TFRecord files of tf.Examples that hold an image each."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import google_crc32c
import pyarrow as pa

from transforms.compression import Broken, ByteStream, codec_of, misnamed
from transforms.containers import Layout, Member, break_at, broken, check_keep, too_many_bytes
from transforms.errors import BadImage, UsageError

IMAGE_FEATURE = "image/encoded"

BATCH_RECORDS = 64
BATCH_BYTES = 1_000_000
"""Records of 100 KB take a quarter of the time in batches of ten that they take in batches of 64."""

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_KEPT_TYPES = {
    pa.int64(): pa.list_(pa.int64()),
    pa.float32(): pa.list_(pa.float32()),
    pa.large_binary(): pa.list_(pa.binary()),
}


@dataclass(frozen=True, eq=False)
class _Record:
    """A record, or why there is none.

    Attributes:
        offset: Of its length field.
        size: What that field says; None where the file is broken there.
        content: The serialized tf.Example.
    """

    offset: int
    size: int | None
    content: bytes | BadImage


def kept_types(file: BinaryIO, path: str, layout: Layout) -> pa.Schema:
    """See `containers.kept_types`."""
    features = _KeptFeatures(path, layout.keep)
    for batch in _batches(_records(_open(file, path))):
        features.values(batch)
        if len(features.types) == len(layout.keep):
            break
    return pa.schema([(name, features.types.get(name, pa.null())) for name in layout.keep])


def scan(file: BinaryIO, path: str, layout: Layout) -> Iterator[Member]:
    """See `containers.scan`: every record is a member, whether or not there is an image in it."""
    check_keep(layout, layout.image_column or IMAGE_FEATURE, path)
    stream = _open(file, path)
    features = _KeptFeatures(path, layout.keep)
    if not layout.keep:
        for number, record in enumerate(_records(stream, headers_only=True)):
            yield _member(number, record, (), layout)
        return
    numbers = itertools.count()
    for batch in _batches(_records(stream)):
        for record, kept in zip(batch, features.values(batch), strict=True):
            yield _member(next(numbers), record, kept, layout)


def read(file: BinaryIO, path: str, layout: Layout, offsets: Sequence[int]) -> Iterator[bytes | BadImage]:
    """See `containers.read`. The checksum of each record is checked."""
    stream = _open(file, path)
    examples = _Examples()
    feature = layout.image_column or IMAGE_FEATURE
    for batch in _batches(_record_at(stream, offset) for offset in offsets):
        for row in examples.rows(batch):
            yield _image(row, feature)


def _open(file: BinaryIO, path: str) -> ByteStream:
    return ByteStream(file, codec_of(path))


def _member(number: int, record: _Record, kept: tuple[Any, ...], layout: Layout) -> Member:
    if record.size is None:
        return break_at(record.offset, layout)
    return Member(str(number), record.offset, record.size, kept)


def _records(stream: ByteStream, headers_only: bool = False) -> Iterator[_Record]:
    """All records; the last one may be a break. With `headers_only` their contents are empty."""
    while True:
        offset = stream.position
        try:
            record = _next_record(stream, headers_only)
        except Broken as error:
            yield _Record(offset, None, broken(f"byte {offset}", error))
            return
        if record is None:
            return
        yield record


def _record_at(stream: ByteStream, offset: int) -> _Record:
    try:
        stream.move_to(offset)
        record = _next_record(stream)
    except Broken as error:
        return _Record(offset, None, broken(f"byte {offset}", error))
    return record or _Record(offset, 0, BadImage("changed", f"no record begins at byte {offset} any more"))


def _next_record(stream: ByteStream, headers_only: bool = False) -> _Record | None:
    """The record at the stream's position, which is left behind it; None at the end of the file.

    The format (tensorflow/core/lib/io/record_writer.h): uint64 length, masked CRC-32C of the length, content, masked
    CRC-32C of the content, all little-endian.

    Raises:
        Broken: The record is cut off, or its length is not to be trusted.
    """
    offset = stream.position
    header = stream.read(_HEADER.size)
    if not header:
        return None
    if len(header) < _HEADER.size:
        raise Broken("it ends inside the length of a record")
    size, length_crc = _HEADER.unpack(header)
    if _masked_crc(header[:8]) != length_crc:
        raise Broken(f"the crc of a record's length is wrong{misnamed(header)}")
    reason = too_many_bytes(size)
    if headers_only or reason:
        stream.move_to(stream.position + size + _CRC.size)
        return _Record(offset, size, reason or b"")
    content = stream.exactly(size)
    (content_crc,) = _CRC.unpack(stream.exactly(_CRC.size))
    if _masked_crc(content) != content_crc:
        return _Record(offset, size, BadImage("corrupt", "the crc of the record is wrong"))
    return _Record(offset, size, content)


def _masked_crc(content: bytes) -> int:
    """CRC-32C, rotated and shifted by a constant as TensorFlow does (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _batches(records: Iterator[_Record]) -> Iterator[list[_Record]]:
    """The records in lists of at most `BATCH_RECORDS` and not much more than `BATCH_BYTES`."""
    batch: list[_Record] = []
    n_bytes = 0
    for record in records:
        batch.append(record)
        n_bytes += 0 if isinstance(record.content, BadImage) else len(record.content)
        if len(batch) == BATCH_RECORDS or n_bytes >= BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


_Row = tuple[pa.RecordBatch, int]


class _Examples:
    """tf.Examples as Arrow: a column a feature, a list a record; null where the record has no such feature."""

    def __init__(self) -> None:
        try:
            from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder
        except ImportError as error:
            raise UsageError(
                "TFRecords are read by tfx-bsl, which is not installed (there is none for Python 3.10): "
                "use Python 3.11 or later, or put the images into tar or Parquet files"
            ) from error
        self._decoder = ExamplesToRecordBatchDecoder()

    def rows(self, batch: list[_Record]) -> list[_Row | BadImage]:
        """For each record the table and row that hold its features, or why there are none."""
        rows: list[_Row | BadImage] = []
        for record, row in zip(batch, self._decoded([_content(record) for record in batch]), strict=True):
            rows.append(record.content if isinstance(record.content, BadImage) else row)
        return rows

    def _decoded(self, contents: list[bytes]) -> list[_Row | BadImage]:
        # One record that is odd, or that differs from the others in a feature's type, fails the whole batch.
        try:
            table = self._decoder.DecodeBatch(contents)
        except RuntimeError:
            if len(contents) > 1:
                return [row for content in contents for row in self._decoded([content])]
            return [BadImage("no_image", "the record is not a tf.Example")]
        return [(table, row) for row in range(len(contents))]


def _content(record: _Record) -> bytes:
    """What to decode; nothing is a tf.Example without features."""
    return record.content if isinstance(record.content, bytes) else b""


def _column(table: pa.RecordBatch, feature: str) -> pa.Array | None:
    """The feature's lists; None where no record of the table has it."""
    place = table.schema.get_field_index(feature)
    return None if place < 0 else table.column(place)


class _KeptFeatures:
    """The values of the kept features, whose types must be the same in the whole file.

    Attributes:
        types: Arrow types of the features that were met so far.
    """

    def __init__(self, path: str, keep: Sequence[str]) -> None:
        self._path = path
        self._keep = keep
        self._examples = _Examples()
        self._seen = 0
        self.types: dict[str, pa.DataType] = {}

    def values(self, batch: list[_Record]) -> list[tuple[Any, ...]]:
        """A tuple for each of the file's next records; all None where a record cannot be read.

        Raises:
            UsageError: A feature's type is not what it was.
        """
        kept = []
        for row in self._examples.rows(batch):
            kept.append(tuple(self._value(row, feature) for feature in self._keep))
            self._seen += 1
        return kept

    def _value(self, row: _Row | BadImage, feature: str) -> list[Any] | None:
        """The feature's values; None where it has none, since an empty list of any kind is how some write that."""
        if isinstance(row, BadImage):
            return None
        table, place = row
        lists = _column(table, feature)
        values: list[Any] | None = None if lists is None else lists[place].as_py()
        if lists is None or not values:
            return None
        found = _KEPT_TYPES[lists.type.value_type]
        first = self.types.setdefault(feature, found)
        if found != first:
            raise UsageError(
                f"{self._path}: feature {feature!r} holds {found.value_type} in record {self._seen}, "
                f"{first.value_type} before; mend the file or do not keep that feature"
            )
        return values


def _image(row: _Row | BadImage, feature: str) -> bytes | BadImage:
    if isinstance(row, BadImage):
        return row
    table, place = row
    lists = _column(table, feature)
    if lists is None or not lists[place].is_valid:
        there = [name for name in table.schema.names if table.column(name)[place].is_valid]
        return BadImage("no_image", f"the record has no feature {feature!r}, only {_some(there)}")
    if lists.type.value_type != pa.large_binary():
        return BadImage("no_image", f"feature {feature!r} holds {lists.type.value_type}, not bytes")
    values: list[bytes] = lists[place].as_py()
    if len(values) > 1:
        return BadImage("many_images", f"feature {feature!r} holds {len(values)} values; one is one image")
    return values[0] if values and values[0] else BadImage("no_image", f"feature {feature!r} is empty")


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "") if names else "none"

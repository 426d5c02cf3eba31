"""Files that hold many images: what they are called, and what is in them.

A container is scanned once, when the inputs are listed: one `Member` for each image. When a unit is worked on, the
wanted members are read. Nothing here knows where a file lies. Errors of the file itself, such as a lost
connection, are passed on; what is wrong with its bytes is told as a member's `BadImage`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

from transforms.compression import codec_of
from transforms.errors import BadImage, UsageError
from transforms.images import MAX_BYTES

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["tfrecord", "tar", "parquet"]

_SHARD = r"(-\d+-of-\d+)?"
_NAMES: dict[Kind, re.Pattern[str]] = {
    "tfrecord": re.compile(rf"\.tfrecords?{_SHARD}(\.gz|\.zst)?$", re.IGNORECASE),
    "tar": re.compile(rf"\.(tgz|tar{_SHARD}(\.gz|\.zst)?)$", re.IGNORECASE),
    "parquet": re.compile(rf"\.parquet{_SHARD}$", re.IGNORECASE),
}


@dataclass(frozen=True)
class Layout:
    """How to look at a container.

    Attributes:
        image_column: The feature (TFRecord) or column (Parquet) that holds images; None for `image/encoded`, or for
            the one column that holds bytes. A tar has none: its images are known by their extension.
        keep: What to carry along with each image: names of features or columns, or the extensions of its
            neighbours in a tar, such as `cls` or `meta.json`.
    """

    image_column: str | None = None
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Member:
    """One image of a container, or the place from which on it cannot be read.

    Attributes:
        name: Unique in the container: a tar member's path, the number of a record or row from 0; `@OFFSET` for the
            break, which is the last member.
        offset: Where `read` finds it; increasing. A byte of the decompressed container, where the record or the
            headers of the tar member begin; in Parquet the row's number.
        size: Bytes of the image (tar) or of the record (TFRecord); None where it is not known.
        kept: One value for each name of `Layout.keep`, None where there is none; in TFRecord also where the list
            is empty or the record cannot be read.
    """

    name: str
    offset: int
    size: int | None
    kept: tuple[Any, ...]


class Reader(Protocol):
    """What a module does for its kind of container; the functions below say it."""

    def kept_types(self, file: BinaryIO, path: str, layout: Layout, /) -> pa.Schema: ...
    def scan(self, file: BinaryIO, path: str, layout: Layout, /) -> Iterator[Member]: ...
    def read(
        self, file: BinaryIO, path: str, layout: Layout, offsets: Sequence[int], /
    ) -> Iterator[bytes | BadImage]: ...


def kind_of(path: str) -> Kind | None:
    """What the file's name says that it is, also as one of several shards (`x.tfrecord-00003-of-00128`)."""
    return next((kind for kind, pattern in _NAMES.items() if pattern.search(path)), None)


def compressed(path: str) -> bool:
    """Whether the container as a whole is compressed, so that a member is reached only through those before it."""
    return codec_of(path) is not None


def kept_types(file: BinaryIO, path: str, layout: Layout) -> pa.Schema:
    """The Arrow type of each kept column, in the order of `layout.keep`.

    Args:
        file: Seekable, at position 0. Of TFRecords so many are read as it takes to meet every feature.
        path: The file's name, which says what it is.
        layout: What is kept.

    Returns:
        In Parquet the column's own type, decoded where it is a dictionary; in TFRecord a list of int64, float or
        binary, or null where no record has the feature; in a tar int64 for `cls`, string for `txt` and `json`,
        else binary.

    Raises:
        UsageError: The container cannot have such a column.
    """
    return _reader(path).kept_types(file, path, layout)


def scan(file: BinaryIO, path: str, layout: Layout) -> Iterator[Member]:
    """The container's images in the order in which they lie, streaming; the same every time.

    An image that is sure to fail is a member too, and its `read` says why. A container that breaks off half-way
    ends in one member called `@OFFSET`, whose `read` gives `broken_container`.

    Args:
        file: At position 0. Seekable for Parquet.
        path: The file's name, which says what it is.
        layout: What is kept.

    Raises:
        UsageError: The layout does not fit the container.
    """
    return _reader(path).scan(file, path, layout)


def read(file: BinaryIO, path: str, layout: Layout, offsets: Sequence[int]) -> Iterator[bytes | BadImage]:
    """The images at `offsets`, one for each, lazily: its bytes, or why there are none.

    Args:
        file: At position 0. It is sought in where the container is not compressed, else read from its beginning.
        path: The file's name, which says what it is.
        layout: As in `scan`.
        offsets: Of members, increasing.

    Raises:
        UsageError: The layout does not fit the container.
    """
    return _reader(path).read(file, path, layout, offsets)


def break_at(offset: int, layout: Layout) -> Member:
    """The member that stands for all that lies from `offset` on and cannot be read."""
    return Member(f"@{offset}", offset, None, (None,) * len(layout.keep))


def broken(place: str, reason: object) -> BadImage:
    """Why the member of a break, at `place` such as `byte 512`, has no image."""
    return BadImage("broken_container", f"broken at {place}: {reason}; what follows cannot be read")


def too_many_bytes(size: int) -> BadImage | None:
    """The reason not to read a member of `size` bytes, if there is one."""
    if size <= MAX_BYTES:
        return None
    return BadImage("too_many_bytes", f"{size:,} bytes; the limit is {MAX_BYTES:,}")


def check_keep(layout: Layout, image_column: str, path: str) -> None:
    """Raise UsageError where the images themselves are to be kept: the index would hold them all."""
    if image_column in layout.keep:
        raise UsageError(f"{path}: {image_column!r} holds the images, which are not kept; name other columns")


def _reader(path: str) -> Reader:
    # They know Member and Layout from here.
    from transforms import image_tables, tars, tfrecords

    readers: dict[Kind, Reader] = {"tfrecord": tfrecords, "tar": tars, "parquet": image_tables}
    kind = kind_of(path)
    if kind is None:
        raise UsageError(f"{path} is no container by its name: .tfrecord, .tar (.gz, .zst) or .parquet")
    return readers[kind]

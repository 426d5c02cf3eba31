"""Tar files of images, also as WebDataset shards: files that share a name up to its first dot are one sample."""

from __future__ import annotations

import posixpath
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import pyarrow as pa

from transforms.compression import Broken, ByteStream, codec_of, misnamed
from transforms.containers import Layout, Member, break_at, broken, too_many_bytes
from transforms.errors import BadImage, UsageError
from transforms.listing import IMAGE_EXTENSIONS

MAX_KEPT_BYTES = 1_000_000
MAX_HEADER_BYTES = 1_000_000

_BLOCK = tarfile.BLOCKSIZE
_ZEROS = bytes(_BLOCK)
_SPARSE_GOES_ON, _SPARSE_GOES_ON_AGAIN = 482, 504  # of a header, of the block that follows it
_KEPT_TYPES = {"cls": pa.int64(), "txt": pa.string(), "json": pa.string()}


@dataclass(frozen=True)
class _Entry:
    """A file, directory, link or device in the tar.

    Attributes:
        name: Its path, verbatim; bytes that are not UTF-8 are spelt out.
        offset: Of its first header.
        start: Of its content.
        size: Bytes of its content, 0 where it has none.
        regular: It is a file.
        sparse: Its content leaves out holes.
    """

    name: str
    offset: int
    start: int
    size: int
    regular: bool
    sparse: bool


def kept_types(_file: BinaryIO, _path: str, layout: Layout) -> pa.Schema:
    """See `containers.kept_types`: the last part of the extension decides, nothing is read."""
    return pa.schema([(name, _KEPT_TYPES.get(_last_part(name), pa.binary())) for name in layout.keep])


def scan(file: BinaryIO, path: str, layout: Layout) -> Iterator[Member]:
    """See `containers.scan`: images are files with an image's extension; hidden ones, links and devices are none.

    Where something is kept, the first member comes when the whole tar was seen, since a neighbour may lie anywhere.
    What is kept of a compressed tar is held in memory until then.
    """
    stream = ByteStream(file, codec_of(path))
    neighbours: dict[tuple[str, str], _Neighbour] = {}
    members = _members(stream, layout, neighbours)
    if not layout.keep:
        yield from members
        return
    for member in list(members):
        found = [neighbours.get((_sample(member.name), name.lower())) for name in layout.keep]
        values = [
            _value(name, neighbour, stream, path) if neighbour else None
            for name, neighbour in zip(layout.keep, found, strict=True)
        ]
        yield replace(member, kept=tuple(values))


def read(file: BinaryIO, path: str, _layout: Layout, offsets: Sequence[int]) -> Iterator[bytes | BadImage]:
    """See `containers.read`."""
    stream = ByteStream(file, codec_of(path))
    for offset in offsets:
        yield _image_at(stream, offset)


def _image_at(stream: ByteStream, offset: int) -> bytes | BadImage:
    try:
        stream.move_to(offset)
        entry = _next_entry(stream)
        if entry is None:
            return BadImage("changed", f"no member begins at byte {offset} any more")
        if reason := _refusal(entry):
            # Where it is cut off, that is what `scan` said of it.
            stream.move_to(entry.start + entry.size)
            return reason
        return stream.exactly(entry.size)
    except Broken as error:
        return broken(f"byte {offset}", error)


def _refusal(entry: _Entry) -> BadImage | None:
    if posixpath.isabs(entry.name) or ".." in entry.name.split("/"):
        return BadImage("unsafe_path", "its path leads out of the container")
    if entry.sparse:
        return BadImage("unsupported", "a sparse file; pack it again without --sparse")
    return too_many_bytes(entry.size)


@dataclass(frozen=True, eq=False)
class _Neighbour:
    """A file to be kept: its content, or None where it is read when it is needed, or is too large."""

    entry: _Entry
    content: bytes | None


def _members(
    stream: ByteStream, layout: Layout, neighbours: dict[tuple[str, str], _Neighbour]
) -> Iterator[Member]:
    """The images with nothing kept, and perhaps a break; `neighbours` is filled in, by sample and extension."""
    keep = {name.lower() for name in layout.keep}
    times: Counter[str] = Counter()
    while True:
        offset = stream.position
        try:
            entry = _next_entry(stream)
            if entry is None:
                return
            extension = _extension(entry.name)
            if extension in keep and entry.regular and not entry.sparse:
                held = not stream.seekable and entry.size <= MAX_KEPT_BYTES
                content = stream.exactly(entry.size) if held else None
                neighbours[_sample(entry.name), extension] = _Neighbour(entry, content)
            stream.move_to(entry.start + entry.size)
            # The last file's padding may be missing.
            stream.read(-entry.size % _BLOCK)
        except Broken:
            yield break_at(offset, layout)
            return
        if _is_image(entry):
            times[entry.name] += 1
            name = entry.name if times[entry.name] == 1 else f"{entry.name}#{times[entry.name]}"
            yield Member(name, entry.offset, entry.size, (None,) * len(layout.keep))


def _is_image(entry: _Entry) -> bool:
    hidden = any(part.startswith(".") and part not in {".", ".."} for part in entry.name.split("/"))
    return entry.regular and not hidden and posixpath.splitext(entry.name)[1].lower() in IMAGE_EXTENSIONS


def _sample(name: str) -> str:
    """What an image shares with its neighbours: the folder, and the file's name up to its first dot."""
    folder, file_name = posixpath.split(name)
    return posixpath.join(folder, file_name.partition(".")[0])


def _extension(name: str) -> str:
    return posixpath.basename(name).partition(".")[2].lower()


def _last_part(extension: str) -> str:
    return extension.lower().rpartition(".")[2]


def _value(keep: str, neighbour: _Neighbour, stream: ByteStream, path: str) -> int | str | bytes:
    entry, content = neighbour.entry, neighbour.content
    if entry.size > MAX_KEPT_BYTES:
        raise UsageError(
            f"{path}: {entry.name!r} has {entry.size:,} bytes, too many to be kept with each image "
            f"(at most {MAX_KEPT_BYTES:,}); do not keep {keep!r}"
        )
    if content is None:
        stream.move_to(entry.start)
        content = stream.exactly(entry.size)
    kept_type = _KEPT_TYPES.get(_last_part(keep))
    if kept_type == pa.int64():
        return _class_number(content, entry, path)
    return content.decode("utf-8", "backslashreplace") if kept_type == pa.string() else content


def _class_number(content: bytes, entry: _Entry, path: str) -> int:
    try:
        number = int(content)
        pa.scalar(number, pa.int64())
    except (ValueError, OverflowError):
        raise UsageError(
            f"{path}: {entry.name!r} holds {content[:20]!r}, which is no class number; "
            "mend the container or do not keep 'cls'"
        ) from None
    return number


def _next_entry(stream: ByteStream) -> _Entry | None:
    """The entry whose headers begin at the stream's position, which is left at its content; None after the last.

    Blocks of zeros end an archive; if another archive follows, as `cat a.tar b.tar` makes it, it is read on.

    Raises:
        Broken: A header is cut off or wrong.
    """
    ended = False
    while (block := stream.read(_BLOCK)) == _ZEROS:
        ended = True
    offset = stream.position - len(block)
    if not block.strip(b"\0"):
        return None
    try:
        header = _header(block)
    except Broken:
        if ended:
            return None
        raise
    extended: dict[bytes, bytes] = {}
    while header.type in _EXTENDED:
        if header.size > MAX_HEADER_BYTES:
            raise Broken(f"an extended header claims {header.size:,} bytes")
        body = stream.exactly(header.size)
        stream.read(-header.size % _BLOCK)
        extended |= _EXTENDED[header.type](body)
        block = stream.exactly(_BLOCK)
        header = _header(block)
    return _entry(stream, offset, header, block, extended)


def _header(block: bytes) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise Broken(f"no header of a file ({error}){misnamed(block)}") from error
    if header.size < 0:
        raise Broken(f"a file of {header.size} bytes")
    return header


def _entry(
    stream: ByteStream, offset: int, header: tarfile.TarInfo, block: bytes, extended: dict[bytes, bytes]
) -> _Entry:
    # Of GNU's old sparse files the map of the holes goes on in further blocks.
    more = header.type == tarfile.GNUTYPE_SPARSE and block[_SPARSE_GOES_ON]
    while more:
        more = stream.exactly(_BLOCK)[_SPARSE_GOES_ON_AGAIN]
    sparse = header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith(b"GNU.sparse") for key in extended)
    plain_name = header.name.encode("utf-8", "surrogateescape")
    name = extended.get(b"GNU.sparse.name") or extended.get(b"path") or plain_name
    # A link or a device has no content, whatever size it claims (so tarfile, too).
    has_content = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
    size = _number(extended[b"size"]) if b"size" in extended else header.size
    return _Entry(
        name.decode("utf-8", "backslashreplace"),
        offset,
        stream.position,
        size if has_content else 0,
        header.isreg(),
        sparse,
    )


def _number(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 18:
        raise Broken(f"an extended header claims a length of {digits[:20]!r}")
    return int(digits)


def _pax_records(body: bytes) -> dict[bytes, bytes]:
    """`LENGTH KEY=VALUE` and a line's end, LENGTH counting all of that (POSIX.1-2001, pax Extended Header)."""
    records = {}
    start = 0
    while start < len(body):
        space = body.find(b" ", start, start + 20)
        length = _number(body[start : max(space, start)])
        key, equals, value = body[start : start + length][space + 1 - start : -1].partition(b"=")
        if not equals or start + length > len(body):
            raise Broken("an extended header is wrong")
        records[key] = value
        start += length
    return records


def _long_name(body: bytes) -> dict[bytes, bytes]:
    return {b"path": body.partition(b"\0")[0]}


def _nothing(_body: bytes) -> dict[bytes, bytes]:
    return {}


_EXTENDED: dict[bytes, Callable[[bytes], dict[bytes, bytes]]] = {
    tarfile.XHDTYPE: _pax_records,
    tarfile.SOLARIS_XHDTYPE: _pax_records,
    tarfile.XGLTYPE: _nothing,
    tarfile.GNUTYPE_LONGNAME: _long_name,
    tarfile.GNUTYPE_LONGLINK: _nothing,
}
"""Headers that say something of the entry that follows, and what of it matters here."""

"""A container's bytes: decompressed where its name says so, read forwards, and counted."""

from __future__ import annotations

import gzip
import os
import zlib
from typing import BinaryIO, Literal, cast

import pyarrow as pa

Codec = Literal["gzip", "zstd"]

SKIP_BYTES = 1 << 20
"""How much is read at a time of what nobody wants, where it cannot be sought over."""

_CODECS: dict[str, Codec] = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd"}
_MAGIC: dict[bytes, Codec] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class Broken(Exception):
    """A container cannot be read on from here; the text says why, in a few words."""


def codec_of(path: str) -> Codec | None:
    """How the file's name says that it is compressed."""
    return _CODECS.get(os.path.splitext(path)[1].lower())


def misnamed(start: bytes) -> str:
    """A hint for bytes that are not what they should be: empty unless they are compressed."""
    for magic, codec in _MAGIC.items():
        if start.startswith(magic):
            return f" (it is compressed with {codec}, which its name does not say)"
    return ""


class WatchedFile:
    """A file as a decoder reads it: tells an error of the file from the decoder's dislike of its bytes.

    pyarrow and gzip raise OSError for both. A decoder that is dropped closes what it read from; this one leaves
    the file open.

    Attributes:
        failed: The last call raised what the file raised; it is not the bytes' fault and must be passed on.
        closed: False, for Arrow.
    """

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failed = False

    def read(self, size: int = -1) -> bytes:
        self.failed = True
        content = self._file.read(size)
        self.failed = False
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.failed = True
        position = self._file.seek(offset, whence)
        self.failed = False
        return position

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return self._file.seekable()

    def close(self) -> None:
        """Does nothing: whoever opened the file closes it."""


class ByteStream:
    """The decompressed bytes of a file that stands at its beginning.

    Nothing is read ahead, so that all that lies before a break is given out. What the file itself raises is
    passed on.

    Args:
        file: At position 0.
        codec: How it is compressed; None where it is not.

    Attributes:
        seekable: It can go backwards, and forwards without reading: the file can, and is not compressed.
        position: Of the next byte, counted in decompressed bytes.
    """

    def __init__(self, file: BinaryIO, codec: Codec | None) -> None:
        self._watched = WatchedFile(file)
        self._bytes = _decompressed(self._watched, codec)
        self._reason: str | None = None
        self.seekable = codec is None and file.seekable()
        self.position = 0
        self._end: int | None = None
        if self.seekable:
            self._end = file.seek(0, os.SEEK_END)
            file.seek(0)

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only where the bytes end.

        Raises:
            Broken: They cannot be decompressed; and so from then on.
        """
        if self._reason is not None:
            raise Broken(self._reason)
        pieces: list[bytes] = []
        missing = size
        try:
            while missing and (piece := self._bytes.read(missing)):
                pieces.append(piece)
                missing -= len(piece)
        except (EOFError, OSError, zlib.error) as error:
            if self._watched.failed:
                raise
            self._reason = str(error)
            raise Broken(self._reason) from error
        self.position += size - missing
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            Broken: There are fewer, or they cannot be decompressed.
        """
        content = self.read(size)
        if len(content) < size:
            raise _cut(size, len(content))
        return content

    def move_to(self, offset: int) -> None:
        """Stand at `offset`, which lies ahead unless the stream is seekable.

        Raises:
            Broken: The bytes end before it, or cannot be decompressed; then the position is anywhere before it.
        """
        if self._end is not None:
            if offset > self._end:
                raise _cut(offset - self.position, self._end - self.position)
            self._watched.seek(offset)
            self.position = offset
        elif offset < self.position:
            raise ValueError(f"cannot go back from byte {self.position} to {offset}")
        wanted = offset - self.position
        while self.position < offset:
            if not self.read(min(offset - self.position, SKIP_BYTES)):
                raise _cut(wanted, wanted - (offset - self.position))


def _cut(wanted: int, there: int) -> Broken:
    return Broken(f"{wanted:,} more bytes should follow, there are {max(there, 0):,}")


def _decompressed(watched: WatchedFile, codec: Codec | None) -> BinaryIO:
    file = cast(BinaryIO, watched)
    if codec == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))
    if codec == "zstd":
        return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
    return file

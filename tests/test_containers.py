"""What all kinds of containers have in common: names, compression, breaks; and helpers for the tests of each kind."""

from __future__ import annotations

import functools
import gzip
import io
import struct
import tarfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import photos
from transforms import compression
from transforms.compression import Broken, ByteStream, Codec
from transforms.containers import Layout, Member, compressed, kept_types, kind_of, read, scan
from transforms.errors import BadImage, UsageError


@functools.cache
def jpegs() -> list[bytes]:
    """Six distinct photographs of a few KB each."""
    return [photos.jpeg(photos.scene(60, 80, seed)) for seed in range(6)]


class Pipe(io.RawIOBase):
    """Bytes that come a few at a time and cannot be sought in."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 1000) if size >= 0 else size)


class Breaking(io.BytesIO):
    """A file whose connection is lost after `limit` bytes."""

    limit = 3000

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() + (size or 0) > self.limit:
            raise OSError("connection lost")
        return super().read(size)


def scanned(content: bytes, name: str, *keep: str, column: str | None = None) -> list[Member]:
    return list(scan(io.BytesIO(content), name, Layout(column, keep)))


def images(
    content: bytes, name: str, members: Iterable[Member], column: str | None = None
) -> list[bytes | tuple[str, str]]:
    """The image of each member, or its error and message."""
    offsets = [member.offset for member in members]
    results = read(io.BytesIO(content), name, Layout(column), offsets)
    return [(image.error, image.message) if isinstance(image, BadImage) else image for image in results]


def all_images(content: bytes, name: str, column: str | None = None) -> dict[str, bytes | tuple[str, str]]:
    members = scanned(content, name, column=column)
    names = [member.name for member in members]
    assert len(set(names)) == len(names)
    return dict(zip(names, images(content, name, members, column), strict=True))


def assert_breaks_at(result: bytes | tuple[str, str], place: str) -> None:
    assert not isinstance(result, bytes)
    error, message = result
    assert error == "broken_container"
    assert message.startswith(f"broken at {place}: ")
    assert message.endswith("; what follows cannot be read")
    assert "\n" not in message


def framed(contents: Sequence[bytes]) -> bytes:
    """A TFRecord file of any contents."""

    def crc(content: bytes) -> bytes:
        value = google_crc32c.value(content)
        return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) % 2**32)

    file = b""
    for content in contents:
        length = struct.pack("<Q", len(content))
        file += length + crc(length) + content + crc(content)
    return file


def tar(files: Iterable[tuple[str, bytes]], file_format: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=file_format, errors="surrogateescape") as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def parquet(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def zstd(content: bytes) -> bytes:
    return pa.compress(content, "zstd", asbytes=True)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".zst": zstd,
}


@pytest.mark.parametrize(
    ("name", "kind", "is_compressed"),
    [
        ("/data/a.tfrecord", "tfrecord", False),
        ("a.tfrecords", "tfrecord", False),
        ("train.tfrecord-00000-of-00128", "tfrecord", False),
        ("train-00000-of-00128.tfrecord", "tfrecord", False),
        ("train.tfrecord-00000-of-00128.gz", "tfrecord", True),
        ("train-00000-of-00128.tfrecord.zst", "tfrecord", True),
        ("gs://bucket/A.TFRecord.GZ", "tfrecord", True),
        ("shard-{000..100}.tar", "tar", False),
        ("a.tar.gz", "tar", True),
        ("a.TGZ", "tar", True),
        ("a.tar.zst", "tar", True),
        ("train.tar-00000-of-00128", "tar", False),
        ("train.tar-00000-of-00128.gz", "tar", True),
        ("train.parquet-00000-of-00002", "parquet", False),
        ("train-00000-of-00002.parquet", "parquet", False),
        ("a.parquet.gz", None, True),
        ("a.tar.bz2", None, False),
        ("tar", None, False),
        ("a.tar/b.jpg", None, False),
        ("a.tfrecord.jpg", None, False),
        ("my.tarot", None, False),
        ("a.gz", None, True),
    ],
)
def test_the_name_says_what_it_is(name: str, kind: str | None, is_compressed: bool) -> None:
    assert kind_of(name) == kind
    assert compressed(name) is is_compressed


@pytest.mark.parametrize("function", [scan, kept_types])
def test_another_file_is_no_container(function: Callable[..., object]) -> None:
    with pytest.raises(UsageError, match=r"^/a/b\.jpg is no container by its name"):
        function(io.BytesIO(b""), "/a/b.jpg", Layout())


NAMES = ["a.tfrecord", "a.tar", "a.parquet", "a.tfrecord.gz", "a.tar.zst", "a.tgz", "a.tfrecord.zst"]


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_file_has_no_members(name: str) -> None:
    assert scanned(b"", name) == []
    assert scanned(b"", name, "label") == []
    assert kept_types(io.BytesIO(b""), name, Layout(keep=("label",))).names == ["label"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", [b"no container", b"milk, bread, coffee\n" * 100])
def test_a_file_of_another_kind_breaks_at_once(name: str, text: bytes) -> None:
    (member,) = scanned(text, name)
    assert member == Member("@0", 0, None, ())
    assert scanned(text, name, "label", "cls") == [Member("@0", 0, None, (None, None))]
    (result,) = images(text, name, [member])
    assert_breaks_at(result, "byte 0")


CONTENTS: dict[str, Callable[[Sequence[bytes]], bytes]] = {
    "tfrecord": framed,
    "tar": lambda contents: tar((f"{number}.jpg", content) for number, content in enumerate(contents)),
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_stream_is_enough(kind: str, suffix: str) -> None:
    content = COMPRESS[suffix](CONTENTS[kind](jpegs()))
    name = f"a.{kind}{suffix}"
    members = list(scan(Pipe(content), name, Layout()))
    assert members == scanned(content, name)
    assert len(members) == 6
    offsets = [members[number].offset for number in (1, 2, 4)]
    from_pipe = [str(image) for image in read(Pipe(content), name, Layout(), offsets)]
    assert from_pipe == [str(image) for image in read(io.BytesIO(content), name, Layout(), offsets)]


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_cut_stream_gives_out_what_was_before(kind: str, suffix: str) -> None:
    plain = CONTENTS[kind](jpegs())
    name = f"a.{kind}{suffix}"
    for share in (0.2, 0.5, 0.9, 0.999):
        whole = COMPRESS[suffix](plain)
        cut = whole[: int(len(whole) * share)]
        members = scanned(cut, name)
        assert members[:-1] == scanned(plain, f"a.{kind}")[: len(members) - 1]
        assert members[-1].name == f"@{members[-1].offset}"
        # JPEGs are hardly compressed, so about as much of them is there.
        assert members[-1].offset > len(plain) * share - 30_000
        *_, last = images(cut, name, members)
        assert_breaks_at(last, f"byte {members[-1].offset}")


def test_a_wrong_checksum_of_the_stream_is_told_though_every_member_was_read() -> None:
    content = bytearray(gzip.compress(CONTENTS["tar"](jpegs())))
    content[-6] ^= 1
    members = scanned(bytes(content), "a.tar.gz")
    assert [member.name for member in members[:-1]] == [f"{number}.jpg" for number in range(6)]
    assert_breaks_at(images(bytes(content), "a.tar.gz", members)[-1], f"byte {members[-1].offset}")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_stream_in_several_pieces_is_one(suffix: str) -> None:
    plain = CONTENTS["tfrecord"](jpegs())
    pieces = COMPRESS[suffix](plain[:5000]) + COMPRESS[suffix](plain[5000:])
    assert scanned(pieces, f"a.tfrecord{suffix}") == scanned(plain, "a.tfrecord")


def test_padding_after_a_gzip_stream_is_no_break() -> None:
    plain = CONTENTS["tar"](jpegs())
    padded = gzip.compress(plain) + bytes(1000)
    assert scanned(padded, "a.tar.gz") == scanned(plain, "a.tar")


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_whose_name_does_not_say_so_is_told(kind: str, suffix: str) -> None:
    content = COMPRESS[suffix](CONTENTS[kind](jpegs()))
    ((error, message),) = all_images(content, f"a.{kind}").values()
    assert error == "broken_container"
    assert f"compressed with {'gzip' if suffix == '.gz' else 'zstd'}, which its name does not say" in message


@pytest.mark.parametrize("kind", [*CONTENTS, "parquet"])
@pytest.mark.parametrize("suffix", COMPRESS)
def test_an_error_of_the_file_is_not_the_container_s(kind: str, suffix: str) -> None:
    contents = {**CONTENTS, "parquet": lambda contents: parquet(pa.table({"image": contents}))}
    suffix = "" if kind == "parquet" else suffix
    content = COMPRESS[suffix](contents[kind](jpegs()))
    assert len(content) > 2 * Breaking.limit
    with pytest.raises(OSError, match="connection lost"):
        list(scan(Breaking(content), f"a.{kind}{suffix}", Layout()))
    offsets = [member.offset for member in scanned(content, f"a.{kind}{suffix}")]
    with pytest.raises(OSError, match="connection lost"):
        list(read(Breaking(content), f"a.{kind}{suffix}", Layout(), offsets))


@pytest.mark.parametrize("name", ["a.tfrecord.zst", "a.tar.gz", "a.parquet"])
def test_the_file_is_left_open(name: str) -> None:
    file = io.BytesIO(b"no container")
    list(scan(file, name, Layout()))
    list(read(file, name, Layout(), [0]))
    assert not file.closed


@pytest.mark.parametrize("codec", [None, "gzip", "zstd"])
def test_a_stream_moves_on_and_counts(codec: Codec | None) -> None:
    content = bytes(range(256)) * 1000
    suffix = {None: "", "gzip": ".gz", "zstd": ".zst"}[codec]
    stream = ByteStream(io.BytesIO(COMPRESS[suffix](content)), codec)
    assert stream.exactly(10) == content[:10]
    stream.move_to(200_001)
    assert (stream.position, stream.read(5)) == (200_001, content[200_001:200_006])
    with pytest.raises(Broken, match=r"55,995 more bytes should follow, there are 55,994"):
        stream.exactly(55_995)
    if codec is None:
        stream.move_to(7)
        assert stream.read(1) == b"\x07"
    else:
        with pytest.raises(ValueError, match="cannot go back from byte"):
            stream.move_to(7)


@pytest.mark.parametrize("codec", [None, "gzip"])
def test_a_stream_does_not_move_beyond_its_end(codec: Codec | None) -> None:
    content = gzip.compress(bytes(1000)) if codec else bytes(1000)
    stream = ByteStream(io.BytesIO(content), codec)
    stream.read(100)
    with pytest.raises(Broken, match="1,000 more bytes should follow, there are 900"):
        stream.move_to(1100)


def test_a_stream_that_broke_stays_broken() -> None:
    wrong_crc = bytearray(gzip.compress(b"first"))
    wrong_crc[-6] ^= 1
    stream = ByteStream(io.BytesIO(bytes(wrong_crc) + gzip.compress(b"second" * 100)), "gzip")
    reasons = set()
    for _ in range(5):
        with pytest.raises(Broken, match="CRC check failed") as broken:
            stream.move_to(100)
        reasons.add(str(broken.value))
    assert len(reasons) == 1


def test_what_nobody_wants_is_skipped_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(compression, "SKIP_BYTES", 1000)

    class Noting(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def read(self, size: int | None = -1) -> bytes:
            sizes.append(size)
            return super().read(size)

    ByteStream(Noting(bytes(10_500)), None).move_to(10_500)
    assert sizes == [1000] * 10 + [500]

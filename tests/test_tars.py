"""Tar files: which members are images, where a broken one ends."""

from __future__ import annotations

import io
import os
import random
import tarfile
import tracemalloc
from collections.abc import Iterable

import pytest

from tests.test_containers import Pipe, all_images, assert_breaks_at, images, scanned, tar
from transforms.containers import Layout, Member, read, scan
from transforms.errors import BadImage

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "/".join(["a-folder-with-a-long-name"] * 12)


def entry(name: str, kind: bytes, size: int = 0) -> bytes:
    """One header block."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def extended(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return entry("x", kind, len(records)) + records + bytes(-len(records) % 512)


def record(key: str, value: str) -> bytes:
    """One record of a pax header."""
    length = len(f" {key}={value}\n".encode())
    total = length + len(str(length))
    return f"{length + len(str(total))} {key}={value}\n".encode()


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


@pytest.mark.parametrize("file_format", FORMATS)
def test_members_are_listed_where_python_finds_them(file_format: str) -> None:
    random_number = random.Random(5).randrange
    names = [f"{LONG}/{number}.jpg" if number % 3 else f"short-{number}.JPG" for number in range(20)]
    names = [name if file_format != "ustar" else name[-90:].lstrip("/") for name in names]
    files = [(name, random.Random(name).randbytes(random_number(3000))) for name in names]
    content = tar(files, FORMATS[file_format])
    members = scanned(content, "a.tar")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        expected = archive.getmembers()
    assert members == [Member(info.name, info.offset, info.size, ()) for info in expected]
    assert images(content, "a.tar", members) == [data for _, data in files]
    some = members[1::4]
    assert images(content, "a.tar", some) == [data for _, data in files][1::4]


def test_what_is_no_image_is_passed_over() -> None:
    archive = io.BytesIO()
    with tarfile.open(
        fileobj=archive, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "é" * 600}
    ) as file:

        def add(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "0.jpg"
            file.addfile(info, io.BytesIO(content))

        for name in ("./", "x.jpg/"):
            add(name, tarfile.DIRTYPE)
        for name in (
            "0.jpg",
            "./sub.dir/1.PNG",
            "2.input.webp",
            "naïve\n日本.jpeg",
            "a::b.gif",
            "contiguous.tif",
        ):
            kind = tarfile.CONTTYPE if "contiguous" in name else tarfile.REGTYPE
            add(name, kind, name.encode())
        for name in (
            "._3.jpg",
            ".hidden.jpg",
            ".git/4.jpg",
            "__MACOSX/._5.jpg",
            "6.txt",
            "jpg",
            "7.jpg.txt",
            ".jpg",
        ):
            add(name, tarfile.REGTYPE, b"no")
        add("8.jpg", tarfile.SYMTYPE)
        add("9.jpg", tarfile.LNKTYPE)
        for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            add("10.jpg", kind)
    found = all_images(archive.getvalue(), "a.tar")
    names = ["0.jpg", "./sub.dir/1.PNG", "2.input.webp", "naïve\n日本.jpeg", "a::b.gif", "contiguous.tif"]
    assert found == {name: name.encode() for name in names}


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_name_that_is_not_utf8_is_spelt_out(file_format: str) -> None:
    short, long = b"caf\xe9.jpg", b"/".join([b"caf\xe9"] * 40) + b".jpg"
    files = [(os.fsdecode(short), b"1"), (os.fsdecode(long), b"2")]
    expected = {"caf\\xe9.jpg": b"1", "/".join(["caf\\xe9"] * 40) + ".jpg": b"2"}
    assert all_images(tar(files, FORMATS[file_format]), "a.tar") == expected


def test_names_that_occur_again_are_numbered() -> None:
    content = tar([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3"), ("a.jpg", b"4")])
    assert all_images(content, "a.tar") == {"a.jpg": b"1", "b.jpg": b"2", "a.jpg#2": b"3", "a.jpg#3": b"4"}


@pytest.mark.parametrize("name", ["../up.jpg", "/etc/absolute.jpg", "a/../../up.jpg", "a/../b.jpg"])
def test_a_path_that_leads_out_is_one_failure(name: str) -> None:
    content = tar([("a.jpg", b"1"), (name, b"2"), ("b.jpg", b"3")])
    found = all_images(content, "a.tar")
    assert found == {
        "a.jpg": b"1",
        name: ("unsafe_path", "its path leads out of the container"),
        "b.jpg": b"3",
    }


def test_dots_in_names_lead_nowhere() -> None:
    content = tar([("a..b.jpg", b"1"), ("./b/./c.jpg", b"2")])
    assert all_images(content, "a.tar") == {"a..b.jpg": b"1", "./b/./c.jpg": b"2"}


def test_a_sparse_file_is_refused_and_what_follows_is_read() -> None:
    header = bytearray(entry("old.jpg", tarfile.GNUTYPE_SPARSE, 600))
    header[482] = 1  # the map goes on in a block of its own, and in another
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
    maps = bytearray(512), bytes(512)
    maps[0][504] = 1
    old = bytes(header) + bytes(maps[0]) + maps[1] + padded(b"h" * 600)
    new_map = (
        record("GNU.sparse.major", "1")
        + record("GNU.sparse.name", "real.jpg")
        + record("GNU.sparse.realsize", "9")
    )
    new = extended(new_map) + entry("GNUSparseFile.0/real.jpg", tarfile.REGTYPE, 100) + padded(bytes(100))
    content = old + new + tar([("a.jpg", b"1")])
    found = all_images(content, "a.tar")
    assert list(found) == ["old.jpg", "real.jpg", "a.jpg"]
    assert [found[name][0] for name in ("old.jpg", "real.jpg")] == ["unsupported"] * 2
    assert "--sparse" in found["old.jpg"][1]
    assert found["a.jpg"] == b"1"


def test_pax_headers_say_name_and_size() -> None:
    data = b"d" * 700
    header = extended(record("path", "ü/real.jpg") + record("size", "700") + record("mtime", "1.5"))
    content = header + entry("short", tarfile.REGTYPE, 0) + padded(data) + tar([("a.jpg", b"1")])
    assert all_images(content, "a.tar") == {"ü/real.jpg": data, "a.jpg": b"1"}
    assert scanned(content, "a.tar")[0] == Member("ü/real.jpg", 0, 700, ())


def test_a_member_over_the_limit_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from transforms import containers

    monkeypatch.setattr(containers, "MAX_BYTES", 1000)
    content = tar([("a.jpg", bytes(1000)), ("b.jpg", bytes(1001)), ("c.jpg", b"3")])
    assert all_images(content, "a.tar")["b.jpg"] == ("too_many_bytes", "1,001 bytes; the limit is 1,000")
    assert list(map(len, all_images(content, "a.tar").values())) == [1000, 2, 1]


def test_an_empty_member_is_a_member() -> None:
    assert all_images(tar([("a.jpg", b""), ("b.jpg", b"2")]), "a.tar") == {"a.jpg": b"", "b.jpg": b"2"}


@pytest.mark.parametrize("pipe", [False, True])
def test_wherever_it_is_cut_what_lies_before_comes_out(pipe: bool) -> None:
    files = [("a.jpg", bytes(700)), ("b.jpg", bytes(512)), (LONG + "/c.jpg", b"3")]
    content = tar(files, tarfile.GNU_FORMAT)
    whole = scanned(content, "a.tar")
    ends = [member.offset for member in whole[1:]] + [whole[-1].offset + 4 * 512]
    data_ends = [512 + 700, ends[1], ends[1] + 3 * 512 + 1]
    for size in range(0, len(content) + 1, 61 if pipe else 17):
        file = Pipe(content[:size]) if pipe else io.BytesIO(content[:size])
        members = list(scan(file, "a.tar", Layout()))
        complete = sum(end <= size for end in data_ends)
        assert members[:complete] == whole[:complete]
        starts_next = complete < 3 and size > whole[complete].offset
        in_padding = complete == 1 and data_ends[0] <= size <= ends[0]
        if starts_next and not in_padding:
            (last,) = members[complete:]
            assert last == Member(f"@{whole[complete].offset}", whole[complete].offset, None, ())
            (result,) = images(content[:size], "a.tar", [last])
            assert_breaks_at(result, f"byte {last.offset}")
        else:
            assert len(members) == complete


def test_a_wrong_header_breaks_there() -> None:
    content = bytearray(tar([("a.jpg", b"1"), ("b.jpg", b"2"), ("c.jpg", b"3")]))
    content[1024 + 5] ^= 1
    found = all_images(bytes(content), "a.tar")
    assert list(found) == ["a.jpg", "@1024"]
    assert_breaks_at(found["@1024"], "byte 1024")
    assert "checksum" in found["@1024"][1]


AFTER = entry("a.jpg", tarfile.REGTYPE)
LIES = {
    "negative size in pax": extended(record("size", "-5")) + AFTER,
    "endless size in pax": extended(record("size", "9" * 5000)) + AFTER,
    "huge size in pax": extended(record("size", "9" * 30)) + AFTER,
    "record of no length": extended(b"0 path=b.jpg\n") + AFTER,
    "record too short": extended(b"4 path=b.jpg\n") + AFTER,
    "record too long": extended(b"99 path=b.jpg\n") + AFTER,
    "record without length": extended(b"path=b.jpg\n") + AFTER,
    "record without value": extended(b"13 path b.jpg\n") + AFTER,
    "pax, then the end mark": extended(record("path", "b.jpg")) + bytes(1024),
    "pax, then nothing": extended(record("path", "b.jpg")),
    "pax that fills the memory": entry("x", tarfile.XHDTYPE, 3_000_000) + bytes(4_000_000),
    "negative size": entry("a.jpg", tarfile.REGTYPE, -1024) + AFTER,
    "huge size": entry("a.jpg", tarfile.REGTYPE, 2**40) + AFTER,
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("pipe", [False, True])
def test_headers_that_lie_are_a_break(lie: str, pipe: bool) -> None:
    content = tar([("first.jpg", b"1")])[:1024] + LIES[lie]

    def file() -> io.RawIOBase | io.BytesIO:
        return Pipe(content) if pipe else io.BytesIO(content)

    assert [member.name for member in scan(file(), "a.tar", Layout())] == ["first.jpg", "@1024"]
    (image, reason) = read(file(), "a.tar", Layout(), [0, 1024])
    assert image == b"1"
    assert isinstance(reason, BadImage)
    assert_breaks_at((reason.error, reason.message), "byte 1024")


def test_a_header_that_would_fill_the_memory_is_not_read() -> None:
    content = extended(record("comment", "c" * 1_100_000)) + AFTER
    assert "an extended header claims 1,100," in all_images(content, "a.tar")["@0"][1]
    content = extended(record("comment", "c" * 900_000)) + AFTER
    assert all_images(content, "a.tar") == {"a.jpg": b""}


def test_headers_of_several_kinds_add_up() -> None:
    name = extended(b"long.jpg\0rest", tarfile.GNUTYPE_LONGNAME)
    link = extended(b"link.jpg\0", tarfile.GNUTYPE_LONGLINK)
    size = extended(record("size", "3"))
    everywhere = extended(record("path", "global.jpg") + record("size", "9"), tarfile.XGLTYPE)
    content = name + size + link + AFTER + padded(b"abc") + everywhere + AFTER
    assert all_images(content, "a.tar") == {"long.jpg": b"abc", "a.jpg": b""}


def test_a_link_has_no_content_whatever_size_it_claims() -> None:
    content = entry("a.txt", tarfile.SYMTYPE, 600) + entry("b", tarfile.DIRTYPE, 600) + tar([("c.jpg", b"1")])
    assert all_images(content, "a.tar") == {"c.jpg": b"1"}


def test_a_chain_of_headers_is_followed() -> None:
    chain = extended(b"long.jpg\0", tarfile.GNUTYPE_LONGNAME) * 3000
    content = chain + entry("short.jpg", tarfile.REGTYPE, 1) + padded(b"1")
    assert all_images(content, "a.tar") == {"long.jpg": b"1"}


def test_the_end_mark_ends_it_unless_another_archive_follows() -> None:
    first, second = tar([("a.jpg", b"1")]), tar([("b.jpg", b"2")])
    assert all_images(first + second, "a.tar") == {"a.jpg": b"1", "b.jpg": b"2"}
    assert all_images(first + b"rubbish" * 1000, "a.tar") == {"a.jpg": b"1"}
    assert all_images(first[:1024], "a.tar") == {"a.jpg": b"1"}
    assert all_images(first[:1024] + bytes(512), "a.tar") == {"a.jpg": b"1"}
    assert all_images(first[:1024] + bytes(100), "a.tar") == {"a.jpg": b"1"}


def test_a_member_that_is_gone_is_told() -> None:
    content = tar([("a.jpg", b"1")])
    (end, beyond) = read(io.BytesIO(content), "a.tar", Layout(), [1024, 10**6])
    assert isinstance(end, BadImage)
    assert end.error == "changed"
    assert isinstance(beyond, BadImage)
    assert beyond.error == "broken_container"


def peak_memory(scanning: Iterable[object]) -> int:
    """The most bytes that Python held while it was drawn, one element at a time."""
    tracemalloc.start()
    for _ in scanning:
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_memory_is_that_of_one_member() -> None:
    content = tar((f"{number}.jpg", bytes(1_000_000)) for number in range(30))
    file = io.BytesIO(content)
    assert peak_memory(scan(file, "a.tar", Layout())) < 1_000_000
    offsets = [member.offset for member in scanned(content, "a.tar")]
    file.seek(0)
    # Two images at a time: the one that is drawn and the one before it.
    assert peak_memory(read(file, "a.tar", Layout(), offsets)) < 3_000_000


def test_what_is_kept_is_held_only_where_it_cannot_be_read_again() -> None:
    files = [(f"{number}.{ext}", bytes(900_000)) for number in range(20) for ext in ("jpg", "npy")]
    layout = Layout(keep=("npy",))
    assert peak_memory(scan(io.BytesIO(tar(files)), "a.tar", layout)) < 4_000_000
    without_images = tar((f"{number}.npy", bytes(1_100_000)) for number in range(20))
    assert peak_memory(scan(Pipe(without_images), "a.tar", layout)) < 4_000_000

"""What an image's neighbours in a tar say: kept wherever they lie, or refused in one line."""

from __future__ import annotations

import io
import tarfile

import pyarrow as pa
import pytest

from tests.test_containers import Pipe, scanned, tar
from transforms import tars
from transforms.containers import Layout, kept_types, scan
from transforms.errors import UsageError

SAMPLES = [
    ("b.json", b'{"x":  1}'),
    ("a.cls", b"0"),
    ("b.JPG", b"B"),
    ("a.txt", "ein Löwe".encode()),
    ("a.jpg", b"A"),
    ("a.seg.png", b"S"),
    ("c.jpg", b"C"),
    ("b.meta.json", b"{}"),
    ("b.CLS", b" 12\n"),
    ("b.npy", b"\x93\xff"),
    ("sub/b.cls", b"7"),
    ("folder.x/d.jpg", b"D"),
    ("folder.x/d.txt", b"caf\xe9"),
]
KEEP = ("cls", "txt", "json", "npy", "meta.json")


@pytest.mark.parametrize("pipe", [False, True])
def test_neighbours_are_kept_wherever_they_lie(pipe: bool) -> None:
    content = tar(SAMPLES)
    file = Pipe(content) if pipe else io.BytesIO(content)
    kept = {member.name: member.kept for member in scan(file, "a.tar", Layout(keep=KEEP))}
    assert kept == {
        "b.JPG": (12, None, '{"x":  1}', b"\x93\xff", "{}"),
        "a.jpg": (0, "ein Löwe", None, None, None),
        "a.seg.png": (0, "ein Löwe", None, None, None),
        "c.jpg": (None, None, None, None, None),
        "folder.x/d.jpg": (None, "caf\\xe9", None, None, None),
    }
    assert list(kept) == [member.name for member in scanned(content, "a.tar")]


def test_kept_values_have_the_promised_types() -> None:
    schema = kept_types(io.BytesIO(tar(SAMPLES)), "a.tar", Layout(keep=KEEP))
    types = [pa.int64(), pa.string(), pa.string(), pa.binary(), pa.string()]
    assert schema == pa.schema(list(zip(KEEP, types, strict=True)))
    members = scanned(tar(SAMPLES), "a.tar", *KEEP)
    columns = [
        pa.array(values, kept)
        for values, kept in zip(zip(*[m.kept for m in members], strict=True), types, strict=True)
    ]
    assert len(columns) == 5


def test_of_neighbours_that_occur_again_the_last_counts_as_when_unpacking() -> None:
    content = tar([("a.cls", b"1"), ("a.jpg", b"A"), ("a.cls", b"2")])
    assert scanned(content, "a.tar", "cls")[0].kept == (2,)


def test_what_is_known_before_a_break_is_kept() -> None:
    content = tar([("a.jpg", b"A"), ("a.cls", b"1"), ("b.jpg", b"B")])[: 5 * 512 + 100 - 512]
    members = scanned(content, "a.tar", "cls")
    assert [(member.name, member.kept) for member in members] == [("a.jpg", (1,)), ("@2048", (None,))]


@pytest.mark.parametrize("value", [b"cat", b"", b"9" * 25, b"1.5"])
def test_a_class_that_is_no_number_is_refused(value: bytes) -> None:
    with pytest.raises(UsageError, match=r"^/d/a\.tar: 'a\.cls' holds b'.*', which is no class number; mend"):
        scanned(tar([("a.jpg", b"A"), ("a.cls", value)]), "/d/a.tar", "cls")


@pytest.mark.parametrize("pipe", [False, True])
def test_a_neighbour_too_large_to_be_kept_is_refused(pipe: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_KEPT_BYTES", 2000)
    content = tar([("b.json", bytes(3000)), ("a.jpg", b"A"), ("a.json", bytes(2000))])
    layout = Layout(keep=("json",))
    (member,) = scan(Pipe(content) if pipe else io.BytesIO(content), "a.tar", layout)
    assert member.kept == ("\0" * 2000,)
    content = tar([("a.jpg", b"A"), ("a.json", bytes(2001))])
    with pytest.raises(UsageError, match=r"'a\.json' has 2,001 bytes, too many .* do not keep 'json'"):
        list(scan(Pipe(content) if pipe else io.BytesIO(content), "a.tar", layout))


def test_extensions_are_known_in_capitals() -> None:
    content = tar([("a.jpg", b"A"), ("a.cls", b"3"), ("a.Meta.JSON", b"{}")])
    assert scanned(content, "a.tar", "CLS", "meta.json")[0].kept == (3, "{}")


def test_links_and_hidden_files_are_no_neighbours() -> None:
    archive = tar([("a.jpg", b"A"), ("._a.cls", b"3")])[: 4 * 512]
    link = tarfile.TarInfo("a.cls")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    assert scanned(archive + link.tobuf() + bytes(1024), "a.tar", "cls")[0].kept == (None,)

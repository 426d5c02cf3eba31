"""Reading as listed, a few ahead, or the reason why not."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.test_containers import Breaking, tar
from transforms import fetching, storage
from transforms.errors import BadImage
from transforms.listing import Found, list_images
from transforms.records import ImageRef

MAX_BYTES = 1000
NOBODY = 65534


def reason(ref: ImageRef) -> str:
    content = fetching.fetch(ref, MAX_BYTES).content
    assert isinstance(content, BadImage)
    return content.error


def test_a_name_that_is_not_utf8_is_read_and_so_is_one_that_looks_like_it(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb") as file:
        file.write(b"bytes")
    (tmp_path / "tea\\xe9.jpg").write_bytes(b"text")
    refs = list(list_images([str(tmp_path)], Found()))
    assert [(os.path.basename(ref.uri), ref.size) for ref in refs] == [
        ("caf\\xe9.jpg", 5),
        ("tea\\xe9.jpg", 4),
    ]
    assert [each.content for each in fetching.fetch_many(refs, MAX_BYTES)] == [b"bytes", b"text"]


@contextmanager
def without_privileges() -> Iterator[None]:
    """As a user whom file permissions bind; root reads everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_fetches_what_was_listed(tmp_path: Path) -> None:
    path = tmp_path / "a b#%::é.jpg"
    path.write_bytes(b"content")
    fetched = fetching.fetch(storage.reference(str(path)), MAX_BYTES)
    assert fetched.content == b"content"
    assert fetched.ref.size == 7
    assert fetched.seconds > 0


def test_a_file_that_vanished_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"content")
    ref = storage.reference(str(path))
    path.unlink()
    assert reason(ref) == "not_found"


@pytest.mark.parametrize("content", [b"shorter", b"content of another size", b"content as long"])
def test_a_file_that_changed_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"content as then")
    os.utime(path, ns=(1, 1))
    ref = storage.reference(str(path))
    path.write_bytes(content)
    assert reason(ref) == "changed"


def test_a_file_without_permission_says_so() -> None:
    # Not in pytest's own folder, which is closed to other users whatever the file's mode.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "a.jpg"
        path.write_bytes(b"content")
        path.chmod(0o644)
        ref = storage.reference(str(path))
        with without_privileges():
            assert fetching.fetch(ref, MAX_BYTES).content == b"content"
        path.chmod(0)
        with without_privileges():
            assert reason(ref) == "permission_denied"


def test_a_name_that_no_file_can_have_is_not_found() -> None:
    ref = storage.reference("/a\0b.jpg")
    assert ref.size is None
    assert reason(ref) == "not_found"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert reason(ImageRef(str(tmp_path), None, None)) == "not_a_file"


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(storage.reference(str(tmp_path / "pipe.jpg"))) == "not_a_file"


def test_a_size_that_is_not_the_listed_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"content")
    assert reason(ImageRef(str(tmp_path / "a.jpg"), 8, None)) == "changed"


@pytest.mark.parametrize(("failing", "works"), [(2, True), (3, False)])
def test_what_cannot_be_read_is_tried_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, works: bool
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"content")
    opened = []

    def fail_at_first(*arguments: object) -> int:
        opened.append(arguments)
        if len(opened) <= failing:
            raise OSError(errno.EIO, "Input/output error")
        return os_open(*arguments)

    os_open = os.open
    waits = []
    monkeypatch.setattr(os, "open", fail_at_first)
    monkeypatch.setattr("time.sleep", waits.append)
    fetched = fetching.fetch(ImageRef(str(path), None, None), MAX_BYTES)
    assert (fetched.content == b"content") == works
    assert works or (fetched.content.error, fetched.content.message) == ("unreadable", "Input/output error")
    assert fetched.attempts == 3
    assert waits == [0.2, 0.4]


@pytest.fixture
def members(tmp_path: Path) -> list[ImageRef]:
    """Four images of 1000 bytes in a tar."""
    contents = ((f"{number}.jpg", bytes([number]) * 1000) for number in range(4))
    (tmp_path / "a.tar").write_bytes(tar(contents))
    return list(list_images([str(tmp_path / "a.tar")], Found()))


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_container_that_fails_half_way_is_read_on_and_opened_three_times(
    members: list[ImageRef], monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    container = members[0].place.container
    opened, waits = [], []

    def fail_at_first(path: str) -> io.BytesIO:
        opened.append(path)
        return (Breaking if len(opened) <= failing else io.BytesIO)(Path(path).read_bytes())

    monkeypatch.setattr(fetching, "open_stream", fail_at_first)
    monkeypatch.setattr("time.sleep", waits.append)
    first, *others = fetching.fetch_members(container, members)
    assert [each.ref for each in (first, *others)] == members
    assert (first.content, first.attempts) == (bytes(1000), 1)
    if failing < 3:
        assert [each.content for each in others] == [bytes([number]) * 1000 for number in (1, 2, 3)]
    else:
        assert [each.content.error for each in others] == ["unreadable"] * 3
    assert {each.attempts for each in others} == {min(failing + 1, 3)}
    assert waits == [0.2, 0.4][:failing]


def test_a_container_is_refused_that_is_not_as_it_was_listed(members: list[ImageRef]) -> None:
    container = members[0].place.container
    os.utime(container, ns=(1, 1))
    assert [reason(ref) for ref in members] == ["changed"] * 4
    os.remove(container)
    assert [fetched.content.error for fetched in fetching.fetch_many(members, MAX_BYTES)] == ["not_found"] * 4


def test_no_more_is_read_ahead_than_the_window(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"content")
    drawn = []

    def refs() -> Iterator[ImageRef]:
        for number in range(100):
            drawn.append(number)
            yield ImageRef(str(tmp_path / "a.jpg"), None, None)

    next(fetching.fetch_many(refs(), MAX_BYTES))
    assert len(drawn) == 16


def test_too_large_a_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x" * (MAX_BYTES + 1))
    listed = storage.reference(str(path))
    unlisted = ImageRef(str(path), None, None)
    assert reason(unlisted) == "too_many_bytes"
    # More than any memory holds, of which nothing is on the disk.
    os.truncate(path, 1 << 40)
    assert reason(unlisted) == "too_many_bytes"
    monkeypatch.delattr("os.open")
    assert reason(listed) == "too_many_bytes"


def test_fetch_many_keeps_the_order(tmp_path: Path) -> None:
    refs = []
    for number in range(50):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(str(number).encode())
        refs.append(storage.reference(str(path)))
    assert [fetched.content for fetched in fetching.fetch_many(refs, MAX_BYTES)] == [
        str(number).encode() for number in range(50)
    ]

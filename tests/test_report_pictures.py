"""Small pictures: what can be had in time, and nothing is waited for longer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pipelines.report import pictures
from pipelines.report.rows import Image
from tests import photos
from transforms import snapshots
from transforms.records import ImageRef
from transforms.snapshots import UnitSize
from transforms.storage import reference


def test_what_does_not_come_in_time_is_not_waited_for() -> None:
    forever = threading.Event()

    def contents() -> Iterator[tuple[str, bytes]]:
        yield "/a.jpg", b"a"
        yield "/b.jpg", b"b"
        forever.wait()

    started = time.monotonic()
    assert list(pictures._within(0.5, contents)) == [("/a.jpg", b"a"), ("/b.jpg", b"b")]
    assert time.monotonic() - started >= 0.5
    forever.set()


def test_images_of_a_store_that_cannot_be_asked_have_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(photos.jpeg(photos.scene(30, 40)))
    listed = [ImageRef("nosuch://bucket/b.jpg", 10, "1"), reference(str(tmp_path / "a.jpg"))]
    work = snapshots.update(str(tmp_path / "out"), listed, UnitSize(10))[0]
    wanted = [Image(ref.uri, ref.version, "", 0, None) for ref in listed]
    assert list(pictures.pictures(work, wanted, lambda _: None)) == [listed[1].uri]


def test_a_source_that_never_ends_is_left() -> None:
    def contents() -> Iterator[tuple[str, bytes]]:
        while True:
            time.sleep(0.02)
            yield "/a.jpg", b"a"

    assert set(pictures._within(0.3, contents)) == {("/a.jpg", b"a")}


def test_what_comes_in_time_comes_whole() -> None:
    many = [(str(number), b"") for number in range(500)]
    assert list(pictures._within(60.0, lambda: many)) == many

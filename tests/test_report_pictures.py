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

LONG = 20.0
"""Seconds after which a source that should have been left gives one more, so that a test ends."""


def test_what_does_not_come_in_time_is_not_waited_for() -> None:
    given_up = threading.Event()

    def contents() -> Iterator[tuple[str, bytes]]:
        yield "/a.jpg", b"a"
        yield "/b.jpg", b"b"
        given_up.wait(LONG)
        yield "/c.jpg", b"c"

    started = time.monotonic()
    assert list(pictures._within(0.5, contents)) == [("/a.jpg", b"a"), ("/b.jpg", b"b")]
    assert time.monotonic() - started >= 0.5
    given_up.set()


def test_images_of_a_store_that_cannot_be_asked_have_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(photos.jpeg(photos.scene(30, 40)))
    listed = [ImageRef("nosuch://bucket/b.jpg", 10, "1"), reference(str(tmp_path / "a.jpg"))]
    work = snapshots.update(str(tmp_path / "out"), listed, UnitSize(10))[0]
    wanted = [Image(ref.uri, ref.version, "", 0, None) for ref in listed]
    assert list(pictures.pictures(work, wanted, lambda _: None)) == [listed[1].uri]


def test_a_source_that_never_ends_is_left() -> None:
    def contents() -> Iterator[tuple[str, bytes]]:
        for _ in range(int(LONG / 0.02)):
            time.sleep(0.02)
            yield "/a.jpg", b"a"
        yield "/b.jpg", b"b"

    assert set(pictures._within(0.3, contents)) == {("/a.jpg", b"a")}


def test_what_comes_in_time_comes_whole() -> None:
    many = [(str(number), b"") for number in range(500)]
    assert list(pictures._within(60.0, lambda: many)) == many

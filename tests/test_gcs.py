"""What Cloud Storage alone does, and how much at once: a real client against a server of the protocol."""

from __future__ import annotations

import gzip
import os
import threading
import time
from pathlib import Path

import pytest

from tests.gcs_faults import Faults
from tests.gcs_server import GcsServer
from transforms import fetching, remote, storage
from transforms.records import ImageRef

MAX_BYTES = 1_000_000
EVERY_FAULT = Faults(
    seed=1,
    status_429=0.02,
    status_503=0.02,
    status_500=0.01,
    status_408=0.01,
    reset=0.01,
    reset_midway=0.01,
    truncated=0.01,
    short=0.01,
    corrupted=0.01,
    lost_answer=0.05,
)


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.patience.LONGEST_WAIT_SECONDS", 0.1)


def requests(gcs: GcsServer) -> dict[str, int]:
    return {kind: count for kind, count in gcs.counts.requests.items() if count}


def test_metadata_that_changes_is_no_change_of_the_image(gcs: GcsServer) -> None:
    from gcsfs.core import GCSFileSystem

    gcs.put("in", "a.jpg", b"content")
    ref = storage.reference("gs://in/a.jpg")
    GCSFileSystem(token="anon", endpoint_url=gcs.url).setxattrs("in/a.jpg", colour="red")
    assert fetching.fetch(ref, MAX_BYTES).content == b"content"


@pytest.mark.parametrize("denied", ["download", "all"])
def test_a_refusal_is_asked_about_once(gcs: GcsServer, denied: str) -> None:
    gcs.put("in", "a.jpg", b"content")
    ref = storage.reference("gs://in/a.jpg")
    gcs.set(deny=(denied,))
    gcs.reset_counts()
    fetched = fetching.fetch(ref, MAX_BYTES)
    assert (fetched.content.error, fetched.attempts) == ("permission_denied", 1)
    assert requests(gcs) == {"download": 1}


@pytest.mark.parametrize(
    "fault",
    [
        "status_408",
        "status_429",
        "status_503",
        "status_500",
        "reset",
        "reset_midway",
        "truncated",
        "short",
        "corrupted",
    ],
)
def test_what_may_pass_is_asked_for_again(gcs: GcsServer, fault: str) -> None:
    content = os.urandom(20_000)
    gcs.put("in", "a.jpg", content)
    ref = storage.reference("gs://in/a.jpg")
    gcs.set(faults=Faults(**{fault: 1.0}, max_consecutive=3))
    fetched = fetching.fetch(ref, MAX_BYTES)
    # aiohttp itself sends a request again, once, when a connection that it kept turns out to be closed.
    assert (fetched.content, fetched.attempts) == (content, 2 if fault == "reset" else 4)


def test_a_range_that_comes_short_is_asked_for_again(gcs: GcsServer) -> None:
    content = os.urandom(2000)
    gcs.put("in", "part", content)
    gcs.set(faults=Faults(short=1.0, max_consecutive=1))
    assert storage.read_tail("gs://in/part", 100) == content[-100:]
    assert gcs.counts.downloads == {"in/part": 2}


def test_a_silent_connection_is_given_up(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.gcs.SILENCE_SECONDS", 0.3)
    gcs.put("in", "a.jpg", b"content")
    gcs.set(latency_seconds=10.0)
    threading.Timer(0.2, lambda: gcs.set(latency_seconds=0.0)).start()
    fetched = fetching.fetch(ImageRef("gs://in/a.jpg", 7, None), MAX_BYTES)
    assert (fetched.content, fetched.attempts) == (b"content", 2)
    assert fetched.seconds < 9


def test_what_is_stored_packed_comes_unpacked(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from gcsfs.core import GCSFileSystem

    monkeypatch.setattr("transforms.patience.OUTAGE_SECONDS", 0.5)
    content = b"content" * 100
    client = GCSFileSystem(token="anon", endpoint_url=gcs.url)
    packed = {"content_encoding": "gzip"}
    client.pipe_file("in/a.jpg", gzip.compress(content), fixed_key_metadata=packed)
    ref = storage.reference("gs://in/a.jpg")
    assert ref.size < len(content)
    fetched = fetching.fetch(ref, MAX_BYTES)
    assert (fetched.content, fetched.attempts) == (content, 1)


def test_an_upload_that_was_begun_as_a_trial_is_cancelled(gcs: GcsServer) -> None:
    remote.check_writable("gs://out/data")
    assert requests(gcs) == {"upload_start": 1, "upload_cancel": 1}
    assert gcs.objects("out") == []


def test_the_last_error_is_the_failure_with_its_attempts(gcs: GcsServer) -> None:
    for name in ("good.jpg", "bad.jpg"):
        gcs.put("in", name, b"content")
    refs = list(storage.references(["gs://in/good.jpg", "gs://in/bad.jpg"]))
    ended = threading.Event()

    def keep_the_store_busy() -> None:
        while not ended.is_set():
            fetching.fetch(refs[0], MAX_BYTES)

    gcs.set(faults=Faults(short=0.7, max_consecutive=None))
    busy = threading.Thread(target=keep_the_store_busy)
    gcs.put("in", "bad.jpg", b"")
    bad = ImageRef("gs://in/bad.jpg", 7, None)
    busy.start()
    fetched = fetching.fetch(bad, MAX_BYTES)
    ended.set()
    busy.join()
    assert (fetched.content.error, fetched.attempts) == ("unreadable", 8)
    assert fetched.content.message == "0 bytes came of 7"


def test_bytes_in_flight_are_bounded(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "READ_AHEAD_BYTES", 1_000_000)
    gcs.fill("in", "{:04d}.jpg", 40, [b"x" * 100_000])
    refs = list(storage.list_tree("gs://in/"))
    drawn = []
    images = fetching.fetch_many((drawn.append(ref) or ref for ref in refs), MAX_BYTES)
    next(images)
    assert len(drawn) == 10
    assert len(list(images)) == 39


def test_all_images_come_through_a_store_that_fails_in_every_way(gcs: GcsServer) -> None:
    contents = [os.urandom(5000) for _ in range(50)]
    gcs.fill("in", "{:04d}.jpg", 1000, contents)
    gcs.set(faults=EVERY_FAULT)
    refs = sorted(storage.list_tree("gs://in/"), key=lambda ref: ref.uri)
    fetched = list(fetching.fetch_many(refs, MAX_BYTES))
    assert [each.content for each in fetched] == [contents[number % 50] for number in range(1000)]
    assert set(gcs.counts.faults) >= {"short", "corrupted", "truncated", "reset", "status_429", "status_503"}


def test_large_files_are_uploaded_resumably(gcs: GcsServer, local) -> None:
    content = os.urandom(60 << 20)
    assert storage.commit(local(content), "gs://out/large")
    assert gcs.get("out", "large") == content
    assert gcs.counts.requests["upload_start"] == 1
    assert not storage.commit(local(content[::-1]), "gs://out/large")


def test_of_many_commits_at_once_one_wins(gcs: GcsServer, local) -> None:
    paths = [local(bytes([number]) * 1000) for number in range(8)]
    won: list[str] = []

    def commit(path: str) -> None:
        if storage.commit(path, "gs://out/part"):
            won.append(path)

    threads = [threading.Thread(target=commit, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert gcs.get("out", "part") == Path(won[0]).read_bytes()


@pytest.mark.parametrize("pattern", ["flat/{:06d}.jpg", "tree/{0:04d}/{0:06d}.jpg"])
def test_many_keys_are_listed_once_each_many_pages_at_a_time(gcs: GcsServer, pattern: str) -> None:
    gcs.fill("in", pattern, 20_000)
    gcs.fill("in", "other/{}", 3)
    gcs.set(list_latency_seconds=0.05)
    gcs.reset_counts()
    root = f"gs://in/{pattern.split('/', maxsplit=1)[0]}/"
    refs = list(storage.list_tree(root))
    assert sorted(ref.uri for ref in refs) == sorted(
        f"gs://in/{pattern.format(number)}" for number in range(20_000)
    )
    assert gcs.counts.requests["list"] < 60
    assert gcs.counts.peak_in_flight > 8


def test_pages_of_a_single_key_are_listed_on_to_the_last(gcs: GcsServer) -> None:
    gcs.fill("in", "{:02d}.jpg", 20)
    gcs.set(keys_a_page=1)
    assert sorted(ref.uri for ref in storage.list_tree("gs://in/")) == [
        f"gs://in/{n:02d}.jpg" for n in range(20)
    ]


@pytest.mark.parametrize("leaves", [False, True])
def test_a_listing_that_nobody_takes_waits_and_one_that_is_left_ends(
    gcs: GcsServer, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    monkeypatch.setattr(remote, "PAGES_AHEAD", 1_000_000 if leaves else 2)
    gcs.fill("in", "{:04d}.jpg", 4000)
    gcs.set(keys_a_page=2, latency_seconds=0.05)
    gcs.reset_counts()
    pages = remote.list_tree("gs://in/")
    taken = list(next(pages))
    if leaves:
        pages.close()
    time.sleep(1.0)
    asked = requests(gcs)["list"]
    time.sleep(0.3)
    assert requests(gcs)["list"] == asked < 600
    if not leaves:
        gcs.set(latency_seconds=0.0)
        taken += [ref for page in pages for ref in page]
        assert sorted(ref.uri for ref in taken) == [f"gs://in/{number:04d}.jpg" for number in range(4000)]

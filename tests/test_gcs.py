"""What Cloud Storage alone does, and how much at once: a real client against a server of the protocol."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.gcs_faults import Faults
from tests.gcs_server import GcsServer
from transforms import fetching, storage
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
    import gcsfs

    gcs.put("in", "a.jpg", b"content")
    ref = storage.reference("gs://in/a.jpg")
    gcsfs.GCSFileSystem(token="anon", endpoint_url=gcs.url).setxattrs("in/a.jpg", colour="red")
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

"""Google Cloud Storage as `storage` and `fetching` see it: a real client against a server of the protocol."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.gcs_faults import Faults
from tests.gcs_server import GcsServer
from transforms import fetching, storage
from transforms.errors import BadImage, RunError, UsageError
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


@pytest.fixture
def local(tmp_path: Path) -> Callable[[bytes], str]:
    """Writes a local file, and gives its path."""

    def write(content: bytes) -> str:
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        path.write_bytes(content)
        return str(path)

    return write


def reason(ref: ImageRef) -> str:
    content = fetching.fetch(ref, MAX_BYTES).content
    assert isinstance(content, BadImage)
    return content.error


def requests(gcs: GcsServer) -> dict[str, int]:
    return {kind: count for kind, count in gcs.counts.requests.items() if count}


def test_an_image_takes_one_request_and_has_its_generation_as_version(gcs: GcsServer) -> None:
    generation = gcs.put("in", "a b#%::é.jpg", b"content")
    ref = storage.reference("gs://in/a b#%::é.jpg")
    assert (ref.size, ref.version) == (7, str(generation))
    gcs.reset_counts()
    fetched = fetching.fetch(ref, MAX_BYTES)
    assert (fetched.content, fetched.attempts) == (b"content", 1)
    assert requests(gcs) == {"download": 1}


def test_what_happened_since_listing_is_told(gcs: GcsServer) -> None:
    for name in ("gone.jpg", "changed.jpg"):
        gcs.put("in", name, b"content")
    gone, changed = storage.references(["gs://in/gone.jpg", "gs://in/changed.jpg"])
    gcs.delete("in", "gone.jpg")
    gcs.put("in", "changed.jpg", b"CONTENT")
    assert reason(gone) == "not_found"
    assert reason(changed) == "changed"
    assert reason(storage.reference("gs://in/never.jpg")) == "not_found"
    assert reason(storage.reference("gs://nowhere/never.jpg")) == "not_found"


def test_metadata_that_changes_is_no_change_of_the_image(gcs: GcsServer) -> None:
    import gcsfs

    gcs.put("in", "a.jpg", b"content")
    ref = storage.reference("gs://in/a.jpg")
    gcsfs.GCSFileSystem(token="anon", endpoint_url=gcs.url).setxattrs("in/a.jpg", colour="red")
    assert fetching.fetch(ref, MAX_BYTES).content == b"content"


def test_too_large_an_image_is_not_read(gcs: GcsServer) -> None:
    gcs.put("in", "large.jpg", b"x" * (MAX_BYTES + 1))
    listed, unlisted = storage.reference("gs://in/large.jpg"), ImageRef("gs://in/large.jpg", None, None)
    gcs.reset_counts()
    assert reason(listed) == "too_many_bytes"
    assert requests(gcs) == {}
    assert reason(unlisted) == "too_many_bytes"


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


def test_many_images_are_on_their_way_at_once_in_order_and_within_the_window(gcs: GcsServer) -> None:
    contents = [bytes([number]) * 1000 for number in range(7)]
    gcs.fill("in", "{:04d}.jpg", 400, contents)
    refs = sorted(storage.list_tree("gs://in/"), key=lambda ref: ref.uri)
    gcs.set(latency_seconds=0.02)
    gcs.reset_counts()
    drawn = []
    images = fetching.fetch_many((drawn.append(ref) or ref for ref in refs), MAX_BYTES)
    first = next(images)
    assert len(drawn) == fetching.READ_AHEAD_REMOTE_IMAGES
    fetched = [first, *images]
    assert [each.ref for each in fetched] == refs
    assert [each.content for each in fetched] == [contents[number % 7] for number in range(400)]
    assert requests(gcs) == {"download": 400}
    assert 16 < gcs.counts.peak_in_flight <= 64


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


def test_a_commit_is_one_upload_and_the_first_wins(gcs: GcsServer, local) -> None:
    gcs.reset_counts()
    assert storage.commit(local(b"first"), "gs://out/a/part.parquet")
    assert requests(gcs) == {"upload": 1}
    assert not storage.commit(local(b"second"), "gs://out/a/part.parquet")
    assert gcs.get("out", "a/part.parquet") == b"first"


@pytest.mark.parametrize("n_bytes", [1000, 6_000_000])
def test_a_commit_whose_answer_was_lost_is_a_success(gcs: GcsServer, local, n_bytes: int) -> None:
    gcs.set(faults=Faults(lost_answer=1.0, max_consecutive=1))
    content = os.urandom(n_bytes)
    assert storage.commit(local(content), "gs://out/a/part.parquet")
    assert gcs.get("out", "a/part.parquet") == content
    assert gcs.counts.faults["lost_answer"] >= 1


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


def test_swap_replaces_only_what_was_read(gcs: GcsServer) -> None:
    url = "gs://out/dir/CURRENT.json"
    assert storage.read_versioned(url) == (None, None)
    assert storage.swap(url, b"one", None)
    assert not storage.swap(url, b"two", None)
    content, token = storage.read_versioned(url)
    assert content == b"one"
    assert storage.swap(url, b"two", token)
    assert not storage.swap(url, b"three", token)
    assert storage.read_versioned(url)[0] == b"two"


def test_a_swap_whose_answer_was_lost_is_a_success(gcs: GcsServer) -> None:
    gcs.set(faults=Faults(lost_answer=1.0, max_consecutive=1))
    assert storage.swap("gs://out/CURRENT.json", b"one", None)


def test_names_files_and_folders_are_found_made_and_removed(gcs: GcsServer) -> None:
    for url in ("gs://out/d/a", "gs://out/d/b", "gs://out/d/sub/c", "gs://out/other"):
        storage.create(url)
        storage.create(url)
    assert storage.list_names("gs://out/d") == ["a", "b", "sub"]
    assert storage.list_names("gs://out/d", "b") == ["b"]
    assert storage.list_names("gs://out/none") == []
    assert storage.exists("gs://out/d/a")
    assert not storage.exists("gs://out/d")
    for _ in range(2):
        storage.delete("gs://out/d/a")
        assert gcs.objects("out") == ["d/b", "d/sub/c", "other"]
    for _ in range(2):
        storage.delete_directory("gs://out/d")
        assert gcs.objects("out") == ["other"]


def test_a_folder_of_more_than_a_page_is_listed_whole(gcs: GcsServer) -> None:
    gcs.fill("out", "d/{:05d}", 2500)
    assert storage.list_names("gs://out/d") == [f"{number:05d}" for number in range(2500)]


def test_files_are_read_in_ranges(gcs: GcsServer, local) -> None:
    table = pa.table({"number": list(range(100_000))})
    path = local(b"")
    pq.write_table(table, path, row_group_size=10_000)
    storage.commit(path, "gs://out/part.parquet")
    gcs.reset_counts()
    with storage.open_file("gs://out/part.parquet") as file:
        assert pq.ParquetFile(file).read_row_group(3).equals(table.slice(30_000, 10_000))
    assert gcs.counts.requests["download"] <= 3
    content = Path(path).read_bytes()
    assert storage.read_tail("gs://out/part.parquet", 100) == content[-100:]
    assert storage.read("gs://out/part.parquet") == content
    with pytest.raises(FileNotFoundError):
        storage.read("gs://out/none")


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


def test_a_bucket_that_is_not_there_is_one_line(gcs: GcsServer, local) -> None:
    with pytest.raises(UsageError, match=r"there is no gs://nowhere/a/; check --input"):
        list(storage.list_tree("gs://nowhere/a/"))
    with pytest.raises(RunError, match=r"cannot write gs://nowhere/a: there is no such bucket"):
        storage.commit(local(b"x"), "gs://nowhere/a")


def test_what_may_not_be_done_is_one_line(gcs: GcsServer, local) -> None:
    gcs.set(deny=("all",))
    for act in (
        lambda: list(storage.list_tree("gs://in/")),
        lambda: storage.commit(local(b"x"), "gs://out/a"),
        lambda: storage.read("gs://out/a"),
        lambda: storage.list_names("gs://out"),
    ):
        with pytest.raises(RunError, match=r"^gs://.*: no permission; check the credentials"):
            act()


def test_a_store_that_is_out_is_waited_for_and_then_one_line(
    gcs: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.patience.OUTAGE_SECONDS", 0.5)
    gcs.put("out", "a", b"content")
    gcs.set(outage=True)
    with pytest.raises(RunError, match=r"the store failed \(\d+ attempts; .*\); run the same command again"):
        storage.read("gs://out/a")
    monkeypatch.setattr("transforms.patience.OUTAGE_SECONDS", 60)
    threading.Timer(0.5, lambda: gcs.set(outage=False)).start()
    assert storage.read("gs://out/a") == b"content"

"""What Cloud Storage and S3 both promise to `storage`, `fetching` and `listing`: real clients against test servers."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.gcs_faults import Faults
from tests.gcs_server import GcsServer
from tests.s3_server import Fault, S3Server
from transforms import fetching, remote, storage
from transforms.errors import RunError, UsageError
from transforms.listing import Found, list_images
from transforms.records import ImageRef

MAX_BYTES = 1_000_000
FOR_EVER = 1_000_000


class Gcs:
    """A bucket of Cloud Storage, and what happens there."""

    url = "gs://data"
    other_url = "gcs://data"
    nowhere = "gs://nowhere"
    some_pages = 2500

    def __init__(self, server: GcsServer) -> None:
        self.server = server
        server.create_bucket("data")

    def put(self, name: str, content: bytes) -> str:
        """Store an object; its version."""
        return str(self.server.put("data", name, content))

    def get(self, name: str) -> bytes:
        return self.server.get("data", name)

    def delete(self, name: str) -> None:
        self.server.delete("data", name)

    def names(self) -> list[str]:
        return self.server.objects("data")

    def forget_requests(self) -> None:
        self.server.reset_counts()

    def n_requests(self) -> int:
        return sum(self.server.counts.requests.values())

    def downloads(self) -> Counter[str]:
        """How often each object was asked for."""
        return Counter({name.removeprefix("data/"): n for name, n in self.server.counts.downloads.items()})

    def peak_in_flight(self) -> int:
        return self.server.counts.peak_in_flight

    def delay(self, seconds: float) -> None:
        self.server.set(latency_seconds=seconds)

    def lose_an_answer(self) -> None:
        """The next write is carried out, but its answer does not come."""
        self.server.set(faults=Faults(lost_answer=1.0, max_consecutive=1))

    def has_lost_an_answer(self) -> bool:
        return self.server.counts.faults["lost_answer"] >= 1

    def refuse(self) -> None:
        self.server.set(deny=("all",))

    def be_out(self, out: bool) -> None:
        self.server.set(outage=out)


class S3:
    """A bucket of S3 likewise."""

    url = "s3://data"
    other_url = "s3a://data"
    nowhere = "s3://nowhere"
    some_pages = 120

    def __init__(self, server: S3Server) -> None:
        self.server = server
        server.reset("data")

    def put(self, name: str, content: bytes) -> str:
        self.server.put("data", name, content)
        return hashlib.md5(content).hexdigest()

    def get(self, name: str) -> bytes:
        return self.server.get("data", name)

    def delete(self, name: str) -> None:
        self.server.delete("data", name)

    def names(self) -> list[str]:
        return self.server.names("data")

    def forget_requests(self) -> None:
        self.server.requests.clear()

    def n_requests(self) -> int:
        return len(self.server.requests)

    def downloads(self) -> Counter[str]:
        of_objects = "GET /data/"
        return Counter(
            request.removeprefix(of_objects)
            for request in self.server.requests
            if request.startswith(of_objects)
        )

    def peak_in_flight(self) -> int:
        return self.server.peak_in_flight

    def delay(self, seconds: float) -> None:
        self.server.latency_seconds = seconds

    def lose_an_answer(self) -> None:
        self.server.faults = [
            Fault(header=header, status=500, code="InternalError", carried_out=True)
            for header in ("If-Match", "If-None-Match")
        ]

    def has_lost_an_answer(self) -> bool:
        return any(fault.times == 0 for fault in self.server.faults)

    def refuse(self) -> None:
        self.server.faults = [Fault(times=FOR_EVER, status=403, code="AccessDenied")]

    def be_out(self, out: bool) -> None:
        self.server.faults = [Fault(times=FOR_EVER, status=503, code="ServiceUnavailable")] if out else []


@pytest.fixture(params=["gcs", "s3"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Gcs | S3:
    """An empty bucket; nothing is waited for long, and large uploads are in parts."""
    monkeypatch.setattr("transforms.patience.LONGEST_WAIT_SECONDS", 0.05)
    if request.param == "gcs":
        return Gcs(request.getfixturevalue("gcs"))
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "50")
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda *_, **__: 5 << 20)
    return S3(request.getfixturevalue("s3"))


def reason(ref: ImageRef) -> str:
    """Why an image is none."""
    return fetching.fetch(ref, MAX_BYTES).content.error


def test_an_image_takes_one_request_and_has_a_version(store: Gcs | S3) -> None:
    name = "a b#%?+::é.jpg"
    version = store.put(name, b"content")
    ref = storage.reference(f"{store.url}/{name}")
    assert (ref.size, ref.version) == (7, version)
    assert list(storage.list_tree(f"{store.url}/")) == [ref]
    store.forget_requests()
    fetched = fetching.fetch(ref, MAX_BYTES)
    assert (fetched.content, fetched.attempts) == (b"content", 1)
    assert (store.n_requests(), store.downloads()) == (1, {name: 1})


def test_what_happened_since_listing_is_told(store: Gcs | S3) -> None:
    for name in ("gone.jpg", "changed.jpg"):
        store.put(name, b"content")
    gone, changed = storage.references([f"{store.url}/gone.jpg", f"{store.url}/changed.jpg"])
    store.delete("gone.jpg")
    store.put("changed.jpg", b"CONTENT")
    assert reason(gone) == "not_found"
    assert reason(changed) == "changed"
    for bucket in (store.url, store.nowhere, store.url.replace("data", "No Bucket")):
        assert reason(storage.reference(f"{bucket}/never.jpg")) == "not_found"


def test_too_large_an_image_is_not_read(store: Gcs | S3) -> None:
    store.put("large.jpg", b"x" * (MAX_BYTES + 1))
    url = f"{store.url}/large.jpg"
    listed, unlisted = storage.reference(url), ImageRef(url, None, None)
    store.forget_requests()
    assert reason(listed) == "too_many_bytes"
    assert store.n_requests() == 0
    assert reason(unlisted) == "too_many_bytes"


def test_many_images_are_on_their_way_at_once_in_order_and_within_the_window(store: Gcs | S3) -> None:
    contents = {f"{number:04d}.jpg": str(number).encode() * 100 for number in range(400)}
    for name, content in contents.items():
        store.put(name, content)
    refs = sorted(list_images([store.url], Found()), key=lambda ref: ref.uri)
    store.delay(0.05)
    store.forget_requests()
    drawn = []
    images = fetching.fetch_many((drawn.append(ref) or ref for ref in refs), MAX_BYTES)
    first = next(images)
    assert len(drawn) == fetching.READ_AHEAD_REMOTE_IMAGES
    fetched = [first, *images]
    assert [each.ref for each in fetched] == refs
    assert [each.content for each in fetched] == list(contents.values())
    assert (store.n_requests(), store.downloads()) == (400, dict.fromkeys(contents, 1))
    assert 32 < store.peak_in_flight() <= 64


def test_a_folder_a_glob_and_a_file_name_images(store: Gcs | S3) -> None:
    for name in ("in/a.jpg", "in/b/c.JPG", "in/d.txt", "in/.e.jpg", "in/.f/g.jpg", "in.jpg"):
        store.put(name, b"content")
    store.put("in.txt", f"{store.url}/in/a.jpg\nin.jpg\n".encode())

    def listed(pattern: str) -> list[str]:
        uris = (ref.uri for ref in list_images([f"{store.url}/{pattern}"], Found()))
        return sorted(uri.removeprefix(f"{store.url}/") for uri in uris)

    assert listed("in") == ["in/a.jpg", "in/b/c.JPG"]
    assert listed("**/*.[jJ][pP][gG]") == ["in.jpg", "in/a.jpg", "in/b/c.JPG"]
    assert listed("in.jpg") == ["in.jpg"]
    assert listed("in.txt") == ["in.jpg", "in/a.jpg"]


@pytest.mark.parametrize("n_rows", [1000, 100_000])
def test_a_file_is_read_in_ranges(
    store: Gcs | S3, tmp_path: Path, n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"number": list(range(n_rows))})
    pq.write_table(table, tmp_path / "local", row_group_size=n_rows // 10)
    content = (tmp_path / "local").read_bytes()
    store.put("part.parquet", content)
    url = f"{store.url}/part.parquet"
    store.forget_requests()
    with storage.open_file(url) as file:
        rows = pq.ParquetFile(file).read_row_group(3)
        assert rows.equals(table.slice(3 * n_rows // 10, n_rows // 10))
        assert store.downloads().total() <= 3
        assert pq.read_table(file).equals(table)
    # A small file is fetched at once.
    is_small = len(content) <= remote.READ_WHOLE_BYTES
    assert is_small == (n_rows == 1000) == (store.downloads().total() == 1)
    monkeypatch.setattr(storage, "STREAM_BYTES", 100_000)
    with storage.open_stream(url) as file:
        pieces = [file.read(70_000) for _ in range(len(content) // 70_000 + 2)]
    assert b"".join(pieces) == content
    assert storage.read_tail(url, 100) == content[-100:]
    assert storage.read_tail(url, 2 * len(content)) == content
    assert storage.read(url) == content
    with pytest.raises(FileNotFoundError):
        storage.read(f"{store.url}/none")


def test_a_commit_is_one_upload_and_the_first_wins(store: Gcs | S3, local: Callable[[bytes], str]) -> None:
    first, second = local(b"first"), local(b"other")
    url = f"{store.url}/a/part.parquet"
    store.forget_requests()
    assert storage.commit(first, url)
    assert store.n_requests() == 1
    assert not storage.commit(second, url)
    assert storage.commit(first, url)
    assert store.get("a/part.parquet") == b"first"


@pytest.mark.parametrize("n_bytes", [1000, 12 << 20])
def test_a_commit_whose_answer_was_lost_is_a_success(
    store: Gcs | S3, local: Callable[[bytes], str], n_bytes: int
) -> None:
    content = os.urandom(n_bytes)
    store.lose_an_answer()
    assert storage.commit(local(content), f"{store.url}/part.parquet")
    assert store.has_lost_an_answer()
    assert store.get("part.parquet") == content


def test_swap_replaces_only_what_was_read(store: Gcs | S3) -> None:
    url = f"{store.url}/dir/CURRENT.json"
    assert storage.read_versioned(url) == (None, None)
    assert storage.swap(url, b"one", None)
    assert not storage.swap(url, b"two", None)
    content, token = storage.read_versioned(url)
    assert content == b"one"
    assert storage.swap(url, b"two", token)
    assert not storage.swap(url, b"three", token)
    assert storage.read_versioned(url)[0] == store.get("dir/CURRENT.json") == b"two"


@pytest.mark.parametrize("is_first", [True, False])
def test_a_swap_whose_answer_was_lost_is_a_success(store: Gcs | S3, is_first: bool) -> None:
    url = f"{store.url}/CURRENT.json"
    if not is_first:
        store.put("CURRENT.json", b"one")
    token = storage.read_versioned(url)[1]
    store.lose_an_answer()
    assert storage.swap(url, b"two", token)
    assert store.has_lost_an_answer()
    assert not storage.swap(url, b"three", token)


def test_names_files_and_folders_are_found_made_and_removed(store: Gcs | S3) -> None:
    for name in ("out/a.json", "out/ab/c", "out/b", "out2/a"):
        for _ in range(2):
            storage.create(f"{store.url}/{name}")
    folder = f"{store.url}/out"
    assert storage.exists(f"{folder}/b")
    assert not storage.exists(folder)
    assert not storage.exists(store.url)
    assert storage.list_names(folder) == ["a.json", "ab", "b"]
    assert storage.list_names(folder, "b") == ["b"]
    assert storage.list_names(f"{folder}/", "a") == ["a.json", "ab"]
    assert storage.list_names(store.url) == ["out", "out2"]
    assert storage.list_names(f"{store.url}/none") == []
    assert storage.list_names(f"{store.nowhere}/out") == []
    for _ in range(2):
        storage.delete(f"{folder}/b")
        assert store.names() == ["out/a.json", "out/ab/c", "out2/a"]
    for directory in (f"{store.other_url}/out", folder, f"{store.nowhere}/out"):
        storage.delete_directory(directory)
        assert store.names() == ["out2/a"]


def test_a_folder_of_some_pages_is_listed_and_removed_whole(store: Gcs | S3) -> None:
    names = [f"{number:05d}" for number in range(store.some_pages)]
    for name in names:
        store.put(f"out/{name}", b"")
    assert storage.list_names(f"{store.url}/out") == names
    storage.delete_directory(f"{store.url}/out")
    assert store.names() == []


def test_a_bucket_that_is_not_there_is_one_line(store: Gcs | S3, local: Callable[[bytes], str]) -> None:
    with pytest.raises(UsageError, match=rf"^there is no {store.nowhere}/in/; check --input$"):
        list(list_images([f"{store.nowhere}/in"], Found()))
    with pytest.raises(UsageError, match=rf"no images in '{store.url}'"):
        list(list_images([store.url], Found()))
    for write in (
        lambda url: storage.commit(local(b"x"), url),
        lambda url: storage.swap(url, b"x", None),
    ):
        with pytest.raises(RunError, match=rf"cannot write {store.nowhere}/a: there is no such bucket"):
            write(f"{store.nowhere}/a")


def test_what_may_not_be_done_is_one_line(store: Gcs | S3, local: Callable[[bytes], str]) -> None:
    store.refuse()
    for act in (
        lambda: list(storage.list_tree(f"{store.url}/")),
        lambda: storage.commit(local(b"x"), f"{store.url}/a"),
        lambda: storage.read(f"{store.url}/a"),
        lambda: storage.list_names(store.url),
    ):
        with pytest.raises(RunError, match=rf"^{store.url}.*: no permission; check the credentials"):
            act()


def test_a_store_that_is_out_is_waited_for_and_then_one_line(
    store: Gcs | S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.patience.OUTAGE_SECONDS", 0.5)
    store.put("a", b"content")
    store.be_out(True)
    with pytest.raises(RunError, match=r"the store failed \(\d+ attempts; .*\); run the same command again"):
        storage.read(f"{store.url}/a")
    monkeypatch.setattr("transforms.patience.OUTAGE_SECONDS", 60)
    for look, found in (
        (lambda: storage.read(f"{store.url}/a"), b"content"),
        (lambda: [ref.uri for ref in storage.list_tree(f"{store.url}/")], [f"{store.url}/a"]),
    ):
        store.be_out(True)
        threading.Timer(0.5, lambda: store.be_out(False)).start()
        assert look() == found

"""What Cloud Storage and S3 both promise to `storage`, `fetching` and `listing`: real clients against test servers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
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
KEYS_A_PAGE = 50
FOR_EVER = 1_000_000


@dataclass(frozen=True)
class ObjectStore:
    """A store with an empty bucket `data`, and what its server is `set` to so that something happens.

    Attributes:
        server: Its server.
        scheme: Of its URLs.
        other_scheme: Which means the same.
        lost_answer: The next write is carried out, but not answered.
        refusal: Nothing is permitted.
        outage: Nothing works.
        recovery: All works again.
    """

    server: GcsServer | S3Server
    scheme: str
    other_scheme: str
    lost_answer: dict[str, object]
    refusal: dict[str, object]
    outage: dict[str, object]
    recovery: dict[str, object]

    @property
    def url(self) -> str:
        return f"{self.scheme}://data"

    @property
    def nowhere(self) -> str:
        return f"{self.scheme}://nowhere"

    def put(self, name: str, content: bytes) -> str:
        return str(self.server.put("data", name, content))

    def n_requests(self) -> int:
        return sum(self.server.counts.requests.values())


def cloud_storage(server: GcsServer) -> ObjectStore:
    server.create_bucket("data")
    server.set(keys_a_page=KEYS_A_PAGE)
    lost_answer = {"faults": Faults(lost_answer=1.0, max_consecutive=1)}
    refusal, outage, recovery = {"deny": ("all",)}, {"outage": True}, {"outage": False}
    return ObjectStore(server, "gs", "gcs", lost_answer, refusal, outage, recovery)


def amazon_s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    server.reset("data")
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", str(KEYS_A_PAGE))
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda *_, **__: 5 << 20)
    lost_answer = [
        Fault(header=header, status=500, code="InternalError", carried_out=True)
        for header in ("If-Match", "If-None-Match")
    ]
    refusal = [Fault(times=FOR_EVER, status=403, code="AccessDenied")]
    outage = [Fault(times=FOR_EVER, status=503, code="ServiceUnavailable")]
    settings = ({"faults": faults} for faults in (lost_answer, refusal, outage, []))
    return ObjectStore(server, "s3", "s3a", *settings)


@pytest.fixture(params=["gcs", "s3"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    monkeypatch.setattr("transforms.patience.LONGEST_WAIT_SECONDS", 0.05)
    server = request.getfixturevalue(request.param)
    return cloud_storage(server) if request.param == "gcs" else amazon_s3(server, monkeypatch)


def reason(ref: ImageRef) -> str:
    """Why an image is none."""
    return fetching.fetch(ref, MAX_BYTES).content.error


def test_an_image_takes_one_request_and_has_a_version(store: ObjectStore) -> None:
    name = "a b#%?+::é.jpg"
    version = store.put(name, b"content")
    ref = storage.reference(f"{store.url}/{name}")
    assert (ref.size, ref.version) == (7, version)
    assert list(storage.list_tree(f"{store.url}/")) == [ref]
    store.server.reset_counts()
    fetched = fetching.fetch(ref, MAX_BYTES)
    assert (fetched.content, fetched.attempts) == (b"content", 1)
    assert (store.n_requests(), store.server.counts.downloads) == (1, {f"data/{name}": 1})


def test_what_happened_since_listing_is_told(store: ObjectStore) -> None:
    for name in ("gone.jpg", "changed.jpg"):
        store.put(name, b"content")
    gone, changed = storage.references([f"{store.url}/gone.jpg", f"{store.url}/changed.jpg"])
    store.server.delete("data", "gone.jpg")
    store.put("changed.jpg", b"CONTENT")
    assert reason(gone) == "not_found"
    assert reason(changed) == "changed"
    for bucket in (store.url, store.nowhere, store.url.replace("data", "No Bucket")):
        assert reason(storage.reference(f"{bucket}/never.jpg")) == "not_found"


def test_too_large_an_image_is_not_read(store: ObjectStore) -> None:
    store.put("large.jpg", b"x" * (MAX_BYTES + 1))
    url = f"{store.url}/large.jpg"
    listed, unlisted = storage.reference(url), ImageRef(url, None, None)
    store.server.reset_counts()
    assert reason(listed) == "too_many_bytes"
    assert store.n_requests() == 0
    assert reason(unlisted) == "too_many_bytes"


def test_many_images_are_on_their_way_at_once_in_order_and_within_the_window(store: ObjectStore) -> None:
    contents = {f"{number:04d}.jpg": str(number).encode() * 100 for number in range(400)}
    for name, content in contents.items():
        store.put(name, content)
    refs = sorted(list_images([store.url], Found()), key=lambda ref: ref.uri)
    store.server.set(latency_seconds=0.05)
    store.server.reset_counts()
    drawn = []
    images = fetching.fetch_many((drawn.append(ref) or ref for ref in refs), MAX_BYTES)
    first = next(images)
    assert len(drawn) == fetching.READ_AHEAD_REMOTE_IMAGES
    fetched = [first, *images]
    assert [each.ref for each in fetched] == refs
    assert [each.content for each in fetched] == list(contents.values())
    assert store.n_requests() == 400
    assert store.server.counts.downloads == {f"data/{name}": 1 for name in contents}
    assert 32 < store.server.counts.peak_in_flight <= 64


def test_a_folder_a_glob_and_a_file_name_images(store: ObjectStore) -> None:
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
    store: ObjectStore, tmp_path: Path, n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"number": list(range(n_rows))})
    pq.write_table(table, tmp_path / "local", row_group_size=n_rows // 10)
    content = (tmp_path / "local").read_bytes()
    store.put("part.parquet", content)
    url = f"{store.url}/part.parquet"
    store.server.reset_counts()
    with storage.open_file(url) as file:
        rows = pq.ParquetFile(file).read_row_group(3)
        assert rows.equals(table.slice(3 * n_rows // 10, n_rows // 10))
        assert sum(store.server.counts.downloads.values()) <= 3
        assert pq.read_table(file).equals(table)
    # A small file is fetched at once.
    is_small = len(content) <= remote.READ_WHOLE_BYTES
    assert is_small == (n_rows == 1000) == (sum(store.server.counts.downloads.values()) == 1)
    monkeypatch.setattr(storage, "STREAM_BYTES", 100_000)
    with storage.open_stream(url) as file:
        pieces = [file.read(70_000) for _ in range(len(content) // 70_000 + 2)]
    assert b"".join(pieces) == content
    assert storage.read_tail(url, 100) == content[-100:]
    assert storage.read_tail(url, 2 * len(content)) == content
    assert storage.read(url) == content
    with pytest.raises(FileNotFoundError):
        storage.read(f"{store.url}/none")


def test_files_and_folders_are_copied_here_in_parts(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "STREAM_BYTES", 1 << 20)
    contents = {"a/small": b"s", "a/b/large": bytes(range(256)) * (5 << 12), "a/b/": b"", "ab": b"beside"}
    for name, content in contents.items():
        store.put(name, content)
    store.server.reset_counts()
    assert storage.download_tree(f"{store.url}/a", str(tmp_path / "a")) == 2
    here = {
        str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert here == {name: contents[name] for name in ("a/small", "a/b/large")}
    assert store.server.counts.downloads == {"data/a/small": 1, "data/a/b/large": 5}
    for nothing in (f"{store.url}/nothing", f"{store.nowhere}/a"):
        assert storage.download_tree(nothing, str(tmp_path / "nothing")) == 0
        with pytest.raises(FileNotFoundError):
            storage.download(nothing, str(tmp_path / "nothing"))


def test_an_empty_file_is_read_whatever_the_range(store: ObjectStore) -> None:
    store.put("empty", b"")
    url = f"{store.url}/empty"
    assert storage.read_tail(url, 8) == b""
    assert storage.read(url) == b""
    assert fetching.fetch(ImageRef(url, None, None), MAX_BYTES).content == b""


def test_a_commit_is_one_upload_and_the_first_wins(store: ObjectStore, local: Callable[[bytes], str]) -> None:
    first, second = local(b"first"), local(b"other")
    url = f"{store.url}/a/part.parquet"
    store.server.reset_counts()
    assert storage.commit(first, url)
    assert store.n_requests() == 1
    assert not storage.commit(second, url)
    assert storage.commit(first, url)
    assert store.server.get("data", "a/part.parquet") == b"first"


@pytest.mark.parametrize("n_bytes", [1000, 12 << 20])
def test_a_commit_whose_answer_was_lost_is_a_success(
    store: ObjectStore, local: Callable[[bytes], str], n_bytes: int
) -> None:
    content = os.urandom(n_bytes)
    store.server.set(**store.lost_answer)
    assert storage.commit(local(content), f"{store.url}/part.parquet")
    assert store.server.counts.faults
    assert store.server.get("data", "part.parquet") == content


def test_swap_replaces_only_what_was_read(store: ObjectStore) -> None:
    url = f"{store.url}/dir/CURRENT.json"
    assert storage.read_versioned(url) == (None, None)
    assert storage.swap(url, b"one", None)
    assert not storage.swap(url, b"two", None)
    content, token = storage.read_versioned(url)
    assert content == b"one"
    assert storage.swap(url, b"two", token)
    assert not storage.swap(url, b"three", token)
    assert storage.read_versioned(url)[0] == store.server.get("data", "dir/CURRENT.json") == b"two"


def test_what_was_removed_is_not_replaced(store: ObjectStore) -> None:
    url = f"{store.url}/CURRENT.json"
    assert storage.swap(url, b"one", None)
    token = storage.read_versioned(url)[1]
    storage.delete(url)
    assert not storage.swap(url, b"two", token)
    assert storage.read_versioned(url) == (None, None)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_swap_whose_answer_was_lost_is_a_success(store: ObjectStore, is_first: bool) -> None:
    url = f"{store.url}/CURRENT.json"
    if not is_first:
        store.put("CURRENT.json", b"one")
    token = storage.read_versioned(url)[1]
    store.server.set(**store.lost_answer)
    assert storage.swap(url, b"two", token)
    assert store.server.counts.faults
    assert not storage.swap(url, b"three", token)


def test_names_files_and_folders_are_found_made_and_removed(store: ObjectStore) -> None:
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
        assert store.server.objects("data") == ["out/a.json", "out/ab/c", "out2/a"]
    for directory in (f"{store.other_scheme}://data/out", folder, f"{store.nowhere}/out"):
        storage.delete_directory(directory)
        assert store.server.objects("data") == ["out2/a"]


def test_a_folder_of_some_pages_is_listed_and_removed_whole(store: ObjectStore) -> None:
    names = [f"{number:05d}" for number in range(2 * KEYS_A_PAGE + 20)]
    for name in names:
        store.put(f"out/{name}", b"")
    assert storage.list_names(f"{store.url}/out") == names
    storage.delete_directory(f"{store.url}/out")
    assert store.server.objects("data") == []


def test_a_bucket_that_is_not_there_is_one_line(store: ObjectStore, local: Callable[[bytes], str]) -> None:
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


def test_what_may_not_be_done_is_one_line(store: ObjectStore, local: Callable[[bytes], str]) -> None:
    store.server.set(**store.refusal)
    for act in (
        lambda: list(storage.list_tree(f"{store.url}/")),
        lambda: storage.commit(local(b"x"), f"{store.url}/a"),
        lambda: storage.read(f"{store.url}/a"),
        lambda: storage.list_names(store.url),
    ):
        with pytest.raises(RunError, match=rf"^{store.url}.*: no permission; check the credentials"):
            act()


def test_a_store_that_is_out_is_waited_for_and_then_one_line(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.patience.OUTAGE_SECONDS", 0.5)
    store.put("a", b"content")
    store.server.set(**store.outage)
    with pytest.raises(RunError, match=r"the store failed \(\d+ attempts; .*\); run the same command again"):
        storage.read(f"{store.url}/a")
    monkeypatch.setattr("transforms.patience.OUTAGE_SECONDS", 60)
    for look, found in (
        (lambda: storage.read(f"{store.url}/a"), b"content"),
        (lambda: [ref.uri for ref in storage.list_tree(f"{store.url}/")], [f"{store.url}/a"]),
    ):
        store.server.set(**store.outage)
        threading.Timer(0.5, lambda: store.server.set(**store.recovery)).start()
        assert look() == found

"""S3 as `storage`, `fetching` and a whole run see it: a real client against moto's server."""

from __future__ import annotations

import asyncio
import gzip
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import dataset, s3_server
from tests.s3_server import Fault, S3Server
from transforms import fetching, remote, storage, stores
from transforms.errors import BadImage, RunError, UsageError
from transforms.listing import Found, list_images
from transforms.records import ImageRef
from transforms.s3 import _just_before

MAX_BYTES = 1_000_000
KMS = {"encryption": "aws:kms"}
LAST = "\U0010ffff"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server.serve() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setattr(stores, "_stores", {})
        yield server


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server with empty buckets `photos` and `results`; nothing is waited for long."""
    server.reset("photos", "results")
    monkeypatch.setattr("transforms.patience.LONGEST_WAIT_SECONDS", 0.05)
    return server


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


def test_an_image_takes_one_request_and_has_its_etag_as_version(s3: S3Server) -> None:
    s3.put("photos", "a b#%?+é.jpg", b"content")
    ref = storage.reference("s3://photos/a b#%?+é.jpg")
    assert (ref.size, ref.version) == (7, "9a0364b9e99bb480dd25e1f0284c8555")
    s3.requests.clear()
    fetched = fetching.fetch(ref, MAX_BYTES)
    assert (fetched.content, fetched.attempts) == (b"content", 1)
    assert s3.requests == ["GET /photos/a b#%?+é.jpg"]


def test_what_happened_since_listing_is_told(s3: S3Server) -> None:
    for name in ("gone.jpg", "changed.jpg"):
        s3.put("photos", name, b"content")
    gone, changed = storage.references(["s3://photos/gone.jpg", "s3://photos/changed.jpg"])
    s3.delete("photos", "gone.jpg")
    s3.put("photos", "changed.jpg", b"CONTENT")
    assert reason(gone) == "not_found"
    assert reason(changed) == "changed"
    assert reason(storage.reference("s3://photos/never.jpg")) == "not_found"
    assert reason(storage.reference("s3://nowhere/never.jpg")) == "not_found"
    assert reason(storage.reference("s3://No Bucket/never.jpg")) == "not_found"


def test_too_large_an_image_is_not_read(s3: S3Server) -> None:
    s3.put("photos", "large.jpg", b"x" * (MAX_BYTES + 1))
    listed, unlisted = (
        storage.reference("s3://photos/large.jpg"),
        ImageRef("s3://photos/large.jpg", None, None),
    )
    s3.requests.clear()
    assert reason(listed) == "too_many_bytes"
    assert s3.requests == []
    assert reason(unlisted) == "too_many_bytes"


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "Whatever"])
def test_a_refusal_is_asked_about_once(s3: S3Server, code: str) -> None:
    s3.put("photos", "a.jpg", b"content")
    ref = storage.reference("s3://photos/a.jpg")
    s3.faults = [Fault(times=9, status=403, code=code)]
    fetched = fetching.fetch(ref, MAX_BYTES)
    assert (fetched.content.error, fetched.attempts) == ("permission_denied", 1)
    with pytest.raises(RunError, match="no permission; check the credentials"):
        list(storage.list_tree("s3://photos/"))


def test_no_credentials_are_a_refusal(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setitem(stores._stores, "s3", stores._open_store("s3"))
    assert reason(ImageRef("s3://photos/a.jpg", None, None)) == "permission_denied"


def corrupted(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(times=3, status=503, code="SlowDown"),
        Fault(times=3, status=500, code="InternalError"),
        Fault(times=3, status=429, code="TooManyRequests"),
        Fault(times=3, status=400, code="RequestTimeout"),
        Fault(times=3, change=cut),
        Fault(times=3, change=corrupted),
    ],
    ids=["slow down", "internal error", "429", "request timeout", "cut", "corrupted"],
)
def test_what_may_pass_is_asked_for_again(s3: S3Server, fault: Fault) -> None:
    content = os.urandom(20_000)
    s3.put("photos", "a.jpg", content)
    ref = storage.reference("s3://photos/a.jpg")
    s3.faults = [fault]
    s3.requests.clear()
    fetched = fetching.fetch(ref, MAX_BYTES)
    assert (fetched.content, fetched.attempts) == (content, 4)
    assert len(s3.requests) == 4


def test_a_server_that_is_not_there_may_come_back(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("transforms.patience.OUTAGE_SECONDS", 0.1)
    monkeypatch.setitem(stores._stores, "s3", stores._open_store("s3"))
    fetched = fetching.fetch(ImageRef("s3://photos/a.jpg", None, None), MAX_BYTES)
    assert fetched.content.error == "unreadable"
    assert "127.0.0.1:1" in fetched.content.message
    assert fetched.attempts > 1


def test_an_etag_that_is_no_md5_checks_nothing(s3: S3Server) -> None:
    s3.put("photos", "a.jpg", b"content", **KMS)
    s3.faults = [Fault(method="GET", change=corrupted)]
    assert fetching.fetch(storage.reference("s3://photos/a.jpg"), MAX_BYTES).content == b"contenu"


def test_a_checksum_that_the_store_keeps_is_checked(s3: S3Server) -> None:
    boto3.client("s3").put_object(
        Bucket="photos",
        Key="a.jpg",
        Body=b"content",
        ServerSideEncryption="aws:kms",
        ChecksumAlgorithm="CRC32",
    )
    s3.faults = [Fault(method="GET", change=corrupted)]
    fetched = fetching.fetch(storage.reference("s3://photos/a.jpg"), MAX_BYTES)
    assert (fetched.content, fetched.attempts) == (b"content", 2)


def test_what_is_stored_packed_stays_packed(s3: S3Server) -> None:
    packed = gzip.compress(b"content")
    boto3.client("s3").put_object(Bucket="photos", Key="a.jpg", Body=packed, ContentEncoding="gzip")
    assert fetching.fetch(storage.reference("s3://photos/a.jpg"), MAX_BYTES).content == packed


def test_many_images_come_in_order_and_many_at_once(s3: S3Server) -> None:
    for number in range(300):
        s3.put("photos", f"{number:03d}.jpg", str(number).encode())
    refs = sorted(list_images(["s3://photos"], Found()), key=lambda ref: ref.uri)
    s3.latency_seconds = 0.05
    fetched = list(fetching.fetch_many(refs, MAX_BYTES))
    assert [each.content for each in fetched] == [str(number).encode() for number in range(300)]
    assert 32 < s3.peak_in_flight <= 64


def test_a_file_is_read_in_ranges(s3: S3Server) -> None:
    table = pa.table({"uri": [f"s3://photos/{number}.jpg" for number in range(1000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content = sink.getvalue().to_pybytes()
    s3.put("photos", "manifest.parquet", content)
    with storage.open_file("s3://photos/manifest.parquet") as file:
        assert pq.read_table(file).equals(table)
    assert storage.read_tail("s3://photos/manifest.parquet", 8) == content[-8:]
    assert storage.read_tail("s3://photos/manifest.parquet", 1 << 20) == content
    assert storage.read("s3://photos/manifest.parquet") == content


def test_an_empty_file_is_read_whatever_the_range(s3: S3Server) -> None:
    s3.put("photos", "empty", b"")
    assert storage.read_tail("s3://photos/empty", 8) == b""
    assert storage.read("s3://photos/empty") == b""
    assert fetching.fetch(ImageRef("s3://photos/empty", None, None), MAX_BYTES).content == b""


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_a_flat_bucket_of_many_pages_is_listed_once(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    names = [f"flat/{number:05d}.jpg" for number in range(2500)]
    for name in names:
        s3.put("photos", name, b"")
    s3.put("photos", "flat.jpg", b"")
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "50")
    listed = [ref.uri for ref in list_images([f"{scheme}://photos/flat/"], Found())]
    assert sorted(listed) == [f"{scheme}://photos/{name}" for name in names]


def test_names_of_all_kinds_are_listed_once(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ("a", "a/", "a/b", "a/b/c", "a b", "a%20b", "a+b", "a?b", "a#b", "é", "日本", "😀", 2 * LAST)
    names = {f"{kind}{number}{other}" for kind in kinds for number in range(6) for other in ("", *kinds)}
    for name in names:
        s3.put("photos", f"in/{name}", b"")
    for name in ("in", "in.jpg", "in/", "in0"):
        s3.put("photos", name, b"")
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "20")
    listed = [ref.uri for page in remote.list_tree("s3://photos/in/") for ref in page]
    assert sorted(listed) == sorted(f"s3://photos/in/{name}" for name in {*names, ""})


@pytest.mark.parametrize(
    ("key", "before"),
    [("a1", f"a0{LAST}"), ("a", f"`{LAST}"), ("a\0", "a"), ("\ue000", f"\ud7ff{LAST}")],
)
def test_what_comes_just_before_a_key(key: str, before: str) -> None:
    assert _just_before(key) == before
    assert before.encode() < key.encode()


def test_a_page_that_is_not_the_last_holds_two_keys_within_its_bounds(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (f"a0{LAST}1", f"a0{LAST}2", f"a0{LAST}3", "a1", "a2", "a3", "a4"):
        s3.put("photos", name, b"")
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
    store = stores.store_of("s3://photos")

    def page(start: str, end: str | None, most: int | None) -> tuple[list[str], bool]:
        asked = asyncio.run_coroutine_threadsafe(store._page("photos", "a", start, end, most), stores.loop())
        found = asked.result()
        return [key.name for key in found.keys], found.more

    assert page("a1", None, None) == (["a1", "a2", "a3"], True)
    assert page("a1", None, 1) == (["a1"], True)
    assert page("a1", "a2", None) == (["a1"], False)
    assert page("a4", None, None) == (["a4"], False)


def test_what_cannot_be_listed_is_said_in_one_line(s3: S3Server) -> None:
    with pytest.raises(UsageError, match=r"^there is no s3://nowhere/in/; check --input$"):
        list(list_images(["s3://nowhere/in"], Found()))
    with pytest.raises(UsageError, match=r"no images in 's3://photos'"):
        list(list_images(["s3://photos"], Found()))


def test_a_folder_a_glob_and_a_file_name_images(s3: S3Server) -> None:
    for name in ("in/a.jpg", "in/b/c.JPG", "in/d.txt", "in/.e.jpg", "in.jpg"):
        s3.put("photos", name, b"content")
    s3.put("photos", "in.txt", b"s3://photos/in/a.jpg\nin.jpg\n")

    def listed(pattern: str) -> list[str]:
        return sorted(ref.uri.removeprefix("s3://photos/") for ref in list_images([pattern], Found()))

    assert listed("s3://photos/in") == ["in/a.jpg", "in/b/c.JPG"]
    assert listed("s3://photos/**/*.[jJ][pP][gG]") == ["in.jpg", "in/a.jpg", "in/b/c.JPG"]
    assert listed("s3://photos/in.jpg") == ["in.jpg"]
    assert listed("s3://photos/in.txt") == ["in.jpg", "in/a.jpg"]


def test_commit_appears_once(s3: S3Server, local: Callable[[bytes], str]) -> None:
    first, second = local(b"first"), local(b"other")
    assert storage.commit(first, "s3://results/out/part.parquet")
    assert not storage.commit(second, "s3://results/out/part.parquet")
    assert storage.commit(first, "s3://results/out/part.parquet")
    assert s3.get("results", "out/part.parquet") == b"first"
    with pytest.raises(RunError, match="there is no such bucket"):
        storage.commit(first, "s3://nowhere/part.parquet")


def test_where_there_is_no_md5_a_commit_is_known_by_its_size(
    s3: S3Server, local: Callable[[bytes], str]
) -> None:
    s3.put("results", "part.parquet", b"first", **KMS)
    assert storage.commit(local(b"other"), "s3://results/part.parquet")
    assert not storage.commit(local(b"longer"), "s3://results/part.parquet")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda *_, **__: 5 << 20)


@pytest.mark.parametrize("n_bytes", [10, 12 << 20])
def test_a_commit_whose_answer_was_lost_is_found(
    s3: S3Server, local: Callable[[bytes], str], small_parts: None, n_bytes: int
) -> None:
    content = bytes(n_bytes)
    s3.faults = [
        Fault(
            "POST" if n_bytes > 10 << 20 else "PUT",
            header="If-None-Match",
            status=500,
            code="InternalError",
            carried_out=True,
        )
    ]
    assert storage.commit(local(content), "s3://results/part.parquet")
    assert s3.faults[0].times == 0
    assert s3.get("results", "part.parquet") == content


@pytest.mark.parametrize("status", [501, 400])
def test_a_store_without_conditions_is_written_without(
    s3: S3Server, local: Callable[[bytes], str], status: int
) -> None:
    s3.faults = [
        Fault(times=9, header=header, status=status, code="NotImplemented")
        for header in ("If-Match", "If-None-Match")
    ]
    for content in (b"first", b"second"):
        assert storage.commit(local(content), "s3://results/part.parquet")
        assert s3.get("results", "part.parquet") == content
    assert storage.swap("s3://results/CURRENT", b"1", None)
    token = storage.read_versioned("s3://results/CURRENT")[1]
    assert storage.swap("s3://results/CURRENT", b"2", token)
    assert not storage.swap("s3://results/CURRENT", b"3", token)
    assert s3.get("results", "CURRENT") == b"2"


def test_what_a_store_does_not_know_at_all_is_asked_once(s3: S3Server, local: Callable[[bytes], str]) -> None:
    s3.faults = [Fault("PUT", times=9, status=501, code="NotImplemented")]
    with pytest.raises(RunError, match="1 attempts"):
        storage.commit(local(b"content"), "s3://results/part.parquet")


def test_writers_in_conflict_ask_again(s3: S3Server, local: Callable[[bytes], str]) -> None:
    s3.faults = [Fault("PUT", times=2, status=409, code="ConditionalRequestConflict")]
    assert storage.commit(local(b"content"), "s3://results/part.parquet")


def test_swap_replaces_only_what_was_read(s3: S3Server) -> None:
    url = "s3://results/CURRENT"
    assert storage.read_versioned(url) == (None, None)
    assert storage.swap(url, b"1", None)
    assert not storage.swap(url, b"2", None)
    content, token = storage.read_versioned(url)
    assert content == b"1"
    assert storage.swap(url, b"2", token)
    assert not storage.swap(url, b"3", token)
    assert s3.get("results", "CURRENT") == b"2"
    s3.delete("results", "CURRENT")
    assert not storage.swap(url, b"3", token)
    with pytest.raises(RunError, match="there is no such bucket"):
        storage.swap("s3://nowhere/CURRENT", b"1", None)


@pytest.mark.parametrize("options", [{}, KMS])
def test_a_swap_whose_answer_was_lost_is_found(s3: S3Server, options: dict[str, str]) -> None:
    s3.put("results", "CURRENT", b"1", **options)
    token = storage.read_versioned("s3://results/CURRENT")[1]
    s3.faults = [Fault("PUT", status=500, code="InternalError", carried_out=True)]
    assert storage.swap("s3://results/CURRENT", b"2", token)
    assert not storage.swap("s3://results/CURRENT", b"3", token)


def test_names_files_and_deletions(s3: S3Server) -> None:
    for name in ("out/a.json", "out/ab/c", "out/b", "out2/a"):
        s3.put("results", name, b"content")
    storage.create("s3://results/out/new")
    assert storage.exists("s3://results/out/new")
    assert not storage.exists("s3://results/out")
    assert not storage.exists("s3://results")
    assert storage.list_names("s3://results/out") == ["a.json", "ab", "b", "new"]
    assert storage.list_names("s3://results/out/", "a") == ["a.json", "ab"]
    assert storage.list_names("s3://results") == ["out", "out2"]
    assert storage.list_names("s3://nowhere/out") == []
    storage.delete("s3://results/out/b")
    storage.delete("s3://results/out/b")
    storage.delete_directory("s3a://results/out")
    storage.delete_directory("s3a://nowhere/out")
    assert s3.names("results") == ["out2/a"]


def test_many_names_and_files_are_given_whole(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:02d}" for number in range(30)]
    for name in names:
        s3.put("results", f"out/{name}", b"")
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "7")
    assert storage.list_names("s3://results/out") == names
    storage.delete_directory("s3://results/out")
    assert s3.names("results") == []


def test_what_s3_needs_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "transforms.s3")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for scheme in ("s3", "s3a"):
        monkeypatch.delitem(stores._stores, scheme, raising=False)
        with pytest.raises(
            UsageError, match=rf"^{scheme}:// needs another package: pip install 'pixelbeam\[s3\]'$"
        ):
            storage.exists(f"{scheme}://photos/a.jpg")


def test_a_run_from_bucket_to_bucket_is_verified(
    s3: S3Server,
    pixelbeam: Callable[..., tuple[int, str, str]],
    photographs: Path,
    tiny_toml: str,
    tmp_path: Path,
) -> None:
    for path in photographs.iterdir():
        s3.put("photos", f"in/{path.name}", path.read_bytes())
    s3.put("photos", "in/text.jpg", b"no image")
    arguments = ["--variant", tiny_toml, "--images-per-unit", 10, "--batch-size", 4]
    code, _, errors = pixelbeam(
        "run", "--input", "s3://photos/in", "--output", "s3://results/out", *arguments
    )
    assert code == 0, errors
    assert "25 images in 3 units, 25 new" in errors
    assert pixelbeam("verify", "--deep", "s3://results/out")[0] == 0

    for name in s3.names("results"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(s3.get("results", name))
    dataset.assert_conserved(tmp_path / "out")
    (failure,) = dataset.failures(dataset.variants(tmp_path / "out")[0])
    assert (failure["uri"], failure["error"]) == ("s3://photos/in/text.jpg", "not_an_image")

    s3.requests.clear()
    assert pixelbeam("run", "--input", "s3://photos/in", "--output", "s3://results/out", *arguments)[0] == 0
    assert not [request for request in s3.requests if request.startswith("GET /photos/in/")]

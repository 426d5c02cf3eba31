"""The test server as the real clients see it: gcsfs, google-cloud-storage and Beam's file systems."""

from __future__ import annotations

import base64
import hashlib
import http.client
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import google_crc32c
import pytest
import requests
from google.api_core import exceptions
from google.api_core.retry import Retry
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.exceptions import NotFound
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from tests import gcs_server
from tests.gcs_faults import Faults, Schedule
from tests.gcs_server import GcsServer, Settings

QUICK: Retry = DEFAULT_RETRY.with_delay(initial=0.001, maximum=0.01, multiplier=1.5).with_timeout(10)
CONTENT = bytes(range(256)) * 4
MD5 = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
CRC32C = base64.b64encode(google_crc32c.Checksum(CONTENT).digest()).decode()
CHUNK = 1 << 18


@pytest.fixture(scope="module")
def server() -> Iterator[GcsServer]:
    with gcs_server.serve() as served:
        yield served


@pytest.fixture
def gcs(server: GcsServer) -> Iterator[GcsServer]:
    server.create_bucket("b")
    yield server
    server.reset()


@pytest.fixture
def client(gcs: GcsServer) -> storage.Client:
    options = {"api_endpoint": gcs.url}
    return storage.Client(project="p", credentials=AnonymousCredentials(), client_options=options)


@pytest.fixture
def bucket(client: storage.Client) -> storage.Bucket:
    return client.bucket("b")


@pytest.fixture
def files(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """gcsfs, led here by the environment; it does not wait before it tries again."""
    for name, value in gcs.environment.items():
        monkeypatch.setenv(name, value)
    import gcsfs.core
    import gcsfs.retry

    sleep = gcsfs.retry.asyncio.sleep
    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=lambda _: sleep(0.001)))
    return gcsfs.core.GCSFileSystem(
        project="p", token="anon", use_listings_cache=False, skip_instance_cache=True
    )


def listing(gcs: GcsServer, **query: object) -> dict[str, Any]:
    return requests.get(f"{gcs.url}/storage/v1/b/b/o", query, timeout=10).json()


def media(
    gcs: GcsServer, name: str, headers: dict[str, str] | None = None, **query: object
) -> requests.Response:
    url = f"{gcs.url}/download/storage/v1/b/b/o/{name}"
    return requests.get(url, {"alt": "media", **query}, headers=headers, timeout=10)


def upload(gcs: GcsServer, name: str, content: bytes = CONTENT, **query: object) -> requests.Response:
    url = f"{gcs.url}/upload/storage/v1/b/b/o"
    return requests.post(url, content, params={"uploadType": "media", "name": name, **query}, timeout=10)


def test_buckets_come_and_go(client: storage.Client, files: Any) -> None:
    assert client.lookup_bucket("other") is None
    client.create_bucket("other", location="us-central1")
    assert [found.name for found in client.list_buckets()] == ["b", "other"]
    assert files.ls("") == ["b/", "other/"]
    assert client.get_bucket("other").soft_delete_policy.retention_duration_seconds == 0
    with pytest.raises(exceptions.Conflict):
        client.create_bucket("other")
    client.bucket("other").blob("a").upload_from_string(b"")
    with pytest.raises(exceptions.Conflict, match="not empty"):
        client.bucket("other").delete()
    client.bucket("other").delete(force=True)
    assert not client.bucket("other").exists()
    files.mkdir("third")
    assert files.isdir("third")
    files.rmdir("third")
    assert not files.exists("third")


def test_a_storage_layout_is_flat(gcs: GcsServer) -> None:
    layout = requests.get(f"{gcs.url}/storage/v1/b/b/storageLayout", timeout=10)
    assert layout.json()["hierarchicalNamespace"] == {"enabled": False}
    assert requests.get(f"{gcs.url}/storage/v1/b/none/storageLayout", timeout=10).status_code == 404


def test_objects_of_an_unknown_bucket_are_not_found(client: storage.Client, files: Any) -> None:
    with pytest.raises(NotFound, match="bucket does not exist"):
        list(client.list_blobs("none"))
    with pytest.raises(NotFound):
        client.bucket("none").blob("a").upload_from_string(b"")
    with pytest.raises(FileNotFoundError):
        files.pipe_file("none/a", b"")


def test_what_the_server_does_not_know_is_refused(gcs: GcsServer) -> None:
    assert requests.get(f"{gcs.url}/storage/v1/b/b/acl", timeout=10).status_code == 405
    assert "error" in listing(gcs, matchGlob="*.jpg")


def test_objects_have_what_clients_look_at(bucket: storage.Bucket, files: Any) -> None:
    blob = bucket.blob("folder/ä b#?%.jpg")
    blob.metadata = {"key": "value"}
    blob.cache_control = "no-cache"
    blob.upload_from_string(CONTENT, "image/jpeg")
    found = bucket.get_blob(blob.name)
    assert found.size == len(CONTENT)
    assert (found.md5_hash, found.crc32c) == (MD5, CRC32C)
    assert (found.content_type, found.metadata, found.cache_control) == (
        "image/jpeg",
        {"key": "value"},
        "no-cache",
    )
    assert found.metageneration == 1
    assert found.etag
    assert abs(found.updated.timestamp() - time.time()) < 60
    assert found.time_created == found.updated
    info = files.info(f"b/{blob.name}")
    assert (info["name"], info["size"], info["contentType"]) == (f"b/{blob.name}", len(CONTENT), "image/jpeg")
    assert info["generation"] == str(found.generation)
    assert info["mtime"] == found.updated
    (listed,) = bucket.list_blobs()
    assert (listed.md5_hash, listed.metadata, listed.time_created) == (
        MD5,
        {"key": "value"},
        found.time_created,
    )


def test_generations_rise(bucket: storage.Bucket) -> None:
    generations = []
    for name in ("a", "b", "a"):
        blob = bucket.blob(name)
        blob.upload_from_string(b"")
        generations.append(blob.generation)
    assert generations == sorted(set(generations))
    assert bucket.get_blob("a").generation == generations[2]
    assert bucket.get_blob("a", generation=generations[0]) is None


def test_metadata_is_patched_and_replaced(bucket: storage.Bucket, files: Any) -> None:
    blob = bucket.blob("a")
    blob.metadata = {"one": "1", "two": "2"}
    blob.upload_from_string(CONTENT, "image/jpeg")
    assert files.setxattrs("b/a", two=None, three="3") == {"one": "1", "three": "3"}
    assert files.getxattr("b/a", "three") == "3"
    blob.reload()
    assert (blob.metageneration, blob.content_type) == (2, "image/jpeg")
    blob.metadata = {"four": "4"}
    blob.content_type = "image/png"
    blob.update()
    blob.reload()
    assert (blob.metageneration, blob.content_type, blob.metadata) == (3, "image/png", {"four": "4"})
    with pytest.raises(exceptions.PreconditionFailed):
        blob.patch(if_metageneration_match=2)
    assert blob.download_as_bytes() == CONTENT


def test_lists_by_prefix_and_folder(gcs: GcsServer, client: storage.Client, files: Any) -> None:
    for name in ("a/1", "a/2", "a/b/3", "a0", "c"):
        gcs.put("b", name, b"")
    assert [blob.name for blob in client.list_blobs("b", prefix="a/")] == ["a/1", "a/2", "a/b/3"]
    folder = client.list_blobs("b", prefix="a/", delimiter="/")
    assert [blob.name for blob in folder] == ["a/1", "a/2"]
    assert folder.prefixes == {"a/b/"}
    assert files.ls("b") == ["b/a", "b/a0", "b/c"]
    assert files.find("b/a") == ["b/a/1", "b/a/2", "b/a/b/3"]
    assert files.glob("b/a/*") == ["b/a/1", "b/a/2", "b/a/b"]
    assert [f"{where} {names}" for where, _, names in files.walk("b/a")] == ["b/a ['1', '2']", "b/a/b ['3']"]
    assert not files.exists("b/a/4")


def test_lists_in_the_order_of_utf8(gcs: GcsServer, client: storage.Client) -> None:
    names = ["a", "a ", "a/b", "Z", "é", "日本", "\uff5e", "\U0001f600", "~"]
    for name in names:
        gcs.put("b", name, b"")
    assert [blob.name for blob in client.list_blobs("b")] == sorted(names, key=str.encode)
    assert gcs.objects("b") == sorted(names, key=str.encode)


def test_offsets_include_the_start_and_exclude_the_end(gcs: GcsServer, client: storage.Client) -> None:
    for name in "abcdef":
        gcs.put("b", name, b"")
    blobs = client.list_blobs("b", start_offset="b", end_offset="e", page_size=2)
    assert [[blob.name for blob in page] for page in blobs.pages] == [["b", "c"], ["d"]]


def test_pages_are_a_thousand_at_most(gcs: GcsServer, files: Any) -> None:
    gcs.fill("b", "images/{:05d}.jpg", 2500)
    assert len(listing(gcs)["items"]) == 1000
    assert len(listing(gcs, maxResults=5000)["items"]) == 1000
    gcs.reset_counts()
    assert len(files.find("b")) == 2500
    assert gcs.counts.requests["list"] == 3


def all_names(names: list[str], query: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What a listing holds, by looking at every name."""
    items: list[str] = []
    prefixes: list[str] = []
    prefix, delimiter, end = query["prefix"], query["delimiter"], query["endOffset"]
    for name in names:
        if not name.startswith(prefix) or name < query["startOffset"] or (end and name >= end):
            continue
        folder, found, _ = name[len(prefix) :].partition(delimiter or "\0")
        if not found:
            items.append(name)
        elif prefix + folder + delimiter not in prefixes:
            prefixes.append(prefix + folder + delimiter)
    return items, prefixes


def test_pages_join_to_the_whole(gcs: GcsServer) -> None:
    chance = random.Random(1)
    words = ["a", "b", "a/", "b/", "ab", "/", "\U0010ffff", "é"]
    for name in {"".join(chance.choices(words, k=chance.randint(1, 5))) for _ in range(150)}:
        gcs.put("b", name, b"")
    names = gcs.objects("b")
    session = requests.Session()
    for prefix, delimiter, limit in itertools.product(("", "a", "a/", "\U0010ffff"), ("", "/", "b"), (1, 7)):
        query = {"prefix": prefix, "delimiter": delimiter, "maxResults": limit}
        query["startOffset"], query["endOffset"] = chance.choices(["", *names], k=2)
        items, prefixes, token = [], [], ""
        while token is not None:
            page = session.get(f"{gcs.url}/storage/v1/b/b/o", params={**query, "pageToken": token}).json()
            assert len(page.get("items", [])) + len(page.get("prefixes", [])) <= limit
            items += [item["name"] for item in page.get("items", [])]
            prefixes += page.get("prefixes", [])
            token = page.get("nextPageToken")
        assert (items, prefixes) == all_names(names, query), query


def test_a_page_may_be_asked_for_when_its_first_object_is_gone(gcs: GcsServer) -> None:
    for name in "abc":
        gcs.put("b", name, b"")
    token = listing(gcs, maxResults=1)["nextPageToken"]
    gcs.delete("b", "b")
    assert [item["name"] for item in listing(gcs, pageToken=token)["items"]] == ["c"]


def test_fields_make_a_page_small(gcs: GcsServer, bucket: storage.Bucket) -> None:
    gcs.put("b", 'a "quoted" name', CONTENT)
    blob = bucket.blob("composed")
    blob.metadata = {"one": "1", "two": "2"}
    blob.compose([bucket.blob('a "quoted" name')])
    page = listing(gcs, fields="items(name,size,md5Hash,metadata/one),nextPageToken", maxResults=1)
    assert sorted(page) == ["items", "nextPageToken"]
    assert page["items"] == [{"name": 'a "quoted" name', "size": "1024", "md5Hash": MD5}]
    page = listing(gcs, fields="items(name,size,md5Hash,metadata/one),nextPageToken", prefix="c")
    assert page == {"items": [{"name": "composed", "size": "1024", "metadata": {"one": "1"}}]}
    assert listing(gcs, fields="items/name,kind", prefix="c") == {
        "kind": "storage#objects",
        "items": [{"name": "composed"}],
    }
    assert listing(gcs, fields="prefixes", delimiter="o") == {"prefixes": ['a "quo', "co"]}
    (blob,) = bucket.list_blobs(prefix="c", fields="items(name,generation)")
    assert (blob.name, blob.size) == ("composed", None)
    full, short = listing(gcs, fields="*"), listing(gcs)
    assert full == short


def test_two_hundred_thousand_objects_are_listed_fast(gcs: GcsServer) -> None:
    started = time.perf_counter()
    gcs.fill("b", "images/{:06d}.jpg", 200_000, [b"one", b"other"])
    filled = time.perf_counter()
    connection = http.client.HTTPConnection(gcs.url.removeprefix("http://"))
    names, token = 0, ""
    while token is not None:
        connection.request(
            "GET", f"/storage/v1/b/b/o?fields=items(name,size),nextPageToken&pageToken={token}"
        )
        page = json.loads(connection.getresponse().read())
        names += len(page["items"])
        token = page.get("nextPageToken")
    connection.close()
    assert names == 200_000
    assert page["items"][-1] == {"name": "images/199999.jpg", "size": "5"}
    assert gcs.get("b", "images/000002.jpg") == b"one"
    print(f"filled in {filled - started:.1f} s, listed in {time.perf_counter() - filled:.1f} s")
    assert filled - started < 10


def test_downloads_whole_and_in_part(gcs: GcsServer, bucket: storage.Bucket, files: Any) -> None:
    gcs.put("b", "a/b.jpg", CONTENT)
    blob = bucket.blob("a/b.jpg")
    assert blob.download_as_bytes() == CONTENT
    assert blob.download_as_bytes(start=10, end=19) == CONTENT[10:20]
    assert blob.download_as_bytes(start=1000) == CONTENT[1000:]
    assert bucket.get_blob("a/b.jpg").download_as_bytes(raw_download=True) == CONTENT  # by its mediaLink
    assert files.cat_file("b/a/b.jpg") == CONTENT
    assert files.cat_file("b/a/b.jpg", start=10, end=20) == CONTENT[10:20]
    assert files.cat_file("b/a/b.jpg", start=-10) == CONTENT[-10:]
    with files.open("b/a/b.jpg", block_size=100, cache_type="readahead") as file:
        file.seek(500)
        assert file.read(300) == CONTENT[500:800]
    assert requests.get(f"{gcs.url}/storage/v1/b/b/o/a%2Fb.jpg?alt=media", timeout=10).content == CONTENT


@pytest.mark.parametrize(
    ("wanted", "status", "first", "end"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=5-", 206, 5, 1024),
        ("bytes=-24", 206, 1000, 1024),
        ("bytes=-2000", 206, 0, 1024),
        ("bytes=1000-5000", 206, 1000, 1024),
        ("bytes=9-8", 200, 0, 1024),
        ("lines=1-2", 200, 0, 1024),
    ],
)
def test_ranges(gcs: GcsServer, wanted: str, status: int, first: int, end: int) -> None:
    gcs.put("b", "a", CONTENT)
    answer = media(gcs, "a", {"Range": wanted})
    assert (answer.status_code, answer.content) == (status, CONTENT[first:end])
    assert answer.headers.get("Content-Range") == (f"bytes {first}-{end - 1}/1024" if status == 206 else None)


def test_a_range_behind_the_end_cannot_be_satisfied(
    gcs: GcsServer, bucket: storage.Bucket, files: Any
) -> None:
    gcs.put("b", "a", CONTENT)
    gcs.put("b", "empty", b"")
    assert media(gcs, "a", {"Range": "bytes=1024-"}).status_code == 416
    assert media(gcs, "a", {"Range": "bytes=-0"}).status_code == 416
    with pytest.raises(exceptions.RequestRangeNotSatisfiable):
        bucket.blob("a").download_as_bytes(start=5000)
    assert bucket.blob("empty").download_as_bytes() == b""
    assert files.cat_file("b/empty") == b""
    with bucket.blob("empty").open("rb") as file:
        assert file.read() == b""


def test_a_download_says_what_it_is(gcs: GcsServer) -> None:
    generation = str(gcs.put("b", "a.jpg", CONTENT))
    answer = media(gcs, "a.jpg", {"Range": "bytes=0-9"})
    assert answer.headers["X-Goog-Hash"] == f"crc32c={CRC32C},md5={MD5}"
    assert answer.headers["X-Goog-Stored-Content-Length"] == "1024"
    assert answer.headers["X-Goog-Generation"] == generation
    assert answer.headers["Content-Length"] == "10"
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["ETag"]
    assert media(gcs, "a.jpg", generation=generation).status_code == 200
    assert media(gcs, "a.jpg", generation="1").status_code == 404
    assert media(gcs, "none").status_code == 404


def test_reads_and_deletes_on_condition(bucket: storage.Bucket, gcs: GcsServer) -> None:
    generation = gcs.put("b", "a", CONTENT)
    blob = bucket.blob("a")
    assert blob.download_as_bytes(if_generation_match=generation) == CONTENT
    with pytest.raises(exceptions.PreconditionFailed):
        blob.download_as_bytes(if_generation_match=generation + 1)
    assert media(gcs, "a", ifGenerationNotMatch=generation).status_code == 304
    assert media(gcs, "a", ifMetagenerationNotMatch=2).status_code == 200
    with pytest.raises(exceptions.PreconditionFailed):
        blob.delete(if_generation_match=generation + 1)
    with pytest.raises(NotFound):
        bucket.blob("a", generation=1).delete()
    blob.delete(if_generation_match=generation)
    with pytest.raises(NotFound):
        blob.delete(if_generation_match=generation)


def test_the_first_writer_wins(bucket: storage.Bucket, gcs: GcsServer, files: Any) -> None:
    bucket.blob("a").upload_from_string(b"first", if_generation_match=0)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("a").upload_from_string(b"second", if_generation_match=0)
    with pytest.raises(FileExistsError):
        files.pipe_file("b/a", b"second", mode="create")
    with pytest.raises(FileExistsError), files.open("b/a", "xb") as file:
        file.write(b"second")
    assert upload(gcs, "a", ifGenerationMatch=0).status_code == 412
    assert gcs.get("b", "a") == b"first"
    generation = bucket.get_blob("a").generation
    assert upload(gcs, "a", b"third", ifGenerationMatch=generation).status_code == 200
    assert upload(gcs, "a", b"fourth", ifGenerationNotMatch=0).status_code == 200
    assert upload(gcs, "none", b"", ifGenerationNotMatch=0).status_code == 412
    assert gcs.get("b", "a") == b"fourth"
    assert gcs.objects("b") == ["a"]


def test_a_resumable_upload_checks_conditions_at_its_end(bucket: storage.Bucket, gcs: GcsServer) -> None:
    content = os.urandom(3 * CHUNK)
    writer = bucket.blob("a").open("wb", chunk_size=CHUNK, if_generation_match=0)
    writer.write(content)
    assert gcs.objects("b") == []
    gcs.put("b", "a", b"first")
    with pytest.raises(InvalidResponse, match="412"):
        writer.close()
    assert gcs.get("b", "a") == b"first"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\r\n", b"\n--==0==\n\n", b"\r", b"a\n\nb\r\n\r\n", CONTENT]
)
def test_uploads_in_one_piece(gcs: GcsServer, bucket: storage.Bucket, files: Any, content: bytes) -> None:
    bucket.blob("google").upload_from_string(content, "image/jpeg")
    quoted = 'image/png; of="a cat"'
    files.pipe_file("b/gcsfs", content, content_type=quoted, metadata={"key": "value"}, consistency="md5")
    assert upload(gcs, "media", content).json()["size"] == str(len(content))
    assert [gcs.get("b", name) for name in ("google", "gcsfs", "media")] == [content] * 3
    assert bucket.get_blob("google").content_type == "image/jpeg"
    found = bucket.get_blob("gcsfs")
    assert (found.content_type, found.metadata) == (quoted, {"key": "value"})


@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * CHUNK, 2 * CHUNK + 1])
def test_uploads_in_chunks(gcs: GcsServer, bucket: storage.Bucket, files: Any, size: int) -> None:
    content = os.urandom(size)
    with bucket.blob("google").open("wb", chunk_size=CHUNK, content_type="image/jpeg") as file:
        file.write(content)
    with files.open("b/gcsfs", "wb", block_size=CHUNK, content_type="image/png", consistency="md5") as file:
        file.write(content)
    files.pipe_file("b/piped", content, chunksize=CHUNK, consistency="md5")
    assert [gcs.get("b", name) for name in ("google", "gcsfs", "piped")] == [content] * 3
    assert bucket.get_blob("google").content_type == "image/jpeg"
    assert bucket.get_blob("gcsfs").content_type == "image/png"


def test_a_chunk_may_be_lost_repeated_or_odd(gcs: GcsServer) -> None:
    content = os.urandom(2 * CHUNK + 100)
    started = requests.post(f"{gcs.url}/upload/storage/v1/b/b/o?uploadType=resumable&name=a", timeout=10)
    location = started.headers["Location"]

    def send(wanted: str, part: bytes = b"") -> tuple[int, str | None]:
        answer = requests.put(location, part, headers={"Content-Range": f"bytes {wanted}"}, timeout=10)
        return answer.status_code, answer.headers.get("Range")

    size = len(content)
    assert send(f"*/{size}") == (308, None)
    assert send(f"0-{CHUNK + 9}/{size}", content[: CHUNK + 10]) == (308, f"bytes=0-{CHUNK - 1}")
    assert send("*/*") == (308, f"bytes=0-{CHUNK - 1}")
    assert send(f"{CHUNK + 1}-{CHUNK + 2}/{size}", b"ab") == (400, None)
    assert send(f"0-9/{size}", b"ab") == (400, None)
    assert send("nonsense") == (400, None)
    assert send(f"0-{2 * CHUNK - 1}/*", content[: 2 * CHUNK]) == (308, f"bytes=0-{2 * CHUNK - 1}")
    assert gcs.objects("b") == []
    assert send(f"{2 * CHUNK}-{size - 1}/{size}", content[2 * CHUNK :]) == (200, None)
    assert send(f"*/{size}") == (200, None)
    assert gcs.get("b", "a") == content
    assert requests.put(f"{location}0", timeout=10).status_code == 404


def test_an_upload_that_breaks_off_leaves_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    head = b"POST /upload/storage/v1/b/b/o?uploadType=media&name=a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    with gcs_server.serve() as gcs:
        gcs.create_bucket("b")
        host, port = gcs.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + b"eight of")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + b"all nine!")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert gcs.get("b", "a") == b"all nine!"
        assert gcs.counts.requests == {"upload": 1}
    assert capfd.readouterr().err == ""


def test_an_upload_can_be_cancelled(gcs: GcsServer, files: Any) -> None:
    file = files.open("b/a", "wb", block_size=CHUNK, autocommit=False)
    file.write(os.urandom(3 * CHUNK))
    location = file.location
    file.discard()
    assert requests.put(location, timeout=10).status_code == 404
    started = requests.post(f"{gcs.url}/upload/storage/v1/b/b/o?uploadType=resumable&name=a", timeout=10)
    assert requests.delete(started.headers["Location"], timeout=10).status_code == 499
    assert gcs.objects("b") == []


def test_a_content_that_was_damaged_on_its_way_is_refused(gcs: GcsServer, bucket: storage.Bucket) -> None:
    blob = bucket.blob("a")
    blob.crc32c = "AAAAAA=="
    with pytest.raises(exceptions.BadRequest, match="doesn't match"):
        blob.upload_from_string(CONTENT, checksum=None)
    started = requests.post(f"{gcs.url}/upload/storage/v1/b/b/o?uploadType=resumable&name=a", timeout=10)
    sent = requests.put(started.headers["Location"], CONTENT, headers={"X-Goog-Hash": "md5=AAAA"}, timeout=10)
    assert sent.status_code == 400
    assert gcs.objects("b") == []
    assert requests.post(f"{gcs.url}/upload/storage/v1/b/b/o?uploadType=media", timeout=10).status_code == 400


def test_copies_and_moves(gcs: GcsServer, bucket: storage.Bucket, client: storage.Client, files: Any) -> None:
    gcs.create_bucket("other")
    first = bucket.blob("a/1.jpg")
    first.upload_from_string(CONTENT, "image/jpeg")
    bucket.copy_blob(first, client.bucket("other"), "a")
    assert client.bucket("other").get_blob("a").content_type == "image/jpeg"
    files.cp_file("b/a/1.jpg", "b/a/2.jpg")
    assert bucket.get_blob("a/2.jpg").md5_hash == first.md5_hash
    files.mv("b/a/2.jpg", "b/c.jpg")
    assert gcs.counts.requests["move"] == 1
    assert gcs.objects("b") == ["a/1.jpg", "c.jpg"]
    bucket.move_blob(bucket.blob("c.jpg"), "d.jpg")
    assert gcs.objects("b") == ["a/1.jpg", "d.jpg"]
    assert gcs.get("b", "d.jpg") == CONTENT
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.copy_blob(first, bucket, "d.jpg", if_generation_match=0)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.copy_blob(first, bucket, "e.jpg", if_source_generation_match=1)
    with pytest.raises(FileNotFoundError):
        files.cp_file("b/none", "b/e.jpg")
    assert gcs.objects("other") == ["a"]


def test_a_large_object_is_rewritten_in_steps(gcs: GcsServer, bucket: storage.Bucket, files: Any) -> None:
    gcs.put("b", "a", CONTENT)
    gcs.set(rewrite_bytes=500)
    token, steps = None, []
    while token is not None or not steps:
        token, done, size = bucket.blob("to").rewrite(bucket.blob("a"), token=token)
        steps.append((done, size, gcs.objects("b")))
    assert steps == [(500, 1024, ["a"]), (1000, 1024, ["a"]), (1024, 1024, ["a", "to"])]
    files.cp_file("b/a", "b/copy")
    assert gcs.get("b", "copy") == CONTENT
    path = f"{gcs.url}/storage/v1/b/b/o/a/rewriteTo/b/b/o/to?rewriteToken=1.500"
    assert requests.post(path, timeout=10).status_code == 400


def test_composes(gcs: GcsServer, bucket: storage.Bucket, files: Any) -> None:
    for name in "abc":
        gcs.put("b", name, name.encode())
    composed = bucket.blob("composed")
    composed.content_type = "image/jpeg"
    composed.compose([bucket.blob(name) for name in "cab"], if_generation_match=0)
    found = bucket.get_blob("composed")
    assert (found.download_as_bytes(), found.content_type, found.md5_hash) == (b"cab", "image/jpeg", None)
    files.merge("b/merged", ["b/a", "b/b"])
    assert files.cat_file("b/merged") == b"ab"
    with pytest.raises(exceptions.PreconditionFailed):
        composed.compose([bucket.blob("a")], if_generation_match=0)
    with pytest.raises(exceptions.PreconditionFailed):
        composed.compose([bucket.blob("a")], if_source_generation_match=[1])
    with pytest.raises(exceptions.BadRequest, match="at most 32"):
        composed.compose([bucket.blob("a")] * 33)
    with pytest.raises(NotFound):
        composed.compose([bucket.blob("none")])


def test_deletes(gcs: GcsServer, bucket: storage.Bucket, files: Any) -> None:
    gcs.fill("b", "a/{}", 10)
    bucket.blob("a/0").delete()
    with pytest.raises(NotFound):
        bucket.blob("a/0").delete()
    files.rm_file("b/a/1")
    with pytest.raises(FileNotFoundError):
        files.rm_file("b/a/1")
    assert gcs.objects("b") == [f"a/{n}" for n in range(2, 10)]
    files.rm("b/a", recursive=True)
    assert gcs.objects("b") == []


def test_batches(gcs: GcsServer, bucket: storage.Bucket, client: storage.Client, files: Any) -> None:
    from fsspec.asyn import sync

    gcs.fill("b", "a b/é {}", 12)
    with client.batch():
        bucket.copy_blob(bucket.blob("a b/é 0"), bucket, "copy")
        for n in range(4):
            bucket.delete_blob(f"a b/é {n}")
    assert (gcs.counts.requests["copy"], gcs.counts.requests["delete"]) == (1, 4)
    with client.batch(raise_exception=False) as batch:
        bucket.delete_blob("none")
        bucket.delete_blob("copy")
        bucket.delete_blob("a b/é 4", if_generation_match=1)
    assert [answer.status_code for answer in batch._responses] == [404, 204, 412]
    removed = sync(files.loop, files._rm_files, [f"b/a b/é {n}" for n in (5, 6, 3)])
    assert removed[:2] == ["b/a b/é 5", "b/a b/é 6"]
    assert "No such object" in str(removed[2])
    assert gcs.objects("b") == sorted(f"a b/é {n}" for n in (4, 7, 8, 9, 10, 11))


def test_beam_reads_and_writes(gcs: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apache_beam.internal.gcp import auth
    from apache_beam.io.filesystems import FileSystems

    for name, value in gcs.environment.items():
        monkeypatch.setenv(name, value)
    credentials = gcs.write_credentials(tmp_path / "account.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(credentials))
    monkeypatch.setattr(auth._Credentials, "_credentials_init", False)
    monkeypatch.setattr(auth._Credentials, "_credentials", None)
    names = [f"gs://b/folder/{n}.jpg" for n in range(3)]
    for name in names:
        with FileSystems.create(name) as file:
            file.write(CONTENT)
    (match,) = FileSystems.match(["gs://b/folder/*.jpg"])
    assert [(found.path, found.size_in_bytes) for found in match.metadata_list] == [
        (name, 1024) for name in names
    ]
    with FileSystems.open(names[0]) as file:
        assert file.read() == CONTENT
    assert FileSystems.exists(names[0])
    FileSystems.copy(names[:1], ["gs://b/copy.jpg"])
    FileSystems.rename(names[1:], ["gs://b/second.jpg", "gs://b/third.jpg"])
    assert gcs.objects("b") == ["copy.jpg", "folder/0.jpg", "second.jpg", "third.jpg"]
    FileSystems.delete(["gs://b/folder/", "gs://b/copy.jpg"])
    assert gcs.objects("b") == ["second.jpg", "third.jpg"]
    assert gcs.counts.requests["token"] >= 1


def outcome(gcs: GcsServer, name: str = "a") -> str:
    """How one download ends for a client that tries once."""
    try:
        answer = media(gcs, name)
    except requests.RequestException as error:
        return type(error).__name__
    expected = answer.headers.get("X-Goog-Hash", "").partition("md5=")[2]
    whole = base64.b64encode(hashlib.md5(answer.content).digest()).decode() == expected
    return f"{answer.status_code} {len(answer.content)} {'right' if whole else 'wrong'}"


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("status_429", {"429"}),
        ("status_503", {"503"}),
        ("status_500", {"500"}),
        ("status_408", {"408"}),
        ("reset", {"ConnectionError"}),
        ("reset_midway", {"ConnectionError", "ChunkedEncodingError"}),
        ("truncated", {"ConnectionError", "ChunkedEncodingError"}),
        ("short", {"200 512 wrong"}),
        ("corrupted", {"200 1024 wrong"}),
        ("lost_answer", {"200 1024 right"}),
    ],
)
def test_a_download_meets_the_fault(gcs: GcsServer, fault: str, seen: set[str]) -> None:
    gcs.put("b", "a", CONTENT)
    gcs.set(faults=Faults(**{fault: 1.0}, max_consecutive=None))
    met = outcome(gcs)
    assert met in seen or met.split()[0] in seen
    assert gcs.counts.faults == ({} if fault == "lost_answer" else {fault: 1})
    gcs.set(faults=Faults())
    assert outcome(gcs) == "200 1024 right"


def test_a_lost_answer_is_of_a_write_that_was_carried_out(gcs: GcsServer, bucket: storage.Bucket) -> None:
    gcs.set(faults=Faults(lost_answer=1.0, max_consecutive=1))
    with pytest.raises(requests.ConnectionError):
        upload(gcs, "a")
    assert gcs.get("b", "a") == CONTENT
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("b").upload_from_string(CONTENT, if_generation_match=0, retry=QUICK)
    assert gcs.get("b", "b") == CONTENT
    with pytest.raises(NotFound):
        bucket.blob("b").delete(retry=QUICK)


def test_a_patient_client_gets_through(gcs: GcsServer, bucket: storage.Bucket, files: Any) -> None:
    rates = dict.fromkeys(("status_429", "status_503", "status_500", "status_408", "reset"), 0.12)
    gcs.set(faults=Faults(seed=3, **rates, reset_midway=0.12, truncated=0.12))
    names = [f"b/{n:02d}" for n in range(30)]
    for name in names:
        files.pipe_file(name, name.encode() + CONTENT)
    assert files.find("b") == names
    assert files.cat(names) == {name: name.encode() + CONTENT for name in names}
    for name in names[:10]:
        assert bucket.blob(name[2:]).download_as_bytes(retry=QUICK) == name.encode() + CONTENT
    with bucket.blob("chunks").open("wb", chunk_size=CHUNK, retry=QUICK) as file:
        file.write(CONTENT * 1024)
    assert gcs.get("b", "chunks") == CONTENT * 1024
    assert set(gcs.counts.faults) == {*rates, "reset_midway", "truncated"}


def test_google_notices_what_is_short_or_corrupted(
    gcs: GcsServer, bucket: storage.Bucket, files: Any
) -> None:
    gcs.put("b", "a", CONTENT)
    gcs.set(faults=Faults(corrupted=1.0))
    with pytest.raises(DataCorruption):
        bucket.blob("a").download_as_bytes()
    gcs.set(faults=Faults(short=1.0, max_consecutive=1))
    assert bucket.blob("a").download_as_bytes(retry=QUICK) == CONTENT
    gcs.set(faults=Faults(short=1.0))
    assert files.cat_file("b/a") == CONTENT[:512]  # gcsfs does not


def test_a_batch_meets_faults_part_by_part(
    gcs: GcsServer, bucket: storage.Bucket, client: storage.Client
) -> None:
    gcs.fill("b", "{}", 20)
    gcs.set(faults=Faults(seed=1, status_503=0.3, lost_answer=0.3))
    with client.batch(raise_exception=False) as batch:
        for n in range(20):
            bucket.delete_blob(str(n))
    statuses = [answer.status_code for answer in batch._responses]
    faults = gcs.counts.faults
    assert set(statuses) == {204, 503}
    assert statuses.count(503) == faults["status_503"] + faults["lost_answer"]
    assert len(gcs.objects("b")) == faults["status_503"]


def test_the_same_seed_fails_the_same_requests_in_any_order(gcs: GcsServer) -> None:
    gcs.fill("b", "{}", 20, [CONTENT])

    def outcomes(seed: int, order: list[int]) -> dict[int, list[str]]:
        gcs.set(faults=Faults(seed=seed, status_503=0.3, reset=0.2, corrupted=0.2))
        return {n: [outcome(gcs, str(n)) for _ in range(3)] for n in order}

    first = outcomes(1, list(range(20)))
    assert outcomes(1, list(range(20))[::-1]) == first
    assert outcomes(2, list(range(20))) != first
    assert len({met for several in first.values() for met in several}) == 4


def test_faults_end_after_so_many_in_a_row() -> None:
    schedule = Schedule(Faults(reset=1.0, max_consecutive=2))
    assert [schedule.next_fault("list", "a") for _ in range(5)] == ["reset", "reset", "", "reset", "reset"]
    assert schedule.next_fault("list", "b") == "reset"


def test_a_retry_may_fare_better() -> None:
    schedule = Schedule(Faults(reset=0.5, max_consecutive=None))
    assert {schedule.next_fault("list", "a") for _ in range(20)} == {"reset", ""}


def test_rates_are_kept() -> None:
    schedule = Schedule(Faults(status_429=0.1, short=0.2, max_consecutive=None))
    met = [schedule.next_fault("download", str(n)) for n in range(5000)]
    assert 400 < met.count("status_429") < 600
    assert 850 < met.count("short") < 1150
    assert {schedule.next_fault("list", str(n)) for n in range(500)} == {"", "status_429"}


def test_faults_may_be_of_some_kinds_only(gcs: GcsServer) -> None:
    gcs.put("b", "a", CONTENT)
    gcs.set(faults=Faults(status_503=1.0, kinds=("list",)))
    assert outcome(gcs) == "200 1024 right"
    assert listing(gcs)["error"]["code"] == 503


def test_rates_over_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 1 together"):
        Faults(reset=0.6, corrupted=0.6)
    with pytest.raises(ValueError, match="at least 0"):
        Faults(reset=-0.1)


def test_reads_may_be_denied(gcs: GcsServer, bucket: storage.Bucket, files: Any) -> None:
    gcs.put("b", "a", CONTENT)
    gcs.set(deny=gcs_server.OBJECT_READS)
    with pytest.raises(exceptions.Forbidden):
        bucket.blob("a").download_as_bytes()
    with pytest.raises(OSError, match="Forbidden"):
        files.cat_file("b/a")
    assert [blob.name for blob in bucket.list_blobs()] == ["a"]
    gcs.set(deny=("all",))
    with pytest.raises(exceptions.Forbidden):
        list(bucket.list_blobs())
    gcs.set(deny=())
    assert files.cat_file("b/a") == CONTENT


def test_an_outage_ends(gcs: GcsServer, bucket: storage.Bucket) -> None:
    gcs.put("b", "a", CONTENT)
    gcs.set(outage=True)
    assert requests.post(f"{gcs.url}/token", timeout=10).json()["token_type"] == "Bearer"
    for _ in range(5):
        with pytest.raises(exceptions.ServiceUnavailable):
            bucket.get_blob("a", retry=None)
    gcs.set(outage=False)
    assert bucket.get_blob("a", retry=None).size == 1024


def test_answers_take_their_time(gcs: GcsServer) -> None:
    gcs.put("b", "a", CONTENT)

    def seconds(ask: Any) -> float:
        started = time.perf_counter()
        ask()
        return time.perf_counter() - started

    gcs.set(latency_seconds=0.1, list_latency_seconds=0.2)
    assert seconds(lambda: outcome(gcs)) >= 0.1
    assert seconds(lambda: listing(gcs)) >= 0.3
    gcs.set(latency_seconds=0.0)
    assert seconds(lambda: listing(gcs)) >= 0.2


def test_counts(gcs: GcsServer, bucket: storage.Bucket, files: Any) -> None:
    gcs.fill("b", "images/{:02d}", 40, [CONTENT])
    gcs.set(latency_seconds=0.2)
    files.cat([f"b/images/{n:02d}" for n in range(40)])
    files.cat_file("b/images/07")
    gcs.set(latency_seconds=0.0)
    list(bucket.list_blobs())
    bucket.get_blob("images/00")
    bucket.get_blob("none")
    bucket.blob("new").upload_from_string(b"")
    bucket.blob("chunks").upload_from_file(open(os.devnull, "rb"))  # noqa: SIM115
    bucket.blob("new").delete()
    counts = gcs.counts
    assert counts.requests["download"] == 41
    assert (counts.requests["list"], counts.requests["metadata"], counts.requests["delete"]) == (1, 2, 1)
    assert counts.downloads == {f"b/images/{n:02d}": 2 if n == 7 else 1 for n in range(40)}
    assert 20 <= counts.peak_in_flight < 50
    gcs.reset_counts()
    assert gcs.counts.requests == gcs.counts.downloads == {}
    assert gcs.counts.peak_in_flight == 0


def test_a_directory_is_stored(gcs: GcsServer, files: Any, photographs: Path) -> None:
    names = sorted(path.name for path in photographs.iterdir())
    assert gcs.put_directory(photographs, "photos", "some/") == len(names)
    assert gcs.objects("photos", "some/") == [f"some/{name}" for name in names]
    assert files.cat_file(f"photos/some/{names[0]}") == (photographs / names[0]).read_bytes()
    assert files.info(f"photos/some/{names[0]}")["contentType"] == "image/jpeg"


def test_a_reset_forgets_all(gcs: GcsServer) -> None:
    gcs.put("b", "a", CONTENT)
    gcs.set(outage=True, faults=Faults(reset=1.0))
    listing(gcs)
    gcs.reset()
    assert gcs.counts.requests == {}
    assert listing(gcs)["error"]["code"] == 404
    with pytest.raises(TypeError):
        gcs.set(outages=True)
    assert Settings() == Settings(deny=())


def test_a_mistake_in_a_control_is_told(gcs: GcsServer) -> None:
    with pytest.raises(RuntimeError, match="get failed"):
        gcs.get("b", "none")


def test_starts_within_a_second_and_ends_with_its_parent() -> None:
    started = time.perf_counter()
    with gcs_server.serve() as another:
        print(f"started in {time.perf_counter() - started:.2f} s")
        assert another.counts.requests == {}
    script = """
import os
from tests.gcs_server import serve
with serve() as gcs:
    print(gcs.url, flush=True)
    os._exit(1)
"""
    root = Path(__file__).parents[1]
    parent = subprocess.run(
        [sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, text=True, check=False
    )
    for _ in range(100):
        try:
            GcsServer(parent.stdout.strip()).reset()
        except ConnectionError:
            return
        time.sleep(0.05)
    pytest.fail("the server outlived its parent")

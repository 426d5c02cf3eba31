"""Buckets, objects, listings and downloads."""

from __future__ import annotations

import base64
import hashlib
import http.client
import itertools
import json
import random
import time
from typing import Any

import google_crc32c
import pytest
import requests
from google.api_core import exceptions
from google.cloud import storage
from google.cloud.exceptions import NotFound

from tests.gcs_protocol.asking import CONTENT, listing, media
from tests.gcs_server import GcsServer

MD5 = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
CRC32C = base64.b64encode(google_crc32c.Checksum(CONTENT).digest()).decode()


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

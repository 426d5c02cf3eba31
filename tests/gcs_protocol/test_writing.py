"""Uploads, copies, deletions and batches, and what Beam does of both."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import requests
from google.api_core import exceptions
from google.cloud import storage
from google.cloud.exceptions import NotFound
from google.cloud.storage.exceptions import InvalidResponse

from tests import gcs_server
from tests.gcs_protocol.asking import CHUNK, CONTENT, upload
from tests.gcs_server import GcsServer


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

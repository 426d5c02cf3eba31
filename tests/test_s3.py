"""What S3 alone does, and a whole run there: a real client against moto's server."""

from __future__ import annotations

import asyncio
import gzip
import os
import sys
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from tests import dataset
from tests.s3_server import Fault, S3Server
from transforms import fetching, remote, storage, stores
from transforms.errors import RunError, UsageError
from transforms.listing import Found, list_images
from transforms.records import ImageRef
from transforms.s3 import _just_before

MAX_BYTES = 1_000_000
KMS = {"encryption": "aws:kms"}
LAST = "\U0010ffff"


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
    fetched = fetching.fetch(ImageRef("s3://photos/a.jpg", None, None), MAX_BYTES)
    assert fetched.content.error == "permission_denied"


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
    s3.reset_counts()
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
    s3.requests.clear()
    assert page("a1", "a2", None) == (["a1"], False)
    # The page that goes beyond the end is the last that is asked for.
    assert len(s3.requests) == 3
    assert page("a4", None, None) == (["a4"], False)


def test_where_there_is_no_md5_a_commit_is_known_by_its_size(
    s3: S3Server, local: Callable[[bytes], str]
) -> None:
    s3.put("results", "part.parquet", b"first", **KMS)
    assert storage.commit(local(b"other"), "s3://results/part.parquet")
    assert not storage.commit(local(b"longer"), "s3://results/part.parquet")


@pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (400, "NotImplemented"), (501, "Whatever")]
)
def test_a_store_without_conditions_is_written_without(
    s3: S3Server, local: Callable[[bytes], str], status: int, code: str
) -> None:
    s3.faults = [
        Fault(times=9, header=header, status=status, code=code) for header in ("If-Match", "If-None-Match")
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


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (409, "ConditionalRequestConflict"),
        (409, "OperationAborted"),
        (400, "BadDigest"),
        (400, "IncompleteBody"),
        (400, "XAmzContentSHA256Mismatch"),
    ],
)
def test_writers_in_conflict_or_with_a_bad_connection_ask_again(
    s3: S3Server, local: Callable[[bytes], str], status: int, code: str
) -> None:
    s3.faults = [Fault("PUT", times=2, status=status, code=code)]
    assert storage.commit(local(b"content"), "s3://results/part.parquet")
    assert s3.get("results", "part.parquet") == b"content"


def test_a_name_that_the_store_gives_no_bucket_is_one_line(s3: S3Server) -> None:
    s3.faults = [Fault("GET", path="/Photos", status=400, code="InvalidBucketName")]
    with pytest.raises(UsageError, match=r"^there is no s3://Photos/in/; check --input$"):
        list(storage.list_tree("s3://Photos/in/"))


def test_a_swap_whose_answer_was_lost_is_found_without_an_md5(s3: S3Server) -> None:
    s3.put("results", "CURRENT", b"1", **KMS)
    token = storage.read_versioned("s3://results/CURRENT")[1]
    s3.faults = [Fault("PUT", status=500, code="InternalError", carried_out=True)]
    assert storage.swap("s3://results/CURRENT", b"2", token)
    assert not storage.swap("s3://results/CURRENT", b"3", token)


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

    for name in s3.objects("results"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(s3.get("results", name))
    dataset.assert_conserved(tmp_path / "out")
    (failure,) = dataset.failures(dataset.variants(tmp_path / "out")[0])
    assert (failure["uri"], failure["error"]) == ("s3://photos/in/text.jpg", "not_an_image")

    s3.reset_counts()
    assert pixelbeam("run", "--input", "s3://photos/in", "--output", "s3://results/out", *arguments)[0] == 0
    assert not [request for request in s3.requests if request.startswith("GET /photos/in/")]

"""What the server does when told: faults, refusals and waits; and what it counts."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from google.api_core import exceptions
from google.api_core.retry import Retry
from google.cloud import storage
from google.cloud.exceptions import NotFound
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY

from tests import gcs_server
from tests.gcs_faults import Faults, Schedule
from tests.gcs_protocol.asking import CHUNK, CONTENT, listing, media, upload
from tests.gcs_server import GcsServer, Settings

QUICK: Retry = DEFAULT_RETRY.with_delay(initial=0.001, maximum=0.01, multiplier=1.5).with_timeout(10)


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
    # Deletions only: the client asks about the bucket in the background, whenever that comes.
    gcs.set(faults=Faults(seed=1, status_503=0.3, lost_answer=0.3, kinds=("delete",)))
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
    root = Path(__file__).parents[2]
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

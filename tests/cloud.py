"""Whole runs in the test server's buckets: the dataset brought home for `tests.dataset`, and what happens meanwhile."""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pyarrow as pa
import pytest

from tests import bad, dataset
from tests.gcs_faults import Faults
from tests.gcs_server import GcsServer
from transforms import index, stores

IN = "gs://in/photos"
OUT = "gs://out/data"
UNIT = 20
OPTIONS = ("--images-per-unit", UNIT, "--batch-size", 8)
BAD = {name: content for name, (content, _) in bad.CONTENTS.items()}
READING_AN_OBJECT = ("download", "metadata")
DEADLINE_SECONDS = 120
SEEN_EVERY_SECONDS = 0.002


def every_fault(seed: int, share: float = 0.1) -> Faults:
    """So many of the requests fail, of downloads in nine ways, of writes in six."""
    of_all = dict.fromkeys(("status_429", "status_503", "status_500", "status_408", "reset"), 0.12 * share)
    of_reads = dict.fromkeys(("reset_midway", "truncated", "short", "corrupted"), 0.1 * share)
    return Faults(seed=seed, **of_all, **of_reads, lost_answer=0.4 * share)


def calm(gcs: GcsServer) -> None:
    """Nothing fails, is denied or waits any more."""
    gcs.set(faults=Faults(), deny=(), outage=False, latency_seconds=0.0, list_latency_seconds=0.0)


def few_requests_at_once(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images come a few at a time, so that something can happen between them."""
    monkeypatch.setattr("transforms.patience.REQUESTS_AT_ONCE", 4)
    gcs.set(latency_seconds=0.01)
    stores._stores.clear()


def go_on(gcs: GcsServer) -> None:
    """All is well again, and the next run is in a process that knows nothing of it."""
    calm(gcs)
    stores._stores.clear()


@dataclass(frozen=True)
class Object:
    """What tells that an object is still the one that was written."""

    size: int
    generation: str
    updated: str


def objects(gcs: GcsServer, bucket: str, prefix: str) -> dict[str, Object]:
    """The objects of a calm server by name."""
    found: dict[str, Object] = {}
    token = ""
    while token is not None:
        query = urlencode({"prefix": prefix, "pageToken": token})
        connection = http.client.HTTPConnection(gcs.url.removeprefix("http://"), timeout=60)
        connection.request("GET", f"/storage/v1/b/{bucket}/o?{query}")
        page = json.loads(connection.getresponse().read())
        connection.close()
        for item in page.get("items", ()):
            found[item["name"]] = Object(int(item["size"]), item["generation"], item["updated"])
        token = page.get("nextPageToken")
    return found


def names(gcs: GcsServer, prefix: str = "data/") -> list[str]:
    """Names of the objects of gs://out."""
    return gcs.objects("out", prefix)


def rows_files(gcs: GcsServer, output: str = OUT) -> list[str]:
    """Names of the rows files of all variants."""
    bucket, _, prefix = output.removeprefix("gs://").partition("/")
    return gcs.objects(bucket, f"{prefix}/variant=")


def bring_home(gcs: GcsServer, folder: Path, output: str = OUT) -> Path:
    """The objects below a URL as files in a local folder, by the same names."""
    bucket, _, prefix = output.removeprefix("gs://").partition("/")
    prefix = prefix and f"{prefix}/"
    for name in gcs.objects(bucket, prefix):
        if name.endswith("/"):
            continue
        path = folder / name.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gcs.get(bucket, name))
    return folder


def only_variant(home: Path) -> Path:
    """The directory of the one variant."""
    (directory,) = dataset.variants(home)
    return directory


def rows(home: Path) -> pa.Table:
    """The one variant's rows, by uri."""
    return dataset.rows(only_variant(home))


def reasons(directory: Path) -> dict[str, tuple[str, str]]:
    """A variant's failures: step and error by the image's name."""
    failed = dataset.failures(directory)
    return {row["uri"].rpartition("/")[2]: (row["step"], row["error"]) for row in failed}


def assert_nothing_astray(home: Path, abandoned: int = 0) -> None:
    """Every file belongs: one rows file a unit, the failures that it names, one index with its ancestors.

    Snapshots that an interrupted listing left are swept when they are a day old.
    """
    work = index.read(str(home))
    assert work is not None
    for directory in dataset.variants(home):
        footers = dataset.footers(directory)
        assert [footer.unit for footer in footers] == [unit.number for unit in work.units()]
        named = {footer.failures_file for footer in footers} - {None}
        failed = {str(path.relative_to(home)) for path in home.glob(f"_failures/{directory.name}/*")}
        assert failed == named
    snapshots = {path.name for path in (home / "_index").iterdir()} - {"CURRENT.json"}
    assert len(snapshots - {work.snapshot, *work.ancestors}) <= abandoned
    assert {part.path.split("/")[0] for part in work.parts} <= snapshots
    assert {path.name.split("=")[0] for path in home.iterdir()} <= {
        "_index",
        "_jobs",
        "_runs",
        "_failures",
        "variant",
    }


def assert_complete(pixelbeam: Callable[..., tuple[int, str, str]], output: object = OUT) -> None:
    """Both ways to verify a dataset say that it is whole."""
    for deep in ([], ["--deep"]):
        code, said, errors = pixelbeam("verify", output, *deep)
        assert (code, errors) == (0, ""), said
        assert "every image accounted for" in said


def assert_one_line(
    result: tuple[int, str, str], caplog: pytest.LogCaptureFixture, code: int, message: str
) -> None:
    """A run ended with one line on stderr but for that of the listing; nothing was logged that a terminal shows."""
    lines = [
        line
        for line in result[2].splitlines()
        if not re.match(r"\d+ images in \d+ units?(, \d+ new)?$", line)
    ]
    assert (result[0], result[1], len(lines)) == (code, "", 1), result
    assert re.match(f"pixelbeam: {message}", lines[0]), lines[0]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@contextmanager
def when(moment: Callable[[], bool], act: Callable[[], object]) -> Iterator[threading.Event]:
    """Does something once, as soon as something is seen beside the block; the event tells that it was done."""
    done, ended = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.is_set():
            if moment():
                act()
                done.set()
                return
            time.sleep(SEEN_EVERY_SECONDS)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield done
    finally:
        ended.set()
        watching.join()


def downloaded(gcs: GcsServer, prefix: str = "in/") -> int:
    """How many downloads were asked for so far."""
    return sum(count for name, count in gcs.counts.downloads.items() if name.startswith(prefix))


def begin(arguments: list[object], scratch: Path) -> subprocess.Popen[str]:
    """A command in a process group of its own, whose temporary files lie in `scratch`."""
    scratch.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """A command's exit code, stdout and stderr when it has ended."""
    try:
        output, errors = process.communicate(timeout=DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, output, errors


def kill_when(arguments: list[object], scratch: Path, moment: Callable[[], bool]) -> None:
    """SIGKILL a command once something is seen from outside; it must not have ended by then."""
    process = begin(arguments, scratch)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not moment():
        assert process.poll() is None, f"it ended before it could be killed: {end(process)}"
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"what was waited for did not come: {end(process)}")
        time.sleep(SEEN_EVERY_SECONDS)
    os.killpg(process.pid, signal.SIGKILL)
    assert end(process)[0] == -signal.SIGKILL

"""Reading images from a bucket and listing one, beside what one would write by hand: `python -m benchmarks.storage`.

A Google Cloud Storage in memory on this machine, a process of its own, waits 30 ms before it gives an object and 50 ms
before each page of a listing. Each part is measured in a new process, whose CPU seconds (user and system, all threads)
and peak of resident memory are the operating system's; its imports and its client's first request come before the
clock. Ratios are quotients of one round's figures:

    images/s of fetch_many / images/s of one request after another
    seconds of paging in order / seconds of list_tree
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from benchmarks import measure
from benchmarks.child import Child, Figures, Parts

OBJECT_BYTES = 60_000
DISTINCT = 64
LATENCY_SECONDS = 0.03
PAGE_SECONDS = 0.05
KEYS_A_PREFIX = 40
THREADS = 32

IMAGE = "gs://images/{:07d}.jpg"
TREES = {"flat": "gs://flat/images/", "tree": "gs://tree/images/"}


Read = Callable[[], Iterable[int]]
"""Gives the bytes of each object."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--objects", type=int, default=2000, metavar="N", help="to read; default: 2000")
    parser.add_argument("--keys", type=int, default=200_000, metavar="N", help="to list; default: 200000")
    options = parser.parse_args(arguments)
    if options.keys % KEYS_A_PREFIX:
        raise SystemExit(f"--keys must be a multiple of {KEYS_A_PREFIX}, got {options.keys}")
    rounds: dict[str, list[float]] = {}
    with measure.work_directory(options.work) as work, Server() as server:
        server.fill(options.objects, options.keys)
        credentials = str(server.controls.write_credentials(Path(work) / "credentials.json"))
        for _ in range(options.rounds):
            for figure, value in one_round(server, options.objects, options.keys, work, credentials).items():
                rounds.setdefault(figure, []).append(value)
    settings = {
        "objects": options.objects,
        "object_bytes": OBJECT_BYTES,
        "latency_ms": LATENCY_SECONDS * 1000,
        "keys": options.keys,
        "prefixes": options.keys // KEYS_A_PREFIX,
        "page_ms": PAGE_SECONDS * 1000,
        "rounds": options.rounds,
    }
    title = f"{options.objects:,} objects of {OBJECT_BYTES // 1000} KB, {options.keys:,} keys"
    measure.show(measure.report("storage", settings, rounds), title=title, unit="value", as_json=options.json)


class Server:
    """The store, to which the processes are led that are started while it is entered."""

    def __enter__(self) -> Server:
        # The types of tests are not checked, and mypy follows an import statement.
        gcs_server = importlib.import_module("tests.gcs_server")
        before = set(psutil.Process().children())
        with contextlib.ExitStack() as stack:
            self.controls = stack.enter_context(gcs_server.serve())
            (self._process,) = set(psutil.Process().children()) - before
            stack.enter_context(mock.patch.dict(os.environ, self.controls.environment))
            # The user's own are none of this store's.
            os.environ.pop("GOOGLE_APPLICATION_CREDENTIALS", None)
            self._leave = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.close()

    def fill(self, objects: int, keys: int) -> None:
        """Store what is read and listed."""
        contents = [random.Random(number).randbytes(OBJECT_BYTES) for number in range(DISTINCT)]
        self.controls.fill("images", IMAGE.rpartition("/")[2], objects, contents)
        self.controls.fill("flat", "images/{:07d}.jpg", keys)
        # Each fills all prefixes with one file of that name.
        for number in range(KEYS_A_PREFIX):
            self.controls.fill("tree", f"images/{{:05d}}/{number:02d}.jpg", keys // KEYS_A_PREFIX)

    def measure(self, function: str, part: str, **arguments: Any) -> Figures:
        """One part once in a new process, with what it took of the server."""
        with Child(f"benchmarks.storage:{function}", part=part, **arguments) as child:
            self.controls.reset_counts()
            before = self.cpu_seconds()
            figures = child.measure(part)
            figures["server_cpu_seconds"] = self.cpu_seconds() - before
        return {**figures, "list_requests": self.controls.counts.requests.get("list", 0)}

    def cpu_seconds(self) -> float:
        """User and system, since it started."""
        times = self._process.cpu_times()
        return float(times.user + times.system)


def one_round(server: Server, objects: int, keys: int, work: str, credentials: str) -> Figures:
    """All figures once."""
    started, others = time.perf_counter(), _cpu_seconds_of_others(server)
    figures = {
        **reading(server, objects, credentials),
        **listing(server, keys),
        **index(keys, work),
    }
    others = _cpu_seconds_of_others(server) - others
    return {**figures, "other processes: cores": others / (time.perf_counter() - started)}


def _cpu_seconds_of_others(server: Server) -> float:
    """What all processes but ours have taken since the machine started."""
    times = psutil.cpu_times()._asdict()
    # Linux counts a guest's seconds as the user's, too.
    idle = sum(times.get(kind, 0.0) for kind in ("idle", "iowait", "guest", "guest_nice"))
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ours = sum(usage.ru_utime + usage.ru_stime for usage in own) + server.cpu_seconds()
    return float(sum(times.values()) - idle - ours)


def reading(server: Server, objects: int, credentials: str) -> Figures:
    """Every way of reading once."""
    server.controls.set(latency_seconds=LATENCY_SECONDS, list_latency_seconds=0.0)
    figures: Figures = {}
    for way, (_, share) in READERS.items():
        count = max(1, round(share * objects))
        taken = server.measure("reader", way, count=count, credentials=credentials)
        figures[f"{way}: images/s"] = count / taken["seconds"]
        figures[f"{way}: CPU ms an image"] = taken["cpu_seconds"] / count * 1000
        figures[f"{way}: server's CPU ms an image"] = taken["server_cpu_seconds"] / count * 1000
        figures[f"{way}: peak MB"] = taken["peak_mb"]
    ours, *others = READERS
    ratios = {f"{ours} / {way}": figures[f"{ours}: images/s"] / figures[f"{way}: images/s"] for way in others}
    return {**figures, **ratios}


def listing(server: Server, keys: int) -> Figures:
    """Every way of listing once, each bucket."""
    server.controls.set(latency_seconds=0.0, list_latency_seconds=PAGE_SECONDS)
    figures: Figures = {}
    for tree, url in TREES.items():
        seconds: Figures = {}
        for way in LISTERS:
            taken = server.measure("lister", way, url=url, count=keys)
            seconds[way] = taken["seconds"]
            figures[f"{tree}, {way}: s"] = taken["seconds"]
            figures[f"{tree}, {way}: CPU s"] = taken["cpu_seconds"]
            figures[f"{tree}, {way}: server's CPU s"] = taken["server_cpu_seconds"]
            figures[f"{tree}, {way}: requests"] = taken["list_requests"]
            figures[f"{tree}, {way}: peak MB"] = taken["peak_mb"]
        figures[f"{tree}, paging / list_tree"] = seconds["paging"] / seconds["list_tree"]
    return figures


def index(keys: int, work: str) -> Figures:
    """`pixelbeam index` of the flat bucket into a fresh local output, which is dropped."""
    with tempfile.TemporaryDirectory(dir=work) as output:
        usage = measure.run_pixelbeam("index", "--input", TREES["flat"], "--output", output)
        current = json.loads(Path(output, "_index", "CURRENT.json").read_bytes())
    if current["images"] != keys:
        raise SystemExit(f"{current['images']:,} of {keys:,} keys are in the index")
    return {
        "flat, pixelbeam index: s": usage.wall_seconds,
        "flat, pixelbeam index: CPU s": usage.cpu_seconds,
        "flat, pixelbeam index: peak MB": usage.peak_bytes / 1e6,
    }


def reader(part: str, count: int, credentials: str, spawned: float) -> Parts:
    """For `benchmarks.child`: one way of reading, its client's first request behind it."""
    del spawned
    if part.startswith("Beam"):
        # Where there are none it looks for some for 22 s.
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = credentials
    prepare, _ = READERS[part]
    urls = [IMAGE.format(number) for number in range(count)]
    sum(prepare(urls[:1])())
    read = prepare(urls)
    return Parts({part: lambda: measured(lambda: sum(read()), count * OBJECT_BYTES)})


def lister(part: str, url: str, count: int, spawned: float) -> Parts:
    """For `benchmarks.child`: one way of listing, its client's first request behind it."""
    del spawned
    list_all = LISTERS[part]
    list_all(f"{url}nothing/")
    return Parts({part: lambda: measured(lambda: list_all(url), count)})


def measured(work: Callable[[], int], expected: int) -> Figures:
    """What `work` took, and the process's peak so far; SystemExit where it gives not what is expected."""
    started, cpu = time.perf_counter(), time.process_time()
    done = work()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    if done != expected:
        raise SystemExit(f"{done:,} came of {expected:,}")
    # Linux counts in kilobytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_bytes / 1e6}


def _fetch_many(urls: list[str]) -> Read:
    from transforms import fetching
    from transforms.records import ImageRef

    refs = [ImageRef(url, OBJECT_BYTES, None) for url in urls]
    return lambda: (_n_bytes(fetched.content) for fetched in fetching.fetch_many(refs, 2 * OBJECT_BYTES))


def _fetch(urls: list[str]) -> Read:
    from transforms import fetching
    from transforms.records import ImageRef

    refs = [ImageRef(url, OBJECT_BYTES, None) for url in urls]
    return lambda: (_n_bytes(fetching.fetch(ref, 2 * OBJECT_BYTES).content) for ref in refs)


def _n_bytes(content: Any) -> int:
    return len(content) if isinstance(content, bytes) else 0


def _beam(urls: list[str]) -> Read:
    return lambda: map(_read_with_beam, urls)


def _beam_threads(urls: list[str]) -> Read:
    pool = ThreadPoolExecutor(THREADS)
    return lambda: pool.map(_read_with_beam, urls)


def _read_with_beam(url: str) -> int:
    from apache_beam.io.filesystems import FileSystems

    with FileSystems.open(url) as file:
        return len(file.read())


def _gcsfs_cat(urls: list[str]) -> Read:
    import gcsfs

    # An instance is made once for its arguments.
    filesystem = gcsfs.GCSFileSystem(token="anon")
    if len(urls) == 1:
        return lambda: [len(filesystem.cat(urls[0]))]
    return lambda: map(len, filesystem.cat(urls).values())


def _list_tree(url: str) -> int:
    from transforms import storage

    return sum(1 for _ in storage.list_tree(url))


def _paging(url: str) -> int:
    """The store's pages one after another, each made the same records of."""
    import gcsfs
    from fsspec.asyn import sync

    from transforms.records import ImageRef

    filesystem = gcsfs.GCSFileSystem(token="anon")
    bucket, _, prefix = url.removeprefix("gs://").partition("/")
    fields = "items(name,size,generation),nextPageToken"
    count, token = 0, None
    while True:
        parameters = {"prefix": prefix, "fields": fields, "pageToken": token, "json_out": True}
        page = sync(filesystem.loop, filesystem._call, "GET", "b/{}/o", bucket, **parameters)
        refs = [
            ImageRef(f"gs://{bucket}/{item['name']}", int(item["size"]), item["generation"])
            for item in page.get("items", ())
        ]
        count += len(refs)
        token = page.get("nextPageToken")
        if token is None:
            return count


READERS: dict[str, tuple[Callable[[list[str]], Read], float]] = {
    "fetch_many": (_fetch_many, 1.0),
    "one request after another": (_fetch, 0.05),
    "gcsfs.cat": (_gcsfs_cat, 0.25),
    f"Beam, {THREADS} threads": (_beam_threads, 0.25),
    "Beam, one after another": (_beam, 0.025),
}
"""Ways of reading, ours first: given URLs, what reads them; and on which part of the objects it is measured."""

LISTERS = {"list_tree": _list_tree, "paging": _paging}


if __name__ == "__main__":
    main()

"""Whole runs from bucket to bucket, on a server that is right, that fails, that refuses, and with others beside."""

from __future__ import annotations

import gc
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from pipelines import cli, progress
from tests import bad, cloud, dataset, tiny
from tests.cloud import IN, OUT
from tests.gcs_faults import ALWAYS, DOWNLOADING, READING, WRITING, Faults
from tests.gcs_server import GcsServer
from transforms import attempts, snapshots, stores

UNIT = 20
OPTIONS = ("--images-per-unit", UNIT, "--batch-size", 8)
BAD = {name: content for name, (content, _) in bad.CONTENTS.items()}
STRANGE_NAMES = ("a b.jpg", "100%25#1.jpg", "what[1]?.jpg", "naïve/日本.jpg", "x::y.jpg")
# A file's own name is the same in the bucket and in the folder; what depends on where it lies is left out.
OF_THE_PLACE = ["uri", "version", "fingerprint"]
QUIET = "gs://out/quiet"
FAULTS = (*ALWAYS, *READING, *DOWNLOADING, *WRITING)
READING_AN_OBJECT = ("download", "metadata")


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.patience.LONGEST_WAIT_SECONDS", 0.1)


@pytest.fixture
def run(pixelbeam, tiny_toml: str):
    """Runs the tiny variant from bucket to bucket; options may be added."""

    def run(
        *options: object, source: object = IN, output: object = OUT, variants: tuple[str, ...] = (tiny_toml,)
    ) -> tuple[int, str, str]:
        arguments = ["run", "--input", source, "--output", output, "--variant", *variants]
        return pixelbeam(*arguments, *OPTIONS, *options)

    return run


@pytest.fixture
def fill(gcs: GcsServer, photographs: Path):
    """Stores so many photographs in gs://in/photos, and among them other contents by name."""

    def fill(count: int, others: dict[str, bytes] | None = None) -> None:
        good = [path.read_bytes() for path in sorted(photographs.iterdir())]
        gcs.fill("in", "photos/{:04d}.jpg", count, good)
        for number, (name, content) in enumerate((others or {}).items()):
            gcs.put("in", f"photos/{number * count // len(others):04d}-{name}", content)

    return fill


@pytest.fixture
def command(models: str, tiny_toml: str) -> Callable[..., list[object]]:
    """The words of a run for a process of its own."""

    def command(source: object = IN, output: object = OUT) -> list[object]:
        arguments = ["run", "--input", source, "--output", output, "--variant", tiny_toml]
        return [*arguments, "--model-dir", models, *OPTIONS]

    return command


def few_requests_at_once(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images come a few at a time, so that something can happen between them."""
    monkeypatch.setattr("transforms.patience.REQUESTS_AT_ONCE", 4)
    gcs.set(latency_seconds=0.01)
    stores._stores.clear()


def go_on(gcs: GcsServer) -> None:
    """All is well again, and the next run is in a process that knows nothing of it."""
    cloud.calm(gcs)
    stores._stores.clear()


def assert_complete(pixelbeam, output: object = OUT) -> None:
    for deep in ([], ["--deep"]):
        code, said, errors = pixelbeam("verify", output, *deep)
        assert (code, errors) == (0, ""), said
        assert "every image accounted for" in said


class TestOnAServerThatIsRight:
    def test_from_bucket_to_bucket_is_as_from_folder_to_folder(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, tiny_toml: str
    ) -> None:
        fill(60, BAD)
        for number, name in enumerate(STRANGE_NAMES):
            gcs.put("in", f"photos/{name}", gcs.get("in", f"photos/{number:04d}.jpg"))
        (tmp_path / "other").mkdir()
        other = tiny.write_variant(
            str(tmp_path / "other"), seed=1, resize="squash_bilinear", name="acme/other/1"
        )
        options = {"variants": (tiny_toml, other)}
        folder = cloud.bring_home(gcs, tmp_path / "photos", IN)
        assert run("--max-failure-ratio", 0.5, source=folder, output=tmp_path / "local", **options)[0] == 0
        gcs.reset_counts()
        code, _, errors = run("--max-failure-ratio", 0.5, **options)
        assert (code, "74 images in 4 units, 74 new" in errors) == (0, True)
        counts = gcs.counts
        downloads = {name: count for name, count in counts.downloads.items() if name.startswith("in/photos/")}
        assert downloads == dict.fromkeys((f"in/{name}" for name in gcs.objects("in")), 1)
        home = cloud.bring_home(gcs, tmp_path / "home")
        n_rows, n_failures = (len(list(home.glob(glob))) for glob in ("variant=*/*", "_failures/*/*"))
        assert (n_rows, n_failures) == (2 * 4, 2 * 4)
        # Beside these: a marker a unit, the index, what is current of it, the record of the run.
        assert counts.requests["upload"] == n_rows + n_failures + 4 + 3
        assert_complete(pixelbeam)
        cloud.assert_nothing_astray(home)
        dataset.assert_conserved(home)
        for mine, theirs in zip(dataset.variants(home), dataset.variants(tmp_path / "local"), strict=True):
            rows, expected = dataset.rows(mine), dataset.rows(theirs)
            assert rows.drop_columns(OF_THE_PLACE).equals(expected.drop_columns(OF_THE_PLACE))
            assert [uri.removeprefix(IN) for uri in rows.column("uri").to_pylist()] == [
                uri.removeprefix(str(folder)) for uri in expected.column("uri").to_pylist()
            ]
            assert cloud.reasons(mine) == cloud.reasons(theirs)
            assert {name.partition("-")[2]: why for name, why in cloud.reasons(mine).items()} == {
                name: bad.REASONS[name] for name in BAD
            }

    def test_the_summary_and_the_lines_on_the_way_name_urls(
        self, gcs, run, fill, pixelbeam, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.05)
        fill(60, {"text.jpg": BAD["text.jpg"]})
        few_requests_at_once(gcs, monkeypatch)
        code, output, errors = run()
        assert code == 0
        assert [line for line in output.splitlines() if "gs://" in line] == [
            f"{OUT}/variant=acme-tiny-classification-1/*.parquet",
            f"{OUT}/_failures/variant=acme-tiny-classification-1/*.parquet",
        ]
        listing, *lines = errors.splitlines()
        assert listing == "61 images in 4 units, 61 new"
        assert lines
        assert all(" of 61 images, " in line for line in lines)
        code, output, errors = pixelbeam("index", "--input", IN, "--output", OUT)
        assert (code, errors) == (0, "61 images in 4 units\n")
        assert output.startswith(f"{OUT}/_index/")

    @pytest.mark.parametrize("output", ["gs://out", "gs://out/", "gs://out/data/", "gs://out/a b/ü#1"])
    def test_an_output_may_be_any_folder_of_a_bucket(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, output: str
    ) -> None:
        fill(3)
        # Cloud consoles make such an object for a folder.
        gcs.put("out", "data/", b"")
        assert run(output=output)[0] == 0
        assert_complete(pixelbeam, output)
        cloud.assert_nothing_astray(cloud.bring_home(gcs, tmp_path, output.rstrip("/")))

    def test_only_what_was_added_or_changed_is_done(self, gcs, run, fill, pixelbeam, tmp_path: Path) -> None:
        fill(200)
        assert run()[0] == 0
        before = cloud.objects(gcs, "out", "data/variant=")
        assert len(before) == 10
        for number in (3, 4, 50, 100, 199):
            gcs.put("in", f"photos/{number:04d}.jpg", bad.JPEG)
        gcs.fill("in", "photos/new-{:02d}.jpg", 40, [bad.JPEG])
        gcs.reset_counts()
        code, _, errors = run()
        assert (code, "240 images in 12 units, 40 new, 5 changed" in errors) == (0, True)
        after = cloud.objects(gcs, "out", "data/variant=")
        unit_of = {name: int(name.split("part-")[1][:6]) for name in (*before, *after)}
        untouched = {name: each for name, each in before.items() if unit_of[name] not in {0, 2, 5, 9}}
        assert len(untouched) == 6
        assert {name: after[name] for name in untouched} == untouched
        assert sorted(unit_of[name] for name in set(after) - set(before)) == [0, 2, 5, 9, 10, 11]
        assert len(after) == 12
        downloads = {name for name in gcs.counts.downloads if name.startswith("in/")}
        done = {f"{number:04d}" for unit in (0, 2, 5, 9) for number in range(unit * UNIT, (unit + 1) * UNIT)}
        done |= {f"new-{number:02d}" for number in range(40)}
        assert downloads == {f"in/photos/{name}.jpg" for name in done}
        assert_complete(pixelbeam)
        home = cloud.bring_home(gcs, tmp_path)
        cloud.assert_nothing_astray(home)
        sizes = {row["uri"]: row["size"] for row in cloud.rows(home).select(["uri", "size"]).to_pylist()}
        assert sizes[f"{IN}/0050.jpg"] == len(bad.JPEG) != sizes[f"{IN}/0051.jpg"]

    @pytest.mark.parametrize("share", [0.0, 0.1])
    def test_what_happens_to_images_after_the_listing_is_told(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
    ) -> None:
        fill(40)
        update = snapshots.update

        def update_and_strike(*arguments: object) -> object:
            result = update(*arguments)
            gcs.delete("in", "photos/0003.jpg")
            gcs.put("in", "photos/0005.jpg", bad.JPEG)
            # The same bytes again are another generation all the same.
            gcs.put("in", "photos/0007.jpg", gcs.get("in", "photos/0007.jpg"))
            return result

        monkeypatch.setattr(snapshots, "update", update_and_strike)
        gcs.set(faults=cloud.every_fault(1, share))
        assert run()[0] == 0
        assert_complete(pixelbeam)
        home = cloud.bring_home(gcs, tmp_path)
        assert cloud.reasons(cloud.only_variant(home)) == {
            "0003.jpg": ("fetch", "not_found"),
            "0005.jpg": ("fetch", "changed"),
            "0007.jpg": ("fetch", "changed"),
        }

    def test_a_manifest_in_a_bucket_may_hold_blank_lines_duplicates_and_what_is_not_there(
        self, gcs, run, fill, pixelbeam, tmp_path: Path
    ) -> None:
        fill(30)
        names = [f"photos/{number:04d}.jpg" for number in range(10)]
        gcs.put("out", "elsewhere.jpg", bad.JPEG)
        lines = [*names, "", f"gs://in/{names[3]}", "photos/0003.jpg", "gs://out/elsewhere.jpg", "none.jpg"]
        gcs.put("in", "list.txt", "\r\n".join(lines).encode())
        code, _, errors = run(source="gs://in/list.txt")
        assert (code, errors.splitlines()[0]) == (0, "12 images in 1 unit, 12 new, 2 listed twice")
        assert_complete(pixelbeam)
        home = cloud.bring_home(gcs, tmp_path)
        assert cloud.reasons(cloud.only_variant(home)) == {"none.jpg": ("fetch", "not_found")}
        assert cloud.rows(home).num_rows == 11


class TestOnAServerThatFails:
    @pytest.mark.parametrize(
        "faults",
        [
            cloud.every_fault(1),
            pytest.param(cloud.every_fault(2), marks=pytest.mark.full),
            pytest.param(cloud.every_fault(3, share=0.3), marks=pytest.mark.full),
            # Each request once: what is read comes wrong, and what is written comes through unanswered.
            Faults(corrupted=1.0, lost_answer=1.0, max_consecutive=1),
            pytest.param(Faults(short=1.0, max_consecutive=1), marks=pytest.mark.full),
        ],
        ids=["a tenth", "another tenth", "a third", "wrong and lost", "short"],
    )
    def test_requests_fail_and_nothing_is_different(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, faults: Faults
    ) -> None:
        fill(150, BAD)
        assert run(output=QUIET)[0] == 0
        gcs.reset_counts()
        gcs.set(faults=faults)
        assert run()[0] == 0
        assert_complete(pixelbeam)
        assert len(cloud.names(gcs, "data/_runs/")) == 1
        # Which writes lose their answers depends on names that are made up.
        of_writes = {"lost_answer"} if faults.lost_answer < 1.0 else set()
        assert set(gcs.counts.faults) >= {name for name in FAULTS if faults.rate(name)} - of_writes
        cloud.calm(gcs)
        assert_as_quiet(gcs, tmp_path)

    def test_a_large_listing_is_whole(self, gcs, pixelbeam, tmp_path: Path) -> None:
        gcs.fill("in", "photos/{:05d}.jpg", 12_000)
        gcs.set(faults=Faults(status_503=0.3, reset_midway=0.35, truncated=0.35, max_consecutive=1))
        code, _, errors = pixelbeam("index", "--input", IN, "--output", OUT, "--images-per-unit", 500)
        assert (code, errors) == (0, "12,000 images in 24 units, 12,000 new\n")
        assert set(gcs.counts.faults) >= {"status_503", "reset_midway", "truncated"}
        cloud.calm(gcs)
        home = cloud.bring_home(gcs, tmp_path)
        cloud.assert_nothing_astray(home)
        assert dataset.uris(home) == [f"{IN}/{number:05d}.jpg" for number in range(12_000)]

    def test_a_short_outage_is_waited_for(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(60, BAD)
        assert run("--max-failure-ratio", 0.5, output=QUIET)[0] == 0
        few_requests_at_once(gcs, monkeypatch)
        ends = threading.Timer(1.5, lambda: gcs.set(outage=False))
        gcs.reset_counts()
        with cloud.when(lambda: cloud.downloaded(gcs) >= 30, lambda: (gcs.set(outage=True), ends.start())):
            assert run("--max-failure-ratio", 0.5)[0] == 0
        assert ends.finished.is_set()
        go_on(gcs)
        assert_complete(pixelbeam)
        assert_as_quiet(gcs, tmp_path)

    # What ends badly and is not asked for any more is told by the interpreter, on the terminal.
    @pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize(
        ("n_downloads", "line"),
        [(0, f"{OUT}: the store failed"), (30, "the store failed on \\d+ of the 69 images")],
    )
    def test_a_long_outage_is_one_line(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, monkeypatch, caplog, n_downloads: int, line: str
    ) -> None:
        fill(60, BAD)
        options = ("--max-failure-ratio", 0.5, "--images-per-unit", 100)
        assert run(*options, output=QUIET)[0] == 0
        few_requests_at_once(gcs, monkeypatch)
        monkeypatch.setattr("transforms.patience.OUTAGE_SECONDS", 1.0)
        gcs.reset_counts()
        gcs.set(outage=not n_downloads)
        with cloud.when(lambda: cloud.downloaded(gcs) >= n_downloads, lambda: gcs.set(outage=True)):
            result = run(*options)
        gc.collect()
        assert_one_line(result, caplog, 1, f"{line}.*; (mend the storage and )?run the same command again$")
        assert cloud.rows_files(gcs) == []
        go_on(gcs)
        assert run(*options)[0] == 0
        assert_complete(pixelbeam)
        assert_as_quiet(gcs, tmp_path)

    def test_an_outage_of_the_input_alone_is_no_failure_of_images(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, monkeypatch, caplog
    ) -> None:
        # A whole unit and a small one, which are done at the same time.
        fill(30)
        few_requests_at_once(gcs, monkeypatch)
        monkeypatch.setattr("transforms.patience.OUTAGE_SECONDS", 0.5)
        gcs.reset_counts()
        with cloud.when(lambda: cloud.downloaded(gcs) >= 1, lambda: gcs.set(outage=True)):
            result = run(output=tmp_path / "out")
        line = r"the store failed on \d+ of the [12]0 images of unit [01], which is left for later; mend the storage"
        assert_one_line(result, caplog, 1, line)
        assert list(tmp_path.glob("out/variant=*/*")) == []
        go_on(gcs)
        assert run(output=tmp_path / "out")[0] == 0
        assert_complete(pixelbeam, tmp_path / "out")


class TestOnAServerThatRefuses:
    # 30 are a whole unit and a small one, which are done at the same time.
    @pytest.mark.parametrize(("count", "to_bucket"), [(30, False), (70, False), (70, True)])
    def test_reads_from_the_beginning(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, caplog, count: int, to_bucket: bool
    ) -> None:
        fill(count)
        output = OUT if to_bucket else tmp_path / "out"
        gcs.set(deny=READING_AN_OBJECT)
        where = f"{OUT}.*: no permission; check" if to_bucket else "no permission to read 20 of the 20 images"
        assert_one_line(run(output=output), caplog, 1, where)
        assert [*tmp_path.glob("out/variant=*/*"), *cloud.rows_files(gcs)] == []
        go_on(gcs)
        assert run(output=output)[0] == 0
        assert_complete(pixelbeam, output)

    @pytest.mark.parametrize("to_bucket", [False, True])
    def test_reads_from_some_moment_on(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, caplog, monkeypatch, to_bucket: bool
    ) -> None:
        fill(70)
        output = OUT if to_bucket else tmp_path / "out"
        few_requests_at_once(gcs, monkeypatch)
        gcs.reset_counts()
        with cloud.when(lambda: cloud.downloaded(gcs) >= 30, lambda: gcs.set(deny=READING_AN_OBJECT)):
            result = run(output=output)
        assert_one_line(result, caplog, 1, ".*no permission")
        home = cloud.bring_home(gcs, tmp_path / "out")
        assert len(list(home.glob("variant=*/*"))) < 4
        assert [cloud.reasons(directory) for directory in dataset.variants(home)] in ([], [{}])
        go_on(gcs)
        assert run(output=output)[0] == 0
        assert_complete(pixelbeam, output)

    def test_all_reads_but_those_of_bad_images(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, caplog, monkeypatch
    ) -> None:
        fill(70)
        gcs.fill("in", "photos/0000-{:02d}.jpg", 30, [BAD["text.jpg"]])
        options = {"output": tmp_path / "out"}
        few_requests_at_once(gcs, monkeypatch)
        gcs.reset_counts()
        with cloud.when(lambda: cloud.downloaded(gcs) >= 12, lambda: gcs.set(deny=READING_AN_OBJECT)):
            result = run("--images-per-unit", 100, "--max-failure-ratio", 1, **options)
        assert_one_line(result, caplog, 1, r"no permission to read \d+ of the 100 images of unit 0")
        assert not dataset.variants(tmp_path / "out")
        go_on(gcs)
        assert run("--max-failure-ratio", 1, **options)[0] == 0
        (directory,) = dataset.variants(tmp_path / "out")
        assert set(cloud.reasons(directory).values()) == {("decode", "not_an_image")}
        assert_complete(pixelbeam, tmp_path / "out")

    def test_some_reads_in_between(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, caplog, monkeypatch
    ) -> None:
        fill(100)
        options = {"output": tmp_path / "out"}
        few_requests_at_once(gcs, monkeypatch)
        gcs.reset_counts()
        with (
            cloud.when(lambda: cloud.downloaded(gcs) >= 30, lambda: gcs.set(deny=READING_AN_OBJECT)),
            cloud.when(lambda: cloud.downloaded(gcs) >= 60, lambda: gcs.set(deny=())),
        ):
            result = run("--images-per-unit", 100, **options)
        assert_one_line(result, caplog, 1, r"no permission to read \d+ of the 100 images of unit 0")
        go_on(gcs)
        assert run(**options)[0] == 0
        (directory,) = dataset.variants(tmp_path / "out")
        assert cloud.reasons(directory) == {}
        assert_complete(pixelbeam, tmp_path / "out")

    @pytest.mark.full
    def test_reads_of_images_that_are_scored_one_at_a_time(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, caplog
    ) -> None:
        fill(20)
        options = {"output": tmp_path / "out"}
        pixelbeam("index", "--input", IN, "--output", tmp_path / "out")
        for _ in range(2):
            attempts.begin(str(tmp_path / "out"), "a run that died", 0)
        gcs.set(deny=READING_AN_OBJECT)
        assert_one_line(run(**options), caplog, 1, "no permission to read 20 of the 20 images of unit 0")
        go_on(gcs)
        assert run(**options)[0] == 0
        (footer,) = dataset.footers(cloud.only_variant(tmp_path / "out"))
        assert (footer.rows, footer.model) == (20, {"quarantine": "one image at a time"})


class TestKilled:
    def test_twice(self, gcs, run, fill, command, pixelbeam, tmp_path: Path) -> None:
        fill(150, BAD)
        assert run(output=QUIET)[0] == 0
        gcs.set(faults=cloud.every_fault(3), latency_seconds=0.01)
        listing = ["index", "--input", IN, "--output", OUT, "--images-per-unit", UNIT]
        cloud.kill_when(listing, tmp_path / "scratch", lambda: bool(cloud.names(gcs)))
        cloud.kill_when(command(), tmp_path / "scratch", lambda: len(cloud.rows_files(gcs)) >= 3)
        done = {name: gcs.get("out", name) for name in cloud.rows_files(gcs)}
        assert 3 <= len(done) < 8
        gcs.set(latency_seconds=0.0)
        assert run()[0] == 0
        assert {name: gcs.get("out", name) for name in done} == done
        go_on(gcs)
        assert_complete(pixelbeam)
        assert_as_quiet(gcs, tmp_path, abandoned=1)

    @pytest.mark.full
    def test_ten_times(self, gcs, run, fill, command, pixelbeam, tmp_path: Path) -> None:
        fill(150, BAD)
        options = ["--images-per-unit", 8]
        assert run(*options, output=QUIET)[0] == 0
        gcs.set(faults=cloud.every_fault(4), latency_seconds=0.02)

        def is_more(kind: str) -> Callable[[], bool]:
            before = len(cloud.names(gcs, f"data/{kind}"))
            # What the process that was killed before had asked for is carried out all the same.
            return lambda: len(cloud.names(gcs, f"data/{kind}")) > (0 if "_index" in kind else before)

        kinds = ["_index/20", "_index/CURRENT", "_runs", "_attempts", "_failures", *["variant="] * 5]
        for kind in kinds:
            cloud.kill_when([*command(), *options], tmp_path / "scratch", is_more(kind))
        done = {name: gcs.get("out", name) for name in cloud.rows_files(gcs)}
        assert 5 <= len(done) < 20
        code, _, errors = cloud.end(cloud.begin([*command(), *options], tmp_path / "scratch"))
        assert code == 0, errors
        assert {name: gcs.get("out", name) for name in done} == done
        go_on(gcs)
        assert_complete(pixelbeam)
        assert_as_quiet(gcs, tmp_path, abandoned=1)


class TestSeveralAtOnce:
    def test_listings_end_in_one_index(self, gcs, fill, tmp_path: Path) -> None:
        fill(70)
        # So that each reads what is current before another replaces it.
        gcs.set(latency_seconds=0.4)
        listing = ["index", "--input", IN, "--output", OUT, "--images-per-unit", UNIT]
        processes = [cloud.begin(listing, tmp_path / f"scratch-{number}") for number in range(3)]
        ended = [cloud.end(process) for process in processes]
        assert [code for code, _, _ in ended] == [0, 0, 0], ended
        assert len({output for _, output, _ in ended}) == 1
        assert sorted(errors for _, _, errors in ended) == [
            *["70 images in 4 units\n"] * 2,
            "70 images in 4 units, 70 new\n",
        ]
        home = cloud.bring_home(gcs, tmp_path / "home")
        cloud.assert_nothing_astray(home)
        assert dataset.uris(home) == [f"{IN}/{number:04d}.jpg" for number in range(70)]

    def test_the_first_commit_of_a_unit_counts(
        self, gcs, run, fill, pixelbeam, tmp_path, monkeypatch
    ) -> None:
        from transforms.gcs import GcsStore

        fill(30, BAD)
        options = ("--max-failure-ratio", 0.5)
        assert run(*options)[0] == 0
        theirs = {name: gcs.get("out", name) for name in cloud.names(gcs) if "variant=" in name}
        for name in theirs:
            gcs.delete("out", name)
        put, committed = GcsStore.put, {}

        async def put_behind_them(store: GcsStore, local_path: str, url: str) -> bool:
            """Upload a file; for a rows file, a moment after another run committed the same unit."""
            if url.startswith(f"{OUT}/variant=") and url not in committed:
                unit = Path(url).stem
                for name, content in theirs.items():
                    if unit in name:
                        committed[f"gs://out/{name}"] = str(gcs.put("out", name, content))
            return await put(store, local_path, url)

        monkeypatch.setattr(GcsStore, "put", put_behind_them)
        assert run(*options)[0] == 0
        left = {
            f"gs://out/{name}": each.generation for name, each in cloud.objects(gcs, "out", "data/").items()
        }
        assert {url: generation for url, generation in left.items() if "variant=" in url} == committed
        assert len(committed) == len(theirs)
        assert_complete(pixelbeam)

    def test_runs_make_one_dataset(self, gcs, run, fill, command, pixelbeam, tmp_path: Path) -> None:
        fill(150, BAD)
        assert run(output=QUIET)[0] == 0
        gcs.set(list_latency_seconds=1.0, latency_seconds=0.02)
        processes = [cloud.begin(command(), tmp_path / f"scratch-{number}") for number in range(2)]
        with cloud.when(lambda: bool(cloud.names(gcs)), lambda: gcs.set(list_latency_seconds=0.0)):
            ended = [cloud.end(process) for process in processes]
        assert [code for code, _, _ in ended] == [0, 0], ended
        go_on(gcs)
        assert_complete(pixelbeam)
        assert_as_quiet(gcs, tmp_path)


@dataclass(frozen=True)
class Bad:
    """What cannot be done: the exit code, the line, what the command says and what the buckets are like."""

    code: int
    line: str
    source: str = IN
    output: str | None = OUT
    objects: Mapping[str, bytes] = field(default_factory=dict)
    deny: tuple[str, ...] = ()


NO_PERMISSION = "no permission; check the credentials and what they may do with the bucket$"
HERE = None
BAD_INPUT = {
    "no input bucket": Bad(2, "there is no gs://nowhere/a/; check --input$", source="gs://nowhere/a"),
    "no output bucket": Bad(
        1,
        "cannot write gs://nowhere/a: there is no such bucket; make it, or name another output$",
        output="gs://nowhere/a",
    ),
    "no bucket": Bad(2, "--output gs:// names no bucket; give one", output="gs://"),
    "the output is an object": Bad(
        2, f"--output {OUT} is a file; give a directory$", objects={"gs://out/data": b"x"}
    ),
    "not to be listed": Bad(1, f"{IN}/: {NO_PERMISSION}", output=HERE, deny=("list",)),
    "not to be written": Bad(1, f"{OUT}: {NO_PERMISSION}", deny=("upload", "upload_start")),
    "not to be read": Bad(1, f"{OUT}: {NO_PERMISSION}", deny=READING_AN_OBJECT),
    "nothing is permitted": Bad(1, f"{OUT}: {NO_PERMISSION}", deny=("all",)),
    "an empty bucket": Bad(2, "no images in 'gs://in': there is nothing$", source="gs://in"),
    "an empty folder": Bad(
        2, "no images in 'gs://in/a': there is nothing$", source="gs://in/a", objects={"gs://in/a/": b""}
    ),
    "other files": Bad(
        2,
        "no images in 'gs://in/a': 1 other files were ignored; give a glob",
        source="gs://in/a",
        objects={"gs://in/a/b.doc": b"x"},
    ),
    "a glob of nothing": Bad(
        2, r"no images in 'gs://in/\*.png': the glob matches no file$", source="gs://in/*.png"
    ),
    "a manifest without uris": Bad(
        2,
        "manifest gs://in/a.csv has no column 'uri', only name, size; name it so$",
        source="gs://in/a.csv",
        objects={"gs://in/a.csv": b"name,size\na.jpg,7\n"},
    ),
    "an empty manifest": Bad(
        2,
        "no images in 'gs://in/a.txt': the manifest is empty$",
        source="gs://in/a.txt",
        objects={"gs://in/a.txt": b"\n\n"},
    ),
    "a manifest not to be read": Bad(
        1,
        f"gs://in/a.txt: {NO_PERMISSION}",
        source="gs://in/a.txt",
        output=HERE,
        objects={"gs://in/a.txt": b"b.jpg\n"},
        deny=READING_AN_OBJECT,
    ),
}
OF_THE_OUTPUT = (
    *("no output bucket", "no bucket", "the output is an object"),
    *("not to be written", "not to be read", "nothing is permitted"),
)


def arrange(gcs: GcsServer, case: Bad) -> None:
    for url, content in case.objects.items():
        bucket, _, name = url.removeprefix("gs://").partition("/")
        gcs.put(bucket, name, content)
    gcs.set(deny=case.deny)


class TestBadInput:
    @pytest.mark.parametrize("name", BAD_INPUT)
    def test_is_one_line(self, gcs, run, tmp_path: Path, caplog, name: str) -> None:
        case = BAD_INPUT[name]
        arrange(gcs, case)
        result = run(source=case.source, output=case.output or tmp_path / "out")
        assert_one_line(result, caplog, case.code, case.line)
        assert cloud.names(gcs, "data/") == []

    @pytest.mark.parametrize("name", OF_THE_OUTPUT)
    def test_an_output_is_told_before_anything_is_listed(
        self, gcs, run, caplog, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        case = BAD_INPUT[name]
        arrange(gcs, case)
        gcs.reset_counts()
        monkeypatch.delattr(cli, "start_tensorflow")
        assert_one_line(run(output=case.output), caplog, case.code, case.line)
        assert not {"list", "download", "upload"} & set(gcs.counts.requests)

    @pytest.mark.full
    @pytest.mark.parametrize("name", BAD_INPUT)
    def test_is_one_line_on_a_terminal_too(self, gcs, command, tmp_path: Path, name: str) -> None:
        case = BAD_INPUT[name]
        arrange(gcs, case)
        words = command(source=case.source, output=case.output or tmp_path / "out")
        code, output, errors = cloud.end(cloud.begin(words, tmp_path / "scratch"))
        assert (code, output, errors.count("\n")) == (case.code, "", 1)
        assert re.match(f"pixelbeam: {case.line}", errors.rstrip())

    def test_a_missing_output_bucket_is_told_before_tensorflow_is_loaded(self, gcs, command) -> None:
        script = (
            "import sys; from pipelines import cli; code = cli.main(sys.argv[1:]); "
            "assert not {'tensorflow', 'apache_beam'} & set(sys.modules); sys.exit(code)"
        )
        words = [sys.executable, "-c", script, *map(str, command(output="gs://nowhere/a"))]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
        assert ended.stderr.startswith("pixelbeam: cannot write gs://nowhere/a: there is no such bucket")


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
    assert re.match(f"pixelbeam: {message}", lines[0])
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def assert_as_quiet(gcs: GcsServer, tmp_path: Path, abandoned: int = 0) -> None:
    """Rows bitwise and failures' reasons are those of a run that nothing happened to, which is in `QUIET`.

    A unit over which two processes died is scored one image at a time, which rounds otherwise.
    """
    quiet = cloud.bring_home(gcs, tmp_path / "quiet", QUIET)
    home = cloud.bring_home(gcs, tmp_path / "home")
    cloud.assert_nothing_astray(home, abandoned)
    dataset.assert_conserved(home)
    rows, expected = cloud.rows(home), cloud.rows(quiet)
    scores = ["logits", "top_classes", "features"]
    assert rows.drop_columns(scores).equals(expected.drop_columns(scores))
    if any("quarantine" in footer.model for footer in dataset.footers(cloud.only_variant(home))):
        for column in ("logits", "features"):
            vectors = [np.stack(table.column(column).to_numpy()) for table in (rows, expected)]
            np.testing.assert_allclose(*vectors, rtol=1e-5, atol=1e-6)
    else:
        assert rows.equals(expected)
    assert cloud.reasons(cloud.only_variant(home)) == cloud.reasons(cloud.only_variant(quiet))

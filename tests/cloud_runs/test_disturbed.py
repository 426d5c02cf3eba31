"""What happens meanwhile makes no difference: requests fail, runs are killed, others run beside."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import cloud, dataset
from tests.cloud import BAD, IN, OUT, UNIT, assert_complete, assert_one_line, few_requests_at_once, go_on
from tests.gcs_faults import ALWAYS, DOWNLOADING, READING, WRITING, Faults
from tests.gcs_server import GcsServer

QUIET = "gs://out/quiet"
FAULTS = (*ALWAYS, *READING, *DOWNLOADING, *WRITING)


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

"""Every engine gives the rows of a usual run, also after its workers were killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import dask
import psutil
import pytest

from pipelines import cli
from tests import bad, dataset, photos, servers
from transforms import index, infer
from transforms.commit import TargetWriter
from transforms.records import Receipt, ScoreBatch

UNITS = 8
IMAGES_PER_UNIT = 10
UNIT_WITH_BAD_IMAGES = UNITS // 2
SECONDS_A_RUN = 300
DIED = (
    "pixelbeam: a worker process died; what was committed stays; run the same command again: a unit that died twice "
    "is done one image at a time"
)
FN_API = "--runner=FnApiRunner"
MULTI_PROCESSING = [FN_API, "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
BUNDLE_BASED = "--runner=apache_beam.runners.direct.direct_runner.BundleBasedDirectRunner"

Words = Callable[..., list[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs large enough for a unit to take a while, and two bad images."""
    folder = tmp_path_factory.mktemp("photos")
    photos.write_photographs(folder, UNITS * IMAGES_PER_UNIT - 2, size=(1000, 750))
    bad.write(folder, "cut.jpg", 5)
    bad.write(folder, "text.jpg", 25)
    return folder


@pytest.fixture(scope="module")
def listed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with an index of two parts, since Dask does a part with one worker."""
    out = tmp_path_factory.mktemp("listed") / "out"
    for pattern in (folder / "photo-000[0-3]*.jpg", folder):
        arguments = ["index", "--input", pattern, "--output", out, "--images-per-unit", IMAGES_PER_UNIT]
        assert cli.main([str(argument) for argument in arguments]) == 0
    work = index.read(str(out))
    assert work is not None
    assert [part.units for part in work.parts] == [UNITS // 2, UNITS // 2]
    return out


@pytest.fixture(scope="module")
def words_for(folder: Path, tiny_toml: str, models: str) -> Words:
    """The command for an output, and options of Beam."""

    def words(out: Path, *options: str) -> list[str]:
        arguments = ["run", "--input", folder, "--output", out, "--variant", tiny_toml, "--model-dir", models]
        return [
            str(each)
            for each in (*arguments, "--images-per-unit", IMAGES_PER_UNIT, "--batch-size", 4, *options)
        ]

    return words


@pytest.fixture(scope="module")
def usual(listed: Path, words_for: Words, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of a run without any option of Beam."""
    out = tmp_path_factory.mktemp("usual") / "out"
    shutil.copytree(listed, out)
    assert finish(start(words_for(out))) == (0, "")
    return out


@pytest.fixture
def out(listed: Path, tmp_path: Path) -> Path:
    """An output in which nothing is done yet."""
    shutil.copytree(listed, tmp_path / "out")
    return tmp_path / "out"


def start(words: list[str]) -> subprocess.Popen[str]:
    """The installed command, in processes of its own."""
    command = [sys.executable, "-m", "pipelines.cli", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The command's exit code, and the line on stderr where it is not 0."""
    try:
        _, errors = process.communicate(timeout=SECONDS_A_RUN)
    finally:
        process.terminate()
    last = errors.splitlines()[-1]
    return process.returncode, last if process.returncode else ""


@pytest.fixture
def only_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images cannot be scored in this process."""

    def refuse(_: object) -> None:
        raise AssertionError("a model was loaded in the launching process")

    monkeypatch.setattr(infer.EfficientNetHandler, "load_model", refuse)


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
def test_fn_api_runner_in_its_process(mode: str, words_for: Words, out: Path, usual: Path) -> None:
    assert finish(start(words_for(out, FN_API, f"--direct_running_mode={mode}"))) == (0, "")
    dataset.assert_equal(out, usual)


def test_fn_api_runner_with_worker_processes(
    pixelbeam, only_elsewhere: None, words_for: Words, out: Path, usual: Path
) -> None:
    code, _, errors = pixelbeam(*words_for(out, *MULTI_PROCESSING))
    assert code == 0, errors
    dataset.assert_equal(out, usual)


def test_portable_runner_with_a_job_service_and_a_worker_pool(
    pixelbeam, only_elsewhere: None, words_for: Words, out: Path, usual: Path, tmp_path: Path
) -> None:
    with servers.job_service(tmp_path) as jobs, servers.worker_pool(tmp_path) as workers:
        options = ["--runner=PortableRunner", f"--job_endpoint={jobs}"]
        options += ["--environment_type=EXTERNAL", f"--environment_config={workers}"]
        code, _, errors = pixelbeam(*words_for(out, *options))
    assert code == 0, errors
    dataset.assert_equal(out, usual)


def test_a_job_service_that_is_not_there_is_one_line(pixelbeam, words_for: Words, out: Path) -> None:
    options = ["--runner=PortableRunner", "--job_endpoint=localhost:1", "--job_server_timeout=1"]
    code, _, errors = pixelbeam(*words_for(out, *options, "--environment_type=LOOPBACK"))
    assert code == 1
    assert errors.splitlines()[-1] == (
        "pixelbeam: the job service does not answer; look at --job_endpoint, then run the same command again"
    )


@pytest.mark.parametrize(
    ("runner", "option"),
    [("FlinkRunner", "--flink_job_server_jar"), ("SparkRunner", "--spark_job_server_jar")],
)
def test_a_job_server_s_jar_that_is_not_there_is_one_line(
    runner: str, option: str, pixelbeam, words_for: Words, out: Path
) -> None:
    code, _, errors = pixelbeam(*words_for(out, f"--runner={runner}", f"{option}=missing.jar"))
    assert code == 2
    assert errors.splitlines()[-1] == (
        f"pixelbeam: {option} missing.jar: no such file; download it (docs/engines.md names it)"
    )


def test_a_dask_scheduler_that_is_not_there_is_one_line(pixelbeam, words_for: Words, out: Path) -> None:
    runner = "--runner=apache_beam.runners.dask.dask_runner.DaskRunner"
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        code, _, errors = pixelbeam(*words_for(out, runner, "--dask_client_address=tcp://127.0.0.1:1"))
    assert code == 1
    assert errors.splitlines()[-1] == (
        "pixelbeam: Timed out trying to connect to tcp://127.0.0.1:1 after 1 s; look at --dask_client_address, "
        "then run the same command again"
    )


@pytest.mark.parametrize("moment", ["in the middle", "before the commit", "after the commit"])
def test_bundle_based_runner_with_a_bundle_that_fails_twice(
    moment: str, pixelbeam, words_for: Words, out: Path, usual: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, commit, failed = TargetWriter.add, TargetWriter.commit, []

    def fail_twice(writer: TargetWriter) -> None:
        if writer._target.unit.number == UNIT_WITH_BAD_IMAGES and len(failed) < 2:
            failed.append(moment)
            raise ConnectionError("the store is gone")

    def add_or_fail(writer: TargetWriter, batch: ScoreBatch) -> None:
        if batch.number == 1 and moment == "in the middle":
            fail_twice(writer)
        add(writer, batch)

    def commit_or_fail(writer: TargetWriter) -> Receipt:
        if moment == "before the commit":
            fail_twice(writer)
        receipt = commit(writer)
        if moment == "after the commit":
            fail_twice(writer)
        return receipt

    monkeypatch.setattr(TargetWriter, "add", add_or_fail)
    monkeypatch.setattr(TargetWriter, "commit", commit_or_fail)
    code, _, errors = pixelbeam(*words_for(out, BUNDLE_BASED))
    assert (code, failed) == (0, [moment, moment]), errors
    dataset.assert_equal(out, usual)


def test_a_worker_process_that_dies_ends_the_command() -> None:
    program = f"""
import os, signal, sys
from pipelines.supervise import supervise

def main():
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from pipelines.launch import launch
    from pipelines.quiet import stderr_aside

    # A second worker would hold stdout open for as long as it goes on.
    pipeline = beam.Pipeline(options=PipelineOptions({[*MULTI_PROCESSING, "--direct_num_workers=1"]}))
    pipeline | beam.Create([1]) | beam.Map(lambda _: os.kill(os.getpid(), signal.SIGKILL))
    with stderr_aside():
        launch(pipeline)

sys.exit(supervise(main))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS_A_RUN)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, DIED)


def markers(out: Path) -> set[str]:
    """Of the units that are begun, and of those that something died over."""
    return {path.name for path in out.glob("_attempts/*")}


def rows_files(out: Path) -> int:
    return len(list(out.glob("variant=*/part-*.parquet")))


def wait_until(process: subprocess.Popen[str], moment: Callable[[], object]) -> None:
    """Return as soon as something is seen from outside; the command must not have ended by then."""
    deadline = time.monotonic() + SECONDS_A_RUN
    while not moment():
        assert process.poll() is None, "it ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The worker processes of FnApiRunner, without the shells that started them."""
    workers = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "apache_beam.runners.worker.sdk_worker_main" in child.cmdline():
                workers.append(child)
    return sorted(workers, key=lambda worker: worker.pid)


STARTED, BEGUN = -1, 0


def kill_a_worker(words: list[str], out: Path, number: int, moment: int, *, then_the_other: bool) -> None:
    """Run the command and kill one of its two worker processes, which ends the command.

    Args:
        words: The command.
        out: Its output.
        number: Which worker.
        moment: `STARTED`, as soon as there are two; `BEGUN`, when one is at a unit; else that many rows files.
        then_the_other: Kill that too, which would go on with the units that it was given.
    """
    before = markers(out)
    process = start(words)
    wait_until(process, lambda: len(workers_of(process)) == 2)
    workers = workers_of(process)
    if moment == BEGUN:
        wait_until(process, lambda: markers(out) - before)
    elif moment > BEGUN:
        wait_until(process, lambda: rows_files(out) >= moment)
    workers.pop(number).kill()
    if then_the_other:
        workers[0].kill()
    assert finish(process) == (1, DIED)


@pytest.mark.full
@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_process_killed_while_the_other_goes_on(
    number: int, words_for: Words, out: Path, usual: Path
) -> None:
    words = words_for(out, *MULTI_PROCESSING)
    kill_a_worker(words, out, number, BEGUN, then_the_other=False)
    assert rows_files(out) < UNITS
    assert finish(start(words)) == (0, "")
    dataset.assert_equal(out, usual)


@pytest.mark.full
@pytest.mark.parametrize("first", [0, 1])
def test_worker_processes_killed_in_turn(first: int, words_for: Words, out: Path, usual: Path) -> None:
    words = words_for(out, *MULTI_PROCESSING)
    for turn, moment in enumerate((STARTED, 1, BEGUN, 4)):
        kill_a_worker(words, out, (first + turn) % 2, moment, then_the_other=True)
        assert rows_files(out) < UNITS
    assert finish(start(words)) == (0, "")
    dataset.assert_equal(out, usual)


def dask_options(cluster: servers.DaskCluster) -> list[str]:
    runner = "--runner=apache_beam.runners.dask.dask_runner.DaskRunner"
    return [runner, f"--dask_client_address={cluster.address}", "--dask_partition_size=1"]


@pytest.mark.full
def test_dask_runner_with_a_scheduler_and_two_workers(
    words_for: Words, out: Path, usual: Path, tmp_path: Path
) -> None:
    with servers.dask_cluster(tmp_path, workers=2) as cluster:
        assert finish(start(words_for(out, *dask_options(cluster)))) == (0, "")
        loaded = cluster.client.run(lambda: "tensorflow" in sys.modules)
    assert list(loaded.values()) == [True, True]
    dataset.assert_equal(out, usual)


@pytest.mark.full
def test_a_run_on_dask_goes_on_when_workers_die(
    words_for: Words, out: Path, usual: Path, tmp_path: Path
) -> None:
    with servers.dask_cluster(tmp_path, workers=2) as cluster:
        process = start(words_for(out, *dask_options(cluster)))
        for number in (0, 1):
            before = markers(out)
            wait_until(process, lambda before=before: markers(out) - before)
            os.kill(cluster.worker_pids()[number], signal.SIGKILL)
        assert finish(process) == (0, "")
    dataset.assert_equal(out, usual)


@pytest.mark.full
@pytest.mark.parametrize("number", [0, 1])
def test_a_run_on_dask_that_may_lose_no_worker(
    number: int, words_for: Words, out: Path, usual: Path, tmp_path: Path
) -> None:
    with servers.dask_cluster(tmp_path, workers=2, allowed_failures=0) as cluster:
        words, pid = words_for(out, *dask_options(cluster)), cluster.worker_pids()[number]
        process = start(words)
        wait_until(process, lambda: markers(out))
        os.kill(pid, signal.SIGKILL)
        code, last = finish(process)
        assert code == 1
        assert re.match(r"pixelbeam: .*workers died while running it", last)
        assert last.endswith("; what was committed stays; run the same command again")
        assert finish(start(words)) == (0, "")
    dataset.assert_equal(out, usual)

"""What is heard of a pipeline that fails: one line, and of the errors of workers in this process no more."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import launch
from pipelines.config import RunConfig
from pipelines.launch import reason_of
from transforms import attempts, devices
from transforms.errors import RunError, UsageError

the_first_is_told = threading.Event()
workers: dict[int, int] = {}


def fail(element: tuple[int, object]) -> None:
    """Raise in each of two workers, in the second once the error of the first was told."""
    number, _ = element
    workers[number] = threading.get_ident()
    while len(workers) < 2:
        time.sleep(0.01)
    if number == 1:
        the_first_is_told.wait()
    raise RunError(f"unit {number}: nothing can be read; mend the storage")


def test_of_two_workers_that_fail_one_is_heard(capfd: pytest.CaptureFixture[str]) -> None:
    in_threads = ["--runner=FnApiRunner", "--direct_running_mode=multi_threading", "--direct_num_workers=2"]
    pipeline = beam.Pipeline(options=PipelineOptions(in_threads))
    # Keys are dealt out to the workers in turn, and the runner hears of the first worker first.
    numbered = pipeline | beam.Create([(0, None), (1, None)], reshuffle=False) | beam.GroupByKey()
    _ = numbered | beam.Map(fail)
    with pytest.raises(RunError, match=r"^unit 0: nothing can be read; mend the storage$"):
        launch.launch(pipeline)
    the_first_is_told.set()
    while is_at_work(workers[1]):
        time.sleep(0.01)
    assert capfd.readouterr().err == ""


def is_at_work(worker: int) -> bool:
    """Whether a thread of Beam's still has something to do."""
    frame = sys._current_frames().get(worker)
    while frame is not None:
        if frame.f_code.co_name == "_execute":
            return True
        frame = frame.f_back
    return False


def config_with(output: Path, *options: str) -> RunConfig:
    return RunConfig(("x",), str(output), ("y",), "models", beam_options=options)


def test_here_are_as_many_threads_as_keep_the_device_busy(tmp_path: Path) -> None:
    options = launch.beam_options(config_with(tmp_path, "--labels=a=b")).get_all_options()
    assert options["direct_running_mode"] == "multi_threading"
    assert options["direct_num_workers"] == devices.harness_threads()
    assert options["labels"] == ["a=b"]
    assert (
        launch.beam_options(config_with(tmp_path, "--direct_num_workers=7")).get_all_options()[
            "direct_num_workers"
        ]
        == 7
    )


def test_options_that_beam_refuses_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"^Pipeline has validations errors: .*process_command is required"
    ) as error:
        launch.new_pipeline(config_with(tmp_path, "--runner=FlinkRunner", "--environment_type=PROCESS"))
    assert "\n" not in str(error.value)


def test_only_the_death_of_a_worker_process_ends_the_command() -> None:
    heard: list[object] = []
    usual = threading.excepthook
    try:
        threading.excepthook = heard.append
        with launch.no_longer_than_its_workers():
            surprise = threading.Thread(target=lambda: 1 / 0)
            surprise.start()
            surprise.join()
        assert [raised.exc_type for raised in heard] == [ZeroDivisionError]
        assert threading.excepthook == heard.append
    finally:
        threading.excepthook = usual


def test_a_surprise_comes_with_its_traceback() -> None:
    error = "Traceback (most recent call last):\n  File x\nKeyError: 'y' [while running 'Prepare']\n"
    *traceback, last = reason_of(error).splitlines()
    assert traceback == ["Traceback (most recent call last):", "  File x", "KeyError: 'y'"]
    assert last == "the pipeline failed, what was committed stays; run the same command again"


def test_markers_stay_where_workers_died(
    tmp_path: Path, tiny_toml: str, models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: object) -> None:
        attempts.begin(str(tmp_path), "run", 3)
        raise launch.WorkersDied("a worker died over unit 3")

    monkeypatch.setattr(launch, "launch", die)
    config = RunConfig(inputs=("x",), output=str(tmp_path), variants=(tiny_toml,), model_dir=models)
    with pytest.raises(launch.WorkersDied):
        launch.launch_and_show(launch.new_pipeline(config), config, "run", 1)
    assert attempts.count(str(tmp_path), 3) == 1

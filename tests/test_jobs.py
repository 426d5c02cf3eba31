"""A Dataflow job from its submission to its end, by Beam's own client against a server of the API."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import jobs, progress
from pipelines.config import RunConfig
from pipelines.jobs import Job
from tests.dataflow_server import NOTHING, DataflowServer, Distribution, Message, Metric, Step
from tests.gcs_server import GcsServer
from transforms import attempts
from transforms.errors import RunError
from transforms.infer import METRICS

RUN_ID = "2026-11-21T05-12-09Z"
OUT = "gs://out/data"
RUNNING, DONE, CANCELLED = (Step(f"JOB_STATE_{state}") for state in ("RUNNING", "DONE", "CANCELLED"))
WITHOUT_PIP = "--experiments=disable_logging_submission_environment"
"""It would list what is installed here, which takes seconds."""
OF_THE_JOB = Message(
    "Workflow failed. Causes: S01:Prepare failed. The work item was attempted 4 times", "ERROR"
)
A_WARNING = Message("A later warning", "WARNING")


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.01)


@pytest.fixture
def submit(dataflow: DataflowServer) -> Callable[..., Job]:
    """Submits a pipeline that does next to nothing."""

    def submit(*options: str) -> Job:
        given = (*dataflow.options, "--temp_location=gs://out/tmp", WITHOUT_PIP, *options)
        config = RunConfig(("gs://in",), OUT, ("x",), "gs://out/models", beam_options=given)
        pipeline = beam.Pipeline(options=PipelineOptions(list(given)))
        _ = pipeline | beam.Create([1])
        return jobs.submit(pipeline, config, RUN_ID)

    return submit


def counted(images: int, failed: int = 0, passed_over: int = 0, **milliseconds: int) -> tuple[Metric, ...]:
    counters = {"images": images, "decode_failures": failed, "passed_over": passed_over}
    distributions = {
        f"{name}_milliseconds": Distribution(2, value, value // 2, value)
        for name, value in milliseconds.items()
    }
    return (
        *(
            # What the service says tentatively may lag behind.
            Metric(METRICS, name, "WriteUnits", value, attempted=0 if isinstance(value, int) else NOTHING)
            for name, value in {**counters, **distributions}.items()
        ),
        Metric("another", "images", "WriteUnits", 10**9),
    )


def test_a_job_is_kept_beside_the_output(
    submit, dataflow: DataflowServer, gcs: GcsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    job = submit("--job_name=mine")
    assert dataflow.job().id == job.id
    assert (job.run_id, job.project, job.region, job.output) == (RUN_ID, "project", "us-central1", OUT)
    assert jobs.read(OUT, RUN_ID) == job
    assert jobs.read(OUT, "2026-11-21T05-12-10Z") is None
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"submitted {job.id}: https://console.cloud.google.com/dataflow/jobs/us-central1/{job.id}?project=project",
        jobs._how_to_come_back(job),
    ]


def test_a_job_that_dataflow_refuses_is_one_line(submit) -> None:
    submit("--job_name=mine")
    with pytest.raises(
        RunError, match=r"^the job was not submitted: [^\n]*mine[^\n]*; mend that and run"
    ) as error:
        submit("--job_name=mine")
    assert "already" in str(error.value).lower()


def test_a_job_that_cannot_be_kept_is_told_all_the_same(
    submit, dataflow: DataflowServer, gcs: GcsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    gcs.set(deny=("upload",))
    with pytest.raises(RunError, match="no permission"):
        submit()
    assert capsys.readouterr().err.startswith(f"submitted {dataflow.job().id}: ")


def test_progress_is_shown_until_the_end(
    submit, dataflow: DataflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    dataflow.set(
        script=(
            Step("JOB_STATE_PENDING", polls=20),
            Step("JOB_STATE_RUNNING", metrics=counted(100, passed_over=200), polls=20),
            Step("JOB_STATE_RUNNING", metrics=counted(500, 7, 200, wait=10, model=90, write=5), polls=40),
            Step("JOB_STATE_DONE", metrics=counted(1000, 8, 200, wait=10, model=90, write=5)),
        )
    )
    job = submit()
    capsys.readouterr()
    jobs.follow(job, n_images=600, n_variants=2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("0 of 600 images, the job is pending, workers start within some minutes")
    assert any(line.startswith("150 of 600 images, ") for line in lines)
    scoring = [line for line in lines if line.startswith("350 of 600 images, ")]
    assert scoring
    assert re.fullmatch(
        r"350 of 600 images, [\d,.]+ images/s, 4 failed in this run, [\d,]+ s left, most time goes into the model",
        scoring[-1],
    )


def test_a_job_that_failed_is_one_line_with_the_worker_s_reason(submit, dataflow: DataflowServer) -> None:
    from_worker = Message(
        "Error message from worker: Traceback (most recent call last):\n  File ...\n"
        "transforms.errors.RunError: every image of unit 0 was refused [while running 'Prepare-ptransform-1']\n",
        "ERROR",
    )
    dataflow.set(script=(RUNNING, Step("JOB_STATE_FAILED", (from_worker, A_WARNING, OF_THE_JOB))))
    job = submit()
    with pytest.raises(RunError) as error:
        jobs.follow(job, 10, 1)
    assert str(error.value) == (
        f"the job {job.id} failed: every image of unit 0 was refused; what was committed stays, its log: {job.url}"
    )


@pytest.mark.parametrize(
    ("messages", "reason"), [((OF_THE_JOB, A_WARNING), OF_THE_JOB.text), ((), "Dataflow gives no reason")]
)
def test_a_job_that_failed_otherwise_has_the_last_error_as_its_reason(
    submit, dataflow: DataflowServer, messages: tuple[Message, ...], reason: str
) -> None:
    dataflow.set(script=(RUNNING, Step("JOB_STATE_FAILED", messages)))
    with pytest.raises(RunError, match=rf"^the job \S+ failed: {re.escape(reason)}; what was committed"):
        jobs.follow(submit(), 10, 1)


def test_a_cancelled_job_is_one_line(submit, dataflow: DataflowServer) -> None:
    dataflow.set(script=(RUNNING, CANCELLED))
    job = submit()
    with pytest.raises(RunError, match=rf"^the job {job.id} was cancelled, what was committed stays"):
        jobs.follow(job, 10, 1)


@pytest.mark.parametrize(("end", "left"), [("DONE", 0), ("CANCELLED", 0), ("FAILED", 1)])
def test_only_a_job_that_failed_leaves_markers_of_what_it_was_at(
    submit, dataflow: DataflowServer, end: str, left: int
) -> None:
    dataflow.set(script=(RUNNING, Step(f"JOB_STATE_{end}")))
    job = submit()
    attempts.begin(OUT, RUN_ID, 3)
    with nullcontext() if end == "DONE" else pytest.raises(RunError):
        jobs.follow(job, 10, 1)
    assert attempts.count(OUT, 3) == left


def test_a_job_that_may_not_be_asked_after_goes_on(submit, dataflow: DataflowServer) -> None:
    dataflow.set(script=(RUNNING,), refusals={"get": (403,)})
    with pytest.raises(
        RunError, match=rf"^lost sight of the job \S+, which goes on: .*pixelbeam watch {OUT}$"
    ):
        jobs.follow(submit(), 10, 1)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C is heard, also in a process that was started in the background, where it is ignored."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_the_job_to_itself(submit, dataflow: DataflowServer) -> None:
    dataflow.set(script=(RUNNING,))
    job = submit()

    def press() -> None:
        # Until it was asked after twice, so that the wait for the next time has begun.
        while dataflow.requests.get("metrics", 0) < 2:
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    with pytest.raises(KeyboardInterrupt) as interrupt:
        jobs.follow(job, 10, 1)
    pressing.join()
    assert str(interrupt.value) == (
        f"the job goes on; come back: pixelbeam watch {OUT}; cancel: gcloud dataflow jobs cancel {job.id} "
        "--project=project --region=us-central1"
    )
    assert dataflow.job().state == "JOB_STATE_RUNNING"
    assert "update" not in dataflow.requests


def test_a_template_is_written_and_submitted_by_its_launcher(
    submit, dataflow: DataflowServer, gcs: GcsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit("--template_location=gs://out/tmp/template.json") is None
    assert capsys.readouterr().err == "the job is submitted by the launcher of its template\n"
    assert gcs.get("out", "tmp/template.json")
    assert dataflow.jobs() == []
    assert jobs.read(OUT, RUN_ID) is None


@pytest.mark.parametrize(("options", "waits"), [((), True), (("--no_wait_until_finish",), False)])
def test_a_launcher_waits_unless_it_is_told_not_to(options: tuple[str, ...], waits: bool) -> None:
    config = RunConfig(("gs://in",), OUT, ("x",), "gs://out/models", beam_options=options)
    assert jobs.wants_to_wait(config) is waits

"""A Dataflow job from its submission to its end: kept beside the output, followed, and come back to."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineState

from pipelines import progress, verdict
from pipelines.config import RunConfig
from pipelines.launch import reason_of
from transforms import attempts, storage
from transforms.errors import RunError
from transforms.infer import METRICS
from transforms.records import StepSeconds

POLL_SECONDS = 10.0
ERROR_IMPORTANCE = "JOB_MESSAGE_ERROR"


@dataclass(frozen=True)
class Job:
    """A job that was submitted.

    Attributes:
        run_id: The run's name.
        id: Dataflow's name of the job.
        project: Of Google Cloud.
        region: Of the job.
        output: The output directory.
        beam_options: All that it was submitted with.
    """

    run_id: str
    id: str
    project: str
    region: str
    output: str
    beam_options: tuple[str, ...]

    @property
    def url(self) -> str:
        """Its page in Google's console."""
        return (
            f"https://console.cloud.google.com/dataflow/jobs/{self.region}/{self.id}?project={self.project}"
        )


def wants_to_wait(config: RunConfig) -> bool:
    """Whether the launcher stays until the job has ended."""
    return not PipelineOptions(list(config.beam_options)).view_as(StandardOptions).no_wait_until_finish


def submit(pipeline: beam.Pipeline, config: RunConfig, run_id: str) -> Job | None:
    """Submit the job and keep its name in `_jobs/` of the output; None where a template's launcher submits it.

    Raises:
        RunError: Dataflow or the staging bucket refuses it.
    """
    from apache_beam.utils.retry import PermanentException
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError

    # What it logs is raised or printed here.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    try:
        result: Any = pipeline.run()
    except (GoogleAPICallError, GoogleAuthError, PermanentException, OSError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise RunError(
            f"the job was not submitted: {text[:500]}; mend that and run the same command again"
        ) from error
    if not result.has_job:
        print("the job is submitted by the launcher of its template", file=sys.stderr)
        return None
    google = pipeline.options.view_as(GoogleCloudOptions)
    options = tuple(config.beam_options)
    job = Job(run_id, result.job_id(), google.project, google.region, config.output, options)
    # Told first: a job that cannot be kept is paid for all the same.
    print(f"submitted {job.id}: {job.url}\n{_how_to_come_back(job)}", file=sys.stderr)
    _keep(job)
    return job


def _keep(job: Job) -> None:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(json.dumps(asdict(job), indent=1).encode())
        file.flush()
        storage.commit(file.name, os.path.join(job.output, "_jobs", f"{job.run_id}.json"))


def read(output: str, run_id: str) -> Job | None:
    """The job of a run; None where the run was none of Dataflow's."""
    path = os.path.join(output, "_jobs", f"{run_id}.json")
    if not storage.exists(path):
        return None
    fields = json.loads(storage.read(path))
    return Job(**{**fields, "beam_options": tuple(fields["beam_options"])})


def follow(job: Job, n_images: int, n_variants: int) -> None:
    """Show how the job goes until it has ended; Ctrl-C leaves it to itself.

    Raises:
        RunError: It failed or was cancelled, or cannot be seen any more.
        KeyboardInterrupt: With how to come back.
    """
    counts = _Counts()
    try:
        service = _Service(job)
        state = service.state()
        counts.take(service.metrics(), state)
        with progress.Live(counts.snapshot, n_images, n_variants, sys.stderr, counts.words):
            while not PipelineState.is_terminal(state):
                time.sleep(POLL_SECONDS)
                state = service.state()
                counts.take(service.metrics(), state)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the job goes on; {_how_to_come_back(job)}") from None
    if state in (PipelineState.DONE, PipelineState.CANCELLED):
        # What its workers were at is no image's fault.
        with suppress(RunError):
            attempts.forget(job.output, job.run_id)
    if state == PipelineState.CANCELLED:
        raise RunError(
            f"the job {job.id} was cancelled, what was committed stays; run the same command again"
        )
    if state != PipelineState.DONE:
        raise RunError(service.why_it_failed())


def _how_to_come_back(job: Job) -> str:
    return (
        f"come back: pixelbeam watch {job.output}; cancel: gcloud dataflow jobs cancel {job.id} "
        f"--project={job.project} --region={job.region}"
    )


class _Service:
    """What Dataflow says of a job."""

    def __init__(self, job: Job) -> None:
        from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient

        self._job = job
        self._client = DataflowApplicationClient(PipelineOptions(list(job.beam_options)))

    def state(self) -> str:
        """One of `PipelineState`'s."""
        from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult

        answer = self._asked(lambda: self._client.get_job(self._job.id))
        return str(DataflowPipelineResult.api_jobstate_to_pipeline_state(answer.current_state))

    def metrics(self) -> dict[str, int]:
        """Our counters, and the sums of our distributions, as far as the service has them: the greater of each two."""
        metrics: dict[str, int] = {}
        for metric in self._asked(lambda: self._client.get_job_metrics(self._job.id)).metrics:
            if metric.name.context.get("namespace") == METRICS:
                value = (
                    metric.scalar if metric.scalar is not None else (metric.distribution or {}).get("sum", 0)
                )
                metrics[metric.name.name] = max(metrics.get(metric.name.name, 0), int(value))
        return metrics

    def why_it_failed(self) -> str:
        """One line, our own error's text where a worker raised one."""
        messages, _ = self._asked(
            lambda: self._client.list_messages(self._job.id, minimum_importance=ERROR_IMPORTANCE)
        )
        texts = [message.message_text for message in messages]
        told = next(
            (text for text in texts if "transforms.errors.RunError: " in text), texts[-1] if texts else ""
        )
        reason = reason_of(told).splitlines()[0] if told else "Dataflow gives no reason"
        return f"the job {self._job.id} failed: {reason}; what was committed stays, its log: {self._job.url}"

    def _asked(self, ask: Callable[[], Any]) -> Any:
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError

        try:
            return ask()
        except (GoogleAPICallError, GoogleAuthError, OSError) as error:
            raise RunError(
                f"lost sight of the job {self._job.id}, which goes on: {' '.join(str(error).split())[:300]}; "
                f"come back with: pixelbeam watch {self._job.output}"
            ) from error


class _Counts:
    """What a job has done so far, from its metrics."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._metrics: dict[str, int] = {}
        self._state = ""

    def take(self, metrics: dict[str, int], state: str) -> None:
        """Take over what the service says."""
        with self._lock:
            self._metrics = metrics
            self._state = state

    def snapshot(self) -> tuple[int, int, int]:
        """Images scored, of these failed, and images passed over, each counted once a variant."""
        with self._lock:
            failed = sum(value for name, value in self._metrics.items() if name.endswith("_failures"))
            return self._metrics.get("images", 0), failed, self._metrics.get("passed_over", 0)

    def words(self) -> str:
        """What else there is to say: the bottleneck, or what the job waits for."""
        with self._lock:
            seconds = {
                step: self._metrics.get(f"{step}_milliseconds", 0) / 1000
                for step in StepSeconds.__annotations__
            }
            if not self._metrics.get("images"):
                return f"the job is {self._state.lower()}, workers start within some minutes"
        return f"most time goes into {verdict.longest(StepSeconds(**seconds))}"

"""The Dataflow API on localhost for tests: Beam's DataflowRunner submits to it, polls it and cancels.

Jobs either go through a script of the test's, a step for each time that they are asked after, or are really executed:

    with dataflow_server.serve() as dataflow:
        dataflow.set(script=(Step("JOB_STATE_RUNNING"), Step("JOB_STATE_DONE")))
        dataflow.set(execution=Execution(worker=(python, "-I", "-m", SDK_WORKER)))
        ...  # a pipeline with the options in dataflow.options
        assert dataflow.job().state == "JOB_STATE_DONE"

By hand: `python -m tests.dataflow_server --port 9001`, and `DataflowServer("http://localhost:9001")` for its controls.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tests import loopback

SDK_WORKER = "apache_beam.runners.worker.sdk_worker_main"
"""The module that a worker of Beam's runs."""
DEADLINE_SECONDS = 120
SEEN_EVERY_SECONDS = 0.02


@dataclass(frozen=True)
class Message:
    """What the service tells about a job.

    Attributes:
        text: The message.
        importance: DEBUG, DETAILED, BASIC, WARNING or ERROR.
    """

    text: str
    importance: str = "BASIC"


@dataclass(frozen=True)
class Distribution:
    """The value of a distribution of whole numbers."""

    count: int
    sum: int
    min: int
    max: int


NOTHING = Distribution(0, 0, 0, 0)


@dataclass(frozen=True)
class Metric:
    """A user's counter or distribution.

    Attributes:
        namespace: Of Beam's `Metrics.counter(namespace, name)`.
        name: Likewise.
        step: Id of the transform in the staged pipeline; Beam's client shows any other text as it is.
        committed: What finished bundles counted.
        attempted: That and what those under way did; None: the same.
    """

    namespace: str
    name: str
    step: str
    committed: int | Distribution
    attempted: int | Distribution | None = None


@dataclass(frozen=True)
class Step:
    """What a job is in until it goes on.

    Attributes:
        state: JOB_STATE_...
        messages: Told from now on, besides those of earlier steps.
        metrics: Reported from now on, instead of those of earlier steps; None: these.
        polls: How often the job is asked after before it goes on to the next step.
    """

    state: str
    messages: tuple[Message, ...] = ()
    metrics: tuple[Metric, ...] | None = None
    polls: int = 1


@dataclass(frozen=True)
class Execution:
    """Jobs are executed: by Beam's FnApiRunner, with workers in processes of their own.

    Packages that were staged are there and whole, or the job fails; they are not installed.

    Attributes:
        worker: The command of a worker, such as (python, "-I", "-m", SDK_WORKER).
        environment: Variables for the workers besides those of this server: where Cloud Storage is and credentials.
        workers: Processes that share the bundles.
        attempts: How often a job whose bundle failed or whose worker died is begun; the real service says 4.
    """

    worker: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1
    attempts: int = 1


@dataclass(frozen=True)
class Settings:
    """What becomes of jobs and requests.

    Attributes:
        script: What each new job goes through; it stays in the last step. Empty: it waits for `move`.
        execution: How new jobs are executed; None: they follow the script.
        duplicates: What a second job gets by the name of an active one: "refused", a 409, or "existing", that job,
            as the service's documentation has it and as Beam's client expects where it sends a request id.
        page_size: Messages and jobs a page, where the client names no size.
        refusals: By kind of request (create, get, list, update, messages, metrics) the HTTP statuses that answer the
            next ones, instead of carrying them out.
    """

    script: tuple[Step, ...] = ()
    execution: Execution | None = None
    duplicates: str = "refused"
    page_size: int = 100
    refusals: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A job as the server has it.

    Attributes:
        id: As the client knows it.
        name: Likewise.
        project: Where it was submitted to.
        location: Likewise.
        state: JOB_STATE_...
        submitted: What the client sent: `environment` holds the worker pools and `sdkPipelineOptions`.
        messages: Their texts so far.
        metrics: As the API shows them, and `metric_updates` makes them.
        log: The last of what the processes of its execution wrote to stdout and stderr, the workers' logs among it.
    """

    id: str
    name: str
    project: str
    location: str
    state: str
    submitted: Mapping[str, Any]
    messages: tuple[str, ...]
    metrics: Sequence[Mapping[str, Any]]
    log: str

    @property
    def options(self) -> Mapping[str, Any]:
        """The pipeline options that workers get."""
        return self.submitted["environment"]["sdkPipelineOptions"]["options"]

    @property
    def pipeline_url(self) -> str:
        """Where the staged pipeline is: gs://..."""
        return self.options["pipelineUrl"]


class DataflowServer(loopback.Controls):
    """The controls of a server that runs at `url`, from whichever process."""

    @property
    def endpoint(self) -> str:
        """For `--dataflow_endpoint`: Beam speaks REST, and not gRPC, where it reads "localhost"."""
        return self.url.replace("127.0.0.1", "localhost")

    @property
    def options(self) -> list[str]:
        """Beam's options that lead DataflowRunner here; where it stages things is still to be said."""
        return [
            "--runner=DataflowRunner",
            "--project=project",
            "--region=us-central1",
            f"--dataflow_endpoint={self.endpoint}",
            "--no_auth",
        ]

    def set(self, **changes: Any) -> None:
        """Change some of `Settings` for the jobs and requests to come; the others stay."""
        settings = replace(Settings(), **changes)
        values = asdict(settings)
        values["script"] = [_step_json(step) for step in settings.script]
        self.control("set", **{name: values[name] for name in changes})

    def jobs(self) -> list[Job]:
        """All jobs, as they were created."""
        return [Job(**job | {"messages": tuple(job["messages"])}) for job in self.control("jobs")]

    def job(self) -> Job:
        """The only job."""
        (job,) = self.jobs()
        return job

    def move(self, step: Step) -> None:
        """Put the only job in a state by hand, with messages and metrics."""
        self.control("move", job_id=self.job().id, step=_step_json(step))

    def wait(self, *states: str) -> Job:
        """The only job, as soon as it is in one of these states."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (job := self.job()).state not in states:
            if time.monotonic() > deadline:
                raise AssertionError(f"it is in {job.state}, not in {states}: {job.messages}\n{job.log}")
            time.sleep(SEEN_EVERY_SECONDS)
        return job

    @property
    def requests(self) -> dict[str, int]:
        """How often each kind of request was made, refused ones included."""
        return self.control("requests")

    def reset(self) -> None:
        """Forget jobs, settings and requests; what is being executed ends."""
        self.control("reset")


def metric_updates(metric: Metric) -> list[dict[str, Any]]:
    """A metric as the service reports it: a committed and a tentative value, distributions also piece by piece."""
    attempted = metric.committed if metric.attempted is None else metric.attempted
    updates = []
    for value, tentative in ((metric.committed, {}), (attempted, {"tentative": "true"})):
        context = {"namespace": metric.namespace, "step": metric.step, **tentative}
        values: dict[str, Any] = {metric.name: {"scalar": value}}
        if isinstance(value, Distribution):
            values = {f"{metric.name}_{part.upper()}": {"scalar": getattr(value, part)} for part in PIECES}
            values[f"{metric.name}_MEAN"] = {"scalar": value.sum / max(value.count, 1)}
            values[metric.name] = {"distribution": asdict(value)}
        updates += [
            {"name": {"origin": "user", "name": name, "context": context}, **each}
            for name, each in values.items()
        ]
    return updates


PIECES = ("count", "min", "max")


def _step_json(step: Step) -> dict[str, Any]:
    metrics = None
    if step.metrics is not None:
        metrics = [update for metric in step.metrics for update in metric_updates(metric)]
    messages = [asdict(message) for message in step.messages]
    return {"state": step.state, "messages": messages, "metrics": metrics, "polls": step.polls}


@contextmanager
def serve(port: int = 0) -> Iterator[DataflowServer]:
    """A server in a process of its own, at a free port unless told; it ends with this process at the latest."""
    with loopback.serve("tests.dataflow_server", port) as url:
        yield DataflowServer(url)


def main() -> None:
    """Run a server until it is killed; the first line of stdout is its URL."""
    from tests.dataflow_service import Service

    loopback.main("The Dataflow API on localhost, with jobs in memory.", lambda _: Service().handle)


if __name__ == "__main__":
    main()

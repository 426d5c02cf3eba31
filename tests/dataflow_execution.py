"""The process that executes a job of the test server: the staged pipeline on FnApiRunner, with workers beside it.

The job comes as a line of JSON on stdin; when stdin is closed, this process group ends. Each line on stdout is a
report: the metrics so far, at last with the error, null where there is none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote
from urllib.request import urlopen

from apache_beam.metrics import monitoring_infos
from apache_beam.metrics.cells import DistributionResult
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability import portable_metrics
from apache_beam.runners.portability.fn_api_runner import fn_runner

from tests.dataflow_server import NOTHING, Distribution, Metric, metric_updates

PROGRESS_SECONDS = 0.2
Infos = list[Any]
Values = dict[tuple[str, str, str], int | Distribution]


class Reports:
    """What the server is told; safe to use from several threads.

    Args:
        stream: Where the server reads.
        steps: Id of each transform by its label, as Dataflow names a step.
    """

    def __init__(self, stream: TextIO, steps: Mapping[str, str]) -> None:
        self._stream = stream
        self._steps = steps
        self._lock = threading.Lock()
        self._committed: Infos = []
        self._under_way: dict[str, Infos] = {}

    def progress(self, bundle: str, infos: Infos) -> None:
        """What a bundle has counted so far; nothing is told of one that has not begun."""
        if infos:
            with self._lock:
                self._under_way[bundle] = infos
                self._tell(self._metrics())

    def commit(self, bundle: str | None, infos: Iterable[Any]) -> None:
        """A bundle has ended, and counted this."""
        with self._lock:
            self._under_way.pop(bundle or "", None)
            self._committed = list(monitoring_infos.consolidate([*self._committed, *infos]))
            self._tell(self._metrics())

    def end(self, error: str | None) -> None:
        """The last report."""
        with self._lock:
            self._tell({**self._metrics(), "error": error})

    def _metrics(self) -> dict[str, Any]:
        under_way = [info for infos in self._under_way.values() for info in infos]
        attempted = self._values([*self._committed, *under_way])
        committed = self._values(self._committed)
        metrics = []
        for (step, namespace, name), value in attempted.items():
            nothing = NOTHING if isinstance(value, Distribution) else 0
            before = committed.get((step, namespace, name), nothing)
            metrics.append(Metric(namespace, name, self._steps.get(step, step), before, value))
        return {"metrics": [update for metric in metrics for update in metric_updates(metric)]}

    def _values(self, infos: Infos) -> Values:
        counters, distributions, *_ = portable_metrics.from_monitoring_infos(
            monitoring_infos.consolidate(infos), user_metrics_only=True
        )
        return {
            (key.step, key.metric.namespace, key.metric.name): _value(value)
            for key, value in (*counters.items(), *distributions.items())
        }

    def _tell(self, report: Mapping[str, Any]) -> None:
        print(json.dumps(report), file=self._stream, flush=True)


def _value(value: int | DistributionResult) -> int | Distribution:
    if isinstance(value, DistributionResult):
        return Distribution(value.count, value.sum, value.min or 0, value.max or 0)
    return value


def report_bundles(reports: Reports) -> None:
    """Make FnApiRunner report what bundles count, while they are under way and when they end."""
    here = threading.local()

    class Requester(fn_runner.ProgressRequester):
        def __init__(self, worker: Any, bundle: str, frequency: float) -> None:
            here.bundle = bundle
            super().__init__(
                worker,
                bundle,
                frequency,
                lambda progress: reports.progress(bundle, list(progress.monitoring_infos)),
            )

    process_bundle = fn_runner.BundleManager.process_bundle

    def reported(*arguments: Any, **named: Any) -> Any:
        result, splits = process_bundle(*arguments, **named)
        # The requester was made in this thread, within that call.
        reports.commit(here.bundle, result.process_bundle.monitoring_infos)
        return result, splits

    fn_runner.ProgressRequester = Requester
    fn_runner.BundleManager.process_bundle = reported


def fetch(url: str) -> bytes:
    """An object of Cloud Storage."""
    bucket, _, name = url.removeprefix("gs://").partition("/")
    path = f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}?alt=media"
    with urlopen(os.environ["STORAGE_EMULATOR_HOST"] + path, timeout=60) as answer:
        return answer.read()


def staged_pipeline(options: Mapping[str, Any]) -> Any:
    """The pipeline that was staged; ValueError unless it and its packages are what was submitted."""
    content = fetch(options["pipelineUrl"])
    if hashlib.sha256(content).hexdigest() != options["pipelineProtoHash"]:
        raise ValueError("the staged pipeline is not the one that was submitted")
    pipeline = beam_runner_api_pb2.Pipeline.FromString(content)
    for environment in pipeline.components.environments.values():
        for package in environment.dependencies:
            if package.type_urn != common_urns.artifact_types.URL.urn:
                raise ValueError(f"a package is not in Cloud Storage: {package}")
            at = beam_runner_api_pb2.ArtifactUrlPayload.FromString(package.type_payload)
            if hashlib.sha256(fetch(at.url)).hexdigest() != at.sha256:
                raise ValueError(f"{at.url} is not what was staged")
    return pipeline


def execute(pipeline: Any, asked: Mapping[str, Any]) -> None:
    """Run a pipeline to its end with workers by the command that was asked for, which get the job's options."""
    for environment in pipeline.components.environments.values():
        environment.urn = python_urns.SUBPROCESS_SDK
        environment.payload = shlex.join(asked["worker"]).encode()
    options = Path("pipeline_options.json").absolute()
    options.write_text(json.dumps(asked["options"]))
    os.environ["PIPELINE_OPTIONS_FILE"] = str(options)
    runner = fn_runner.FnApiRunner(progress_request_frequency=PROGRESS_SECONDS)
    runner._num_workers = asked["workers"]
    runner.run_via_runner_api(pipeline, PipelineOptions([])).wait_until_finish()


def main() -> None:
    """Execute the job that stdin tells."""
    reported = os.fdopen(os.dup(1), "w")
    # Workers write to what they think is stdout.
    os.dup2(2, 1)
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    reports = Reports(reported, {})

    def worker_died(arguments: threading.ExceptHookArgs) -> None:
        # FnApiRunner would wait for its answer forever.
        reports.end(f"{arguments.exc_value}; the worker lost contact with the service.")
        os._exit(1)

    threading.excepthook = worker_died
    try:
        pipeline = staged_pipeline(asked["options"]["options"])
        steps = {each.unique_name: name for name, each in pipeline.components.transforms.items()}
        reports = Reports(reported, steps)
        report_bundles(reports)
        execute(pipeline, asked)
    except Exception as error:
        reports.end(str(error))
        raise
    reports.end(None)


def _end_with_stdin() -> None:
    sys.stdin.read()
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main()

"""A job is executed as it was staged."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import apache_beam as beam
import psutil
import pytest
from apache_beam.metrics.cells import DistributionData, DistributionResult
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

from tests import dataflow_execution
from tests.cloud import DEADLINE_SECONDS
from tests.dataflow_protocol.asking import Count
from tests.dataflow_server import SDK_WORKER, Execution
from tests.gcs_server import GcsServer

pytestmark = pytest.mark.full
HERE = (sys.executable, "-m", SDK_WORKER)
"""A worker with this interpreter and this tree."""


class TestExecuting:
    def test_the_pipeline_runs_in_workers_that_get_its_options(
        self, dataflow, cloud_environment, submit, tmp_path: Path
    ) -> None:
        dataflow.set(execution=Execution(HERE, cloud_environment, workers=2))

        def look(number: int) -> int:
            options = json.loads(Path(os.environ["PIPELINE_OPTIONS_FILE"]).read_text())["options"]
            (tmp_path / f"{number}").write_text(json.dumps([os.getpid(), options["job_name"]]))
            return number

        result = submit(
            beam.Reshuffle() | beam.ParDo(Count()) | beam.Map(look),
            "--job_name=look",
            numbers=tuple(range(8)),
        )
        assert result.wait_until_finish() == "DONE"
        seen = [json.loads((tmp_path / f"{number}").read_text()) for number in range(8)]
        assert {name for _, name in seen} == {"look"}
        assert len({pid for pid, _ in seen} - {os.getpid()}) == 2
        found = result.metrics().query()
        (elements,), (sizes,) = found["counters"], found["distributions"]
        assert (elements.committed, elements.attempted) == (8, 8)
        assert sizes.committed == DistributionResult(DistributionData(28, 8, 0, 7))
        assert elements.key.step == "Transform/ParDo(Count)"

    def test_a_bundle_that_raises_fails_the_job(self, dataflow, cloud_environment, submit) -> None:
        dataflow.set(execution=Execution(HERE, cloud_environment))
        result = submit(beam.ParDo(Count()), numbers=(1, -1))
        with pytest.raises(DataflowRuntimeException, match="ValueError: a negative element"):
            result.wait_until_finish()

    def test_workers_that_die_fail_the_job_after_as_many_attempts_as_it_has(
        self, dataflow, cloud_environment, submit
    ) -> None:
        dataflow.set(execution=Execution(("false",), cloud_environment, attempts=2))
        result = submit(beam.ParDo(Count()))
        with pytest.raises(DataflowRuntimeException, match="return code 1; the worker lost contact"):
            result.wait_until_finish()
        messages = dataflow.job().messages
        assert sum("lost contact" in message for message in messages) == 2
        assert "has failed 2 times" in messages[-1]

    def test_what_bundles_count_is_reported_on_the_way_and_cancelling_ends_them(
        self, dataflow, cloud_environment, submit, tmp_path: Path
    ) -> None:
        dataflow.set(execution=Execution(HERE, cloud_environment))

        def stay(number: int) -> None:
            (tmp_path / "pid").write_text(str(os.getpid()))
            while True:
                time.sleep(0.1)

        result = submit(beam.ParDo(Count()) | beam.Map(stay), numbers=(7,))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (counters := result.metrics().query()["counters"]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert [(each.committed, each.attempted) for each in counters] == [(0, 1)]
        assert result.state == "RUNNING"
        worker = psutil.Process(int((tmp_path / "pid").read_text()))
        result.cancel()
        dataflow.wait("JOB_STATE_CANCELLED")
        while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def test_a_pipeline_or_package_that_is_not_what_was_staged_is_not_executed(
        self, dataflow, gcs: GcsServer, submit
    ) -> None:
        submit(beam.ParDo(Count()))
        options = dataflow.job().options
        pipeline = dataflow_execution.staged_pipeline(options)
        (environment,) = pipeline.components.environments.values()
        (package,) = environment.dependencies
        assert package.type_urn == common_urns.artifact_types.URL.urn
        at = beam_runner_api_pb2.ArtifactUrlPayload.FromString(package.type_payload).url
        for url in (at, options["pipelineUrl"]):
            bucket, _, name = url.removeprefix("gs://").partition("/")
            gcs.put(bucket, name, b"another")
            with pytest.raises(ValueError, match="staged"):
                dataflow_execution.staged_pipeline(options)

"""The test server of the Dataflow API answers Beam's own client as the real one does, and executes what it is given."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import psutil
import pytest
from apache_beam.metrics import Metrics
from apache_beam.metrics.cells import DistributionData, DistributionResult
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow import dataflow_runner
from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult, DataflowRuntimeException
from apache_beam.runners.dataflow.internal.apiclient import (
    DataflowApplicationClient,
    DataflowJobAlreadyExistsError,
)
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import dataflow as api
from google.cloud.dataflow_v1beta3.types import jobs as job_types
from google.protobuf import struct_pb2

from tests import dataflow_execution
from tests.cloud import DEADLINE_SECONDS
from tests.dataflow_server import SDK_WORKER, DataflowServer, Distribution, Execution, Message, Metric, Step
from tests.gcs_server import GcsServer

pytestmark = pytest.mark.full

RUNNING, DONE, FAILED = (Step(f"JOB_STATE_{state}") for state in ("RUNNING", "DONE", "FAILED"))
HERE = (sys.executable, "-m", SDK_WORKER)
"""A worker with this interpreter and this tree."""
TRACEBACK = "Traceback (most recent call last):\nValueError: odd"


class Count(beam.DoFn):
    """Counts its elements, and raises where one is negative."""

    def process(self, element: int) -> list[int]:
        Metrics.counter("tests", "elements").inc()
        Metrics.distribution("tests", "sizes").update(element)
        if element < 0:
            raise ValueError("a negative element")
        return [element]


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beam's client asks after a job every five seconds."""
    clock = SimpleNamespace(time=time.time, sleep=lambda _: time.sleep(0.02))
    monkeypatch.setattr(dataflow_runner, "time", clock)


@pytest.fixture
def submit(dataflow: DataflowServer) -> Callable[..., DataflowPipelineResult]:
    """Submits a pipeline of some numbers and a transform."""

    def submit(transform: beam.PTransform, *options: str, numbers: tuple[int, ...] = (1, 2, 3)) -> Any:
        options = (*dataflow.options, "--temp_location=gs://out/tmp", *options)
        pipeline = beam.Pipeline(options=PipelineOptions(options))
        _ = pipeline | beam.Create(numbers) | "Transform" >> transform
        return pipeline.run()

    return submit


@pytest.fixture
def client(dataflow: DataflowServer) -> DataflowApplicationClient:
    """Beam's client without a pipeline."""
    return DataflowApplicationClient(PipelineOptions([*dataflow.options, "--temp_location=gs://out/tmp"]))


@pytest.fixture
def jobs(dataflow: DataflowServer) -> api.JobsV1Beta3Client:
    """The client that Beam's is made of."""
    options = ClientOptions(api_endpoint=dataflow.endpoint)
    return api.JobsV1Beta3Client(credentials=AnonymousCredentials(), client_options=options, transport="rest")


def a_job(name: str = "job", **fields: Any) -> api.Job:
    """A job that the service takes."""
    options = struct_pb2.Struct()
    options.update({"options": {"pipelineUrl": "gs://out/tmp/pipeline.pb"}})
    image = api.SdkHarnessContainerImage(container_image="image")
    environment = {
        "temp_storage_prefix": "storage.googleapis.com/out/tmp",
        "worker_pools": [api.WorkerPool(sdk_harness_container_images=[image])],
        "sdk_pipeline_options": options,
    }
    environment.update(fields.pop("environment", {}))
    identity = fields.pop("client_request_id", str(uuid.uuid4()))
    environment = api.Environment(**environment)
    return api.Job(name=name, client_request_id=identity, environment=environment, **fields)


def create(jobs: api.JobsV1Beta3Client, job: api.Job, location: str = "us-central1") -> api.Job:
    """Create a job in the project of the options."""
    return jobs.create_job(api.CreateJobRequest(project_id="project", location=location, job=job))


class TestSubmitting:
    def test_what_is_submitted_is_seen_and_what_is_staged_is_there(
        self, dataflow, gcs: GcsServer, submit
    ) -> None:
        result = submit(beam.ParDo(Count()), "--job_name=count", "--machine_type=n1-standard-4")
        job = dataflow.job()
        assert (job.id, job.name, job.project, job.location) == (
            result.job_id(),
            "count",
            "project",
            "us-central1",
        )
        (pool,) = job.submitted["environment"]["workerPools"]
        assert pool["machineType"] == "n1-standard-4"
        assert job.submitted["type"] == "JOB_TYPE_BATCH"
        assert job.options["temp_location"].startswith("gs://out/tmp/count.")
        assert json.dumps(job.options["sdk_worker_parallelism"]) == "1"
        bucket, _, name = job.pipeline_url.removeprefix("gs://").partition("/")
        pipeline = beam_runner_api_pb2.Pipeline.FromString(gcs.get(bucket, name))
        labels = {transform.unique_name for transform in pipeline.components.transforms.values()}
        assert "Transform" in labels
        assert dataflow.requests == {"create": 1}

    def test_a_second_job_by_the_name_of_an_active_one_is_refused(self, dataflow, jobs) -> None:
        first = create(jobs, a_job("twin"))
        with pytest.raises(exceptions.Conflict, match="already an active job named twin") as raised:
            create(jobs, a_job("twin"))
        assert raised.value.response.json()["error"]["status"] == "ALREADY_EXISTS"
        create(jobs, a_job("other"))
        create(jobs, a_job("twin"), location="europe-west4")
        jobs.update_job(
            api.UpdateJobRequest(
                project_id="project",
                location="us-central1",
                job_id=first.id,
                job=api.Job(requested_state=job_types.JobState.JOB_STATE_CANCELLED),
            )
        )
        with pytest.raises(exceptions.Conflict):
            create(jobs, a_job("twin"))
        for _ in range(2):
            jobs.get_job(api.GetJobRequest(project_id="project", location="us-central1", job_id=first.id))
        create(jobs, a_job("twin"))
        assert [(job.name, job.location) for job in dataflow.jobs()] == [
            ("twin", "us-central1"),
            ("other", "us-central1"),
            ("twin", "europe-west4"),
            ("twin", "us-central1"),
        ]

    def test_a_request_that_is_repeated_creates_one_job(self, dataflow, jobs) -> None:
        first = create(jobs, a_job(client_request_id="1"))
        assert create(jobs, a_job(client_request_id="1")).id == first.id
        assert len(dataflow.jobs()) == 1

    def test_as_documented_a_second_job_gets_the_first(self, dataflow, submit) -> None:
        dataflow.set(duplicates="existing")
        submit(beam.ParDo(Count()), "--job_name=twin")
        with pytest.raises(DataflowJobAlreadyExistsError, match="already active job named twin"):
            submit(beam.ParDo(Count()), "--job_name=twin")
        assert len(dataflow.jobs()) == 1

    @pytest.mark.parametrize(
        ("job", "location", "message"),
        [
            (a_job(""), "us-central1", "name is missing"),
            (a_job("Upper"), "us-central1", "does not match"),
            (a_job("ends-"), "us-central1", "does not match"),
            (a_job(), "us-middle1", "us-middle1 is not a region"),
            (a_job(environment={"temp_storage_prefix": ""}), "us-central1", "temporary location"),
            (
                a_job(environment={"sdk_pipeline_options": struct_pb2.Struct()}),
                "us-central1",
                "staged pipeline",
            ),
            (a_job(environment={"worker_pools": [api.WorkerPool()]}), "us-central1", "container image"),
        ],
    )
    def test_what_cannot_be_a_job_is_refused(
        self, dataflow, jobs, job: api.Job, location: str, message: str
    ) -> None:
        with pytest.raises(exceptions.BadRequest, match=message):
            create(jobs, job, location)
        assert dataflow.jobs() == []

    def test_more_workers_than_there_may_be_are_refused(self, dataflow, submit) -> None:
        with pytest.raises(exceptions.BadRequest, match="maxNumWorkers"):
            submit(beam.ParDo(Count()), "--num_workers=3", "--max_num_workers=2")

    def test_a_field_that_the_api_does_not_have_is_refused(self, dataflow) -> None:
        status, answer = ask(dataflow, "POST", "/jobs", {"name": "job", "colour": "red"})
        assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
        assert "colour" in answer["error"]["message"]

    def test_the_next_requests_of_a_kind_may_fail(self, dataflow, jobs) -> None:
        dataflow.set(refusals={"create": (429, 403)})
        for error in (exceptions.TooManyRequests, exceptions.Forbidden):
            with pytest.raises(error):
                create(jobs, a_job())
        create(jobs, a_job())
        assert dataflow.requests == {"create": 3}


class TestFollowing:
    def test_a_job_goes_through_its_script_a_step_a_poll(self, dataflow, submit) -> None:
        dataflow.set(script=(Step("JOB_STATE_QUEUED", polls=2), RUNNING, DONE))
        result = submit(beam.ParDo(Count()))
        assert dataflow.job().state == "JOB_STATE_PENDING"
        # Beam does not know that a job may be queued.
        assert [result.state for _ in range(5)] == ["UNRECOGNIZED", "UNRECOGNIZED", "RUNNING", "DONE", "DONE"]
        assert dataflow.requests["get"] == 4

    def test_a_job_waits_to_be_moved(self, dataflow, submit) -> None:
        result = submit(beam.ParDo(Count()))
        assert result.state == "PENDING"
        dataflow.move(Step("JOB_STATE_RUNNING", (Message("on it"),)))
        assert (result.state, dataflow.job().messages) == ("RUNNING", ("on it",))
        dataflow.move(DONE)
        assert result.wait_until_finish() == "DONE"
        dataflow.move(RUNNING)
        assert dataflow.job().state == "JOB_STATE_DONE"

    def test_messages_come_once_each_in_order_page_by_page(
        self, dataflow, submit, caplog: pytest.LogCaptureFixture
    ) -> None:
        importances = ("BASIC", "WARNING", "ERROR", "DEBUG", "DETAILED")
        first = tuple(Message(f"message {number}.", importances[number % 5]) for number in range(12))
        then = tuple(Message(f"message {number}.", "BASIC") for number in range(12, 15))
        dataflow.set(
            page_size=5,
            script=(
                Step("JOB_STATE_RUNNING", first, polls=3),
                Step("JOB_STATE_RUNNING", then, polls=2),
                DONE,
            ),
        )
        with caplog.at_level(logging.DEBUG, "apache_beam.runners.dataflow"):
            assert submit(beam.ParDo(Count())).wait_until_finish() == "DONE"
        told = [record for record in caplog.records if "JOB_MESSAGE_" in record.message]
        assert [int(record.message.split("message ")[1].rstrip(".")) for record in told] == list(range(15))
        assert [record.levelno for record in told[:5]] == [20, 30, 40, 10, 10]

    def test_messages_may_be_asked_for_by_importance_and_time(self, dataflow, client, submit) -> None:
        job_id = submit(beam.ParDo(Count())).job_id()
        dataflow.move(
            Step("JOB_STATE_RUNNING", tuple(Message(each, each) for each in ("BASIC", "WARNING", "ERROR")))
        )
        messages, token = client.list_messages(job_id)
        assert ([message.message_text for message in messages], token) == (["BASIC", "WARNING", "ERROR"], "")
        grave, _ = client.list_messages(job_id, minimum_importance="JOB_MESSAGE_WARNING")
        assert [message.message_text for message in grave] == ["WARNING", "ERROR"]
        late, _ = client.list_messages(job_id, start_time=messages[1].time)
        assert [message.message_text for message in late] == ["WARNING", "ERROR"]
        details, _ = client.list_messages(job_id, minimum_importance="JOB_MESSAGE_DETAILED")
        assert [message.message_text for message in details] == ["BASIC", "WARNING", "ERROR"]
        early, _ = client.list_messages(job_id, end_time=messages[1].time)
        assert [message.message_text for message in early] == ["BASIC"]
        request = api.ListJobMessagesRequest(
            project_id="project",
            location="us-central1",
            job_id=job_id,
            page_size=2,
            start_time=messages[0].time,
        )
        pages = client._messages_client.list_job_messages(request).pages
        assert [len(page.job_messages) for page in islice(pages, 3)] == [2, 1]

    def test_a_failed_job_is_an_error_with_the_workers_traceback(self, dataflow, submit) -> None:
        errors = (Message(TRACEBACK, "ERROR"), Message("Workflow failed. A work item was attempted", "ERROR"))
        dataflow.set(script=(RUNNING, Step("JOB_STATE_FAILED", errors)))
        result = submit(beam.ParDo(Count()))
        with pytest.raises(DataflowRuntimeException) as raised:
            result.wait_until_finish()
        assert str(raised.value) == f"Dataflow pipeline failed. State: FAILED, Error:\n{TRACEBACK}"
        assert result.state == "FAILED"

    def test_metrics_are_committed_and_attempted_by_the_labels_of_steps(self, dataflow, submit) -> None:
        metrics = (
            Metric("tests", "elements", "s1", committed=3, attempted=5),
            Metric("tests", "sizes", "s1", Distribution(2, 30, 10, 20), Distribution(3, 60, 10, 30)),
            Metric("others", "elements", "s2", committed=0),
        )
        dataflow.set(script=(Step("JOB_STATE_RUNNING", metrics=metrics, polls=2), DONE))
        result = submit(beam.ParDo(Count()))
        assert result.metrics().query()["counters"] == []
        assert result.state == "RUNNING"
        found = result.metrics().query()
        assert [
            (each.key.step, each.key.metric.namespace, each.committed, each.attempted)
            for each in found["counters"]
        ] == [
            ("s1", "tests", 3, 5),
            ("s2", "others", 0, 0),
        ]
        (sizes,) = found["distributions"]
        assert sizes.committed == DistributionResult(DistributionData(30, 2, 10, 20))
        assert sizes.attempted == DistributionResult(DistributionData(60, 3, 10, 30))
        (counter,) = result.metrics().query(MetricsFilter().with_namespace("others"))["counters"]
        assert counter.key.step == "s2"

    def test_a_cancelled_job_is_cancelling_for_a_while(self, dataflow, client, submit) -> None:
        dataflow.set(script=(RUNNING,))
        result = submit(beam.ParDo(Count()))
        assert result.state == "RUNNING"
        assert result.cancel() == "CANCELLING"
        assert result.state == "CANCELLED"
        with pytest.raises(exceptions.BadRequest, match="cannot be cancelled"):
            client.modify_job_state(result.job_id(), "JOB_STATE_CANCELLED")
        assert dataflow.job().state == "JOB_STATE_CANCELLED"

    def test_a_batch_job_cannot_be_drained(self, dataflow, client, submit) -> None:
        result = submit(beam.ParDo(Count()))
        with pytest.raises(exceptions.BadRequest, match="JOB_STATE_DRAINING"):
            client.modify_job_state(result.job_id(), "JOB_STATE_DRAINING")
        assert result.state == "PENDING"

    def test_jobs_are_listed_newest_first_page_by_page(self, dataflow, client, jobs) -> None:
        dataflow.set(page_size=2)
        created = [create(jobs, a_job(f"job-{number}")) for number in range(5)]
        request = api.ListJobsRequest(project_id="project", location="us-central1")
        assert [job.id for job in jobs.list_jobs(request)] == [job.id for job in reversed(created)]
        assert dataflow.requests["list"] == 3
        assert list(jobs.list_jobs(api.ListJobsRequest(project_id="project", location="us-east1"))) == []

    def test_an_unknown_job_or_method_is_not_found(self, dataflow, jobs) -> None:
        job = create(jobs, a_job())
        for project, location, name in (
            ("project", "us-central1", "other"),
            ("other", "us-central1", job.id),
            ("project", "us-east1", job.id),
        ):
            with pytest.raises(exceptions.NotFound):
                jobs.get_job(api.GetJobRequest(project_id=project, location=location, job_id=name))
        assert ask(dataflow, "DELETE", f"/jobs/{job.id}")[0] == 404


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


def ask(dataflow: DataflowServer, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    """An answer's status and JSON, below the location."""
    import requests

    url = f"{dataflow.endpoint}/v1b3/projects/project/locations/us-central1{path}"
    answer = requests.request(method, url, json=body, timeout=60)
    return answer.status_code, answer.json()

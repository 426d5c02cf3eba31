"""What is submitted is a job, or refused."""

from __future__ import annotations

import json

import apache_beam as beam
import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
from google.api_core import exceptions
from google.cloud import dataflow as api
from google.cloud.dataflow_v1beta3.types import jobs as job_types
from google.protobuf import struct_pb2

from tests.dataflow_protocol.asking import Count, a_job, ask, create
from tests.gcs_server import GcsServer

pytestmark = pytest.mark.full


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

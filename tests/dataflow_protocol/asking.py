"""Jobs, and requests that Beam's client does not make."""

from __future__ import annotations

import uuid
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from google.cloud import dataflow as api
from google.protobuf import struct_pb2

from tests.dataflow_server import DataflowServer, Step

RUNNING, DONE, FAILED = (Step(f"JOB_STATE_{state}") for state in ("RUNNING", "DONE", "FAILED"))


class Count(beam.DoFn):
    """Counts its elements, and raises where one is negative."""

    def process(self, element: int) -> list[int]:
        Metrics.counter("tests", "elements").inc()
        Metrics.distribution("tests", "sizes").update(element)
        if element < 0:
            raise ValueError("a negative element")
        return [element]


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


def ask(dataflow: DataflowServer, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    """An answer's status and JSON, below the location."""
    import requests

    url = f"{dataflow.endpoint}/v1b3/projects/project/locations/us-central1{path}"
    answer = requests.request(method, url, json=body, timeout=60)
    return answer.status_code, answer.json()

"""Beam's client and the one that it is made of, led to the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.dataflow import dataflow_runner
from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult
from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import dataflow as api

from tests.dataflow_server import DataflowServer


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

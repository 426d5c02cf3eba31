"""What is told of a job while it goes on and after."""

from __future__ import annotations

import logging
from itertools import islice

import apache_beam as beam
import pytest
from apache_beam.metrics.cells import DistributionData, DistributionResult
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException
from google.api_core import exceptions
from google.cloud import dataflow as api

from tests.dataflow_protocol.asking import DONE, RUNNING, Count, a_job, ask, create
from tests.dataflow_server import Distribution, Message, Metric, Step

pytestmark = pytest.mark.full
TRACEBACK = "Traceback (most recent call last):\nValueError: odd"


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

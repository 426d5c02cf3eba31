"""The process of the test server of the Dataflow API, which `tests.dataflow_server` starts: requests and executions."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.dataflow_jobs import Clock, Job, check_job, error_answer, read_job, state_name
from tests.dataflow_server import Execution, Settings
from tests.gcs_wire import Answer, ApiError, Asked, json_answer
from tests.loopback import CONTROL

JOBS = re.compile(
    r"/v1b3/projects/(?P<project>[^/]+)(/locations/(?P<location>[^/]+))?/jobs"
    r"(/(?P<job>[^/:]+)(/(?P<part>messages|metrics))?)?"
)
DEFAULT_LOCATION = "us-central1"
SHOWN = ("id", "name", "project", "location", "state", "submitted", "metrics", "log")
"""To the controls."""
LONGEST_REPORT = 1 << 26
"""Bytes of a line that an execution reports."""


class Service:
    """Answers clients; the controls are its methods named `control_...`."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._executions: set[asyncio.Task[None]] = set()
        self.control_reset()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request."""
        body = await request.content.read()
        asked = Asked.of(request.method, request.raw_path, request.headers, body)
        if asked.target.startswith(CONTROL):
            control = getattr(self, f"control_{asked.path[1]}")
            answer = json_answer(control(**asked.json()))
        else:
            answer = self._answer(asked)
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    def _answer(self, asked: Asked) -> Answer:
        match = JOBS.fullmatch("/" + "/".join(asked.path))
        kind = match and _kind_of(asked.method, match)
        if not match or not kind:
            return error_answer(404, f"{asked.method} {asked.target} is no method of this API.")
        self._requests[kind] += 1
        if refusals := self._refusals.get(kind):
            return error_answer(refusals.popleft(), "Refused as the test asked.")
        try:
            return json_answer(getattr(self, f"_{kind}")(asked, match))
        except ApiError as error:
            return error_answer(error.status, str(error))

    def _create(self, asked: Asked, match: re.Match[str]) -> dict[str, Any]:
        submitted = read_job(asked.json())
        project, location = match["project"], match["location"] or DEFAULT_LOCATION
        check_job(submitted, location, len(asked.body))
        for job in self._jobs.values():
            if (job.project, job.location, job.name) != (project, location, submitted["name"]):
                continue
            if submitted.get("clientRequestId", "") == job.submitted.get("clientRequestId"):
                # The same request, repeated because its answer was lost.
                return job.answer()
            if job.active and self._settings.duplicates == "existing":
                return job.answer()
            if job.active:
                raise ApiError(
                    409,
                    "(1a2b3c): The workflow could not be created. Causes: (4d5e6f): There is already an active job "
                    f"named {job.name}. If you want to submit a second job, try again by setting a different name.",
                )
        number = 1 + len(self._jobs)
        time = self._clock.now()
        job = Job(f"{time:%Y-%m-%d_%H_%M_%S}-{number:019d}", project, location, submitted, self._clock)
        self._jobs[job.id] = job
        # Each job has steps of its own, which it uses up.
        job.steps = deque(dict(step) for step in self._script)
        if self._settings.execution:
            self._begin(job, self._settings.execution)
        return job.answer()

    def _get(self, _: Asked, match: re.Match[str]) -> dict[str, Any]:
        job = self._find(match)
        job.step()
        return job.answer()

    def _list(self, asked: Asked, match: re.Match[str]) -> dict[str, Any]:
        location, wanted = match["location"] or DEFAULT_LOCATION, asked.query.get("filter", "ALL")
        chosen = [
            job.answer()
            for job in reversed(self._jobs.values())
            if (job.project, job.location) == (match["project"], location)
            and wanted in ("ALL", "ACTIVE" if job.active else "TERMINATED")
        ]
        start = int(asked.query.get("pageToken") or 0)
        end = start + (int(asked.query.get("pageSize") or 0) or self._settings.page_size)
        more = {"nextPageToken": str(end)} if end < len(chosen) else {}
        return {"jobs": chosen[start:end], **more}

    def _messages(self, asked: Asked, match: re.Match[str]) -> dict[str, Any]:
        return self._find(match).messages_answer(asked.query, self._settings.page_size)

    def _metrics(self, _: Asked, match: re.Match[str]) -> dict[str, Any]:
        return self._find(match).metrics_answer()

    def _update(self, asked: Asked, match: re.Match[str]) -> dict[str, Any]:
        job = self._find(match)
        requested = state_name(asked.json().get("requestedState", 0))
        if requested != "JOB_STATE_CANCELLED":
            raise ApiError(400, f"A batch job cannot be brought into {requested}.")
        if not job.active:
            raise ApiError(400, f"The job {job.id} is in {job.state} and cannot be cancelled.")
        job.cancel()
        return job.answer()

    def _find(self, match: re.Match[str]) -> Job:
        job = self._jobs.get(match["job"])
        place = (match["project"], match["location"] or DEFAULT_LOCATION)
        if job is None or (job.project, job.location) != place:
            raise ApiError(
                404, f"(1a2b3c): Information about job {match['job']} could not be found in our system."
            )
        return job

    def _begin(self, job: Job, execution: Execution) -> None:
        task = asyncio.get_running_loop().create_task(_execute(job, execution))
        self._executions.add(task)
        task.add_done_callback(self._executions.discard)
        job.end = task.cancel

    def control_reset(self) -> None:
        """Forget jobs, settings and requests."""
        for execution in self._executions:
            execution.cancel()
        self._clock = Clock()
        self._jobs = {}
        self._settings = Settings()
        self._script: list[dict[str, Any]] = []
        self._refusals: dict[str, deque[int]] = {}
        self._requests: Counter[str] = Counter()

    def control_set(self, **changes: Any) -> None:
        """Change the settings that are named."""
        if changes.get("execution"):
            changes["execution"] = Execution(**changes["execution"])
        self._script = changes.pop("script", self._script)
        if "refusals" in changes:
            self._refusals = {kind: deque(statuses) for kind, statuses in changes.pop("refusals").items()}
        self._settings = replace(self._settings, **changes)

    def control_jobs(self) -> list[dict[str, Any]]:
        """The fields of `tests.dataflow_server.Job` of each job."""
        return [
            {
                **{name: getattr(job, name) for name in SHOWN},
                "messages": [message["messageText"] for message in job.messages],
            }
            for job in self._jobs.values()
        ]

    def control_move(self, job_id: str, step: Mapping[str, Any]) -> None:
        """Put a job in a state, whatever its script says."""
        job = self._jobs[job_id]
        job.steps.clear()
        job.enter(step["state"], step["messages"], step["metrics"])

    def control_requests(self) -> dict[str, int]:
        """Requests by kind."""
        return self._requests


def _kind_of(method: str, match: re.Match[str]) -> str | None:
    if match["part"]:
        return match["part"] if method == "GET" else None
    if match["job"]:
        return {"GET": "get", "PUT": "update"}.get(method)
    return {"GET": "list", "POST": "create"}.get(method)


async def _execute(job: Job, execution: Execution) -> None:
    """Execute a job to its last state: DONE, FAILED, or CANCELLED where this task is cancelled."""
    job.tell("Worker pool started.")
    try:
        for _ in range(execution.attempts):
            error = await _attempt(job, execution)
            if error is None:
                job.enter("JOB_STATE_DONE", [{"text": "Worker pool stopped.", "importance": "BASIC"}])
                return
            job.tell(error, "ERROR")
        workflow_failed = (
            "Workflow failed. Causes: The job failed because a work item has failed "
            f"{execution.attempts} times. The work item was attempted on these workers: ..."
        )
        job.enter("JOB_STATE_FAILED", [{"text": workflow_failed, "importance": "ERROR"}])
    except asyncio.CancelledError:
        job.enter("JOB_STATE_CANCELLED", [{"text": "Worker pool stopped.", "importance": "BASIC"}])


async def _attempt(job: Job, execution: Execution) -> str | None:
    """Run a job's pipeline once, in a process group of its own; returns what went wrong, None for nothing."""
    with tempfile.TemporaryDirectory(prefix="dataflow-") as scratch:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.dataflow_execution"),
            cwd=scratch,
            env={
                **os.environ,
                **execution.environment,
                "PYTHONPATH": str(Path(__file__).parents[1]),
                "TMPDIR": scratch,
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=LONGEST_REPORT,
        )
        assert process.stdin
        assert process.stdout
        assert process.stderr
        logging = asyncio.ensure_future(_log(job, process.stderr))
        try:
            asked = {
                "options": job.submitted["environment"]["sdkPipelineOptions"],
                "worker": execution.worker,
                "workers": execution.workers,
            }
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            error: str | None = "the process of the execution died"
            async for line in process.stdout:
                report = json.loads(line)
                job.enter("JOB_STATE_RUNNING", metrics=report.get("metrics"))
                error = report.get("error", error)
            return error
        finally:
            # Nothing of it is left, workers neither.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            await logging


async def _log(job: Job, stream: asyncio.StreamReader) -> None:
    while text := await stream.read(1 << 16):
        job.write(text.decode(errors="replace"))

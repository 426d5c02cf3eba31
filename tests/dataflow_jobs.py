"""Jobs of the test server of the Dataflow API: which ones it takes, the states they go through, how it shows them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from google.cloud.dataflow_v1beta3.types import jobs as types
from google.cloud.dataflow_v1beta3.types import messages as message_types
from google.protobuf import json_format

from tests.gcs_wire import Answer, ApiError, json_answer

REGIONS = (
    *("africa-south1", "asia-east1", "asia-east2", "asia-northeast1", "asia-northeast2", "asia-northeast3"),
    *("asia-south1", "asia-south2", "asia-southeast1", "asia-southeast2", "australia-southeast1"),
    *("australia-southeast2", "europe-central2", "europe-north1", "europe-southwest1", "europe-west1"),
    *("europe-west2", "europe-west3", "europe-west4", "europe-west6", "europe-west8", "europe-west9"),
    *("europe-west10", "europe-west12", "me-central1", "me-central2", "me-west1", "northamerica-northeast1"),
    *("northamerica-northeast2", "southamerica-east1", "southamerica-west1", "us-central1", "us-east1"),
    *("us-east4", "us-east5", "us-south1", "us-west1", "us-west2", "us-west3", "us-west4"),
)
NAME = re.compile(r"[a-z]([-a-z0-9]{0,1022}[a-z0-9])?")
LARGEST_REQUEST = 10 << 20
"""Bytes; the service's limit of a job's graph."""
TERMINAL = {
    *("JOB_STATE_DONE", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_UPDATED", "JOB_STATE_DRAINED"),
}
STATUSES = {
    400: ("INVALID_ARGUMENT", "badRequest"),
    401: ("UNAUTHENTICATED", "authError"),
    403: ("PERMISSION_DENIED", "forbidden"),
    404: ("NOT_FOUND", "notFound"),
    409: ("ALREADY_EXISTS", "alreadyExists"),
    413: ("INVALID_ARGUMENT", "uploadTooLarge"),
    429: ("RESOURCE_EXHAUSTED", "rateLimitExceeded"),
    500: ("INTERNAL", "backendError"),
    503: ("UNAVAILABLE", "backendError"),
}
IMPORTANCES = ("IMPORTANCE_UNKNOWN", "DEBUG", "DETAILED", "BASIC", "WARNING", "ERROR")
LOG_CHARACTERS = 100_000


class Clock:
    """Times that only grow, so that no two messages have the same one."""

    def __init__(self) -> None:
        self._last = datetime.now(timezone.utc)

    def now(self) -> datetime:
        """The time, at least a millisecond after the last one."""
        now = max(datetime.now(timezone.utc), self._last + timedelta(milliseconds=1))
        self._last = now.replace(microsecond=now.microsecond // 1000 * 1000)
        return self._last


def text_of(time: datetime) -> str:
    """A time as the API writes it."""
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(eq=False)
class Job:
    """One job.

    Attributes:
        id: Given by the service.
        project: From the request's URL.
        location: Likewise.
        submitted: The request's body.
        clock: Where times come from.
        end: Ends the processes of its execution, so that it goes on to CANCELLED; None where it has none.
        state: JOB_STATE_...
        steps: What it goes through, a step for as often as it is asked after.
        messages: As the API shows them.
        metrics: Likewise, without their time.
        log: What its processes wrote.
    """

    id: str
    project: str
    location: str
    submitted: Mapping[str, Any]
    clock: Clock
    end: Callable[[], None] | None = None
    state: str = "JOB_STATE_PENDING"
    steps: deque[dict[str, Any]] = field(default_factory=deque)
    messages: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""

    def __post_init__(self) -> None:
        self.created = self.entered = self.clock.now()

    @property
    def name(self) -> str:
        """As the client called it."""
        return self.submitted["name"]

    @property
    def active(self) -> bool:
        """Whether it is not in one of the last states."""
        return self.state not in TERMINAL

    def enter(
        self,
        state: str,
        messages: Iterable[Mapping[str, str]] = (),
        metrics: list[dict[str, Any]] | None = None,
    ) -> None:
        """Go into a state, tell messages and, unless None, replace metrics; nothing leads out of a last state."""
        if not self.active:
            return
        if state != self.state:
            self.state, self.entered = state, self.clock.now()
        for message in messages:
            self.tell(message["text"], message["importance"])
        if metrics is not None:
            self.metrics = metrics

    def tell(self, text: str, importance: str = "BASIC") -> None:
        """Add a message."""
        time = text_of(self.clock.now())
        identity = {"id": f"msg-{len(self.messages) + 1}", "time": time}
        self.messages.append(
            {**identity, "messageText": text, "messageImportance": f"JOB_MESSAGE_{importance}"}
        )

    def write(self, text: str) -> None:
        """Add to the log, of which the end is kept."""
        self.log = (self.log + text)[-LOG_CHARACTERS:]

    def step(self) -> None:
        """Go on as the script says; called each time that the job is asked after."""
        if self.steps:
            step = self.steps[0]
            self.enter(step["state"], step.pop("messages", ()), step.pop("metrics", None))
            step["polls"] -= 1
            if step["polls"] < 1:
                self.steps.popleft()

    def cancel(self) -> None:
        """Begin to cancel; it is cancelled when its processes have ended, or a poll later."""
        self.enter("JOB_STATE_CANCELLING")
        self.tell("Cancel request is committed for workflow job.")
        self.steps.clear()
        if self.end:
            self.end()
        else:
            self.steps += [
                {"state": state, "polls": 1} for state in ("JOB_STATE_CANCELLING", "JOB_STATE_CANCELLED")
            ]

    def answer(self) -> dict[str, Any]:
        """The job as the API shows it, in its summary."""
        given = ("name", "type", "clientRequestId", "labels")
        return {
            **{field: self.submitted[field] for field in given if field in self.submitted},
            "id": self.id,
            "projectId": self.project,
            "location": self.location,
            "currentState": self.state,
            "currentStateTime": text_of(self.entered),
            "createTime": text_of(self.created),
            "startTime": text_of(self.created),
        }

    def messages_answer(self, query: Mapping[str, str], page_size: int) -> dict[str, Any]:
        """Messages from a time on, of an importance and above, page by page.

        A token says where to go on: Beam's client asks for the next page from the last message's time on.
        """
        least = _importance(query.get("minimumImportance", "JOB_MESSAGE_IMPORTANCE_UNKNOWN"))
        token, size = query.get("pageToken", ""), int(query.get("pageSize") or 0) or page_size
        start, end = _time(query.get("startTime", "")), _time(query.get("endTime", "~"))
        chosen = [
            (number, message)
            for number, message in enumerate(self.messages)
            if (number >= int(token) if token else message["time"] >= start)
            and message["time"] < end
            and _importance(message["messageImportance"]) >= least
        ]
        more = {"nextPageToken": str(chosen[size][0])} if size < len(chosen) else {}
        return {"jobMessages": [message for _, message in chosen[:size]], **more}

    def metrics_answer(self) -> dict[str, Any]:
        """All metrics, as of now."""
        time = text_of(self.clock.now())
        return {"metricTime": time, "metrics": [{**metric, "updateTime": time} for metric in self.metrics]}


def read_job(body: Mapping[str, Any]) -> dict[str, Any]:
    """A job as a client sends it, enums by name; ApiError where it has fields that the API does not know.

    Numbers that are whole are so for workers, too: Beam's client sends 0 as 0.0, which Beam's options do not take.
    """
    try:
        job = json_format.ParseDict(body, types.Job.pb()())
    except json_format.ParseError as error:
        raise ApiError(400, f"Invalid JSON payload received. {error}") from error
    return _whole(json_format.MessageToDict(job))


def check_job(job: Mapping[str, Any], location: str, size: int) -> None:
    """Raise ApiError for what the service refuses at once.

    Args:
        job: As it was sent.
        location: From the URL.
        size: Bytes of the request.
    """
    environment = job.get("environment", {})
    options = environment.get("sdkPipelineOptions", {}).get("options", {})
    pools = environment.get("workerPools", [{}])
    if size > LARGEST_REQUEST:
        raise ApiError(413, f"Request payload size exceeds the limit: {LARGEST_REQUEST} bytes.")
    if location not in REGIONS:
        raise _not_created(f"{location} is not a region of Dataflow.")
    if not job.get("name"):
        raise _not_created("The job name is missing.")
    if not NAME.fullmatch(job["name"]):
        raise _not_created(f"The job name {job['name']!r} does not match {NAME.pattern}.")
    if not str(options.get("pipelineUrl", "")).startswith("gs://"):
        raise _not_created("The staged pipeline is missing.")
    if not str(environment.get("tempStoragePrefix", "")).startswith("storage.googleapis.com/"):
        raise _not_created("The temporary location is missing or not in Cloud Storage.")
    for pool in pools:
        most = int(pool.get("autoscalingSettings", {}).get("maxNumWorkers", 0))
        if most and int(pool.get("numWorkers", 0)) > most:
            raise _not_created("numWorkers must be at most maxNumWorkers.")
        if not pool.get("sdkHarnessContainerImages"):
            raise _not_created("The container image of the workers is missing.")


def error_answer(status: int, message: str) -> Answer:
    """An error in the form of Google's APIs."""
    name, reason = STATUSES[status]
    error = {"message": message, "domain": "global", "reason": reason}
    return json_answer(
        {"error": {"code": status, "message": message, "status": name, "errors": [error]}}, status
    )


def state_name(state: str | int) -> str:
    """A state by name, which clients may give by number."""
    return state if isinstance(state, str) else types.JobState(state).name


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _not_created(cause: str) -> ApiError:
    return ApiError(400, f"(1a2b3c): The workflow could not be created. Causes: (4d5e6f): {cause}")


def _importance(importance: str) -> int:
    """The rank of JOB_MESSAGE_..., or of its number in digits; the numbers themselves are not in order."""
    if importance.isdigit():
        importance = message_types.JobMessageImportance(int(importance)).name
    return IMPORTANCES.index(importance.removeprefix("JOB_MESSAGE_"))


def _time(time: str) -> str:
    """A time with as many digits as those of messages, so that they compare as texts."""
    match = re.fullmatch(r"(.*:\d\d)(?:\.(\d{1,9}))?Z", time)
    return f"{match[1]}.{(match[2] or '')[:3].ljust(3, '0')}Z" if match else time

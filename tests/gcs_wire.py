"""Requests and answers of the test server, and the bodies that hold several parts."""

from __future__ import annotations

import email
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

JSON_TYPE = "application/json; charset=UTF-8"
BATCH_BOUNDARY = "batch_of_answers"


class ApiError(Exception):
    """A request that is answered with an HTTP status of 300 or more."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, eq=False)
class Asked:
    """One request.

    Attributes:
        method: GET, POST, ...
        target: Path and query as they were sent.
        path: The segments of the path, decoded.
        query: The parameters, decoded.
        headers: Whatever the case of a name, `get` finds it.
        body: All of it.
    """

    method: str
    target: str
    path: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def of(cls, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Asked:
        """A request for a path and query, percent-encoded."""
        path, _, query = target.partition("?")
        segments = tuple(unquote(segment) for segment in path.strip("/").split("/"))
        return cls(method, target, segments, dict(parse_qsl(query, keep_blank_values=True)), headers, body)

    def json(self) -> dict[str, Any]:
        """The body as JSON; empty where there is none."""
        return json.loads(self.body) if self.body.strip() else {}


@dataclass(frozen=True, eq=False)
class Answer:
    """A status, a body and headers."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def json_answer(value: Any, status: int = 200) -> Answer:
    """An answer of JSON."""
    return Answer(status, json.dumps(value).encode(), {"Content-Type": JSON_TYPE})


def error_answer(status: int, message: str) -> Answer:
    """An error in GCS's form; `message` must not contain "invalid", which gcsfs takes for a bad request."""
    reason = {"message": message, "domain": "global", "reason": f"status{status}"}
    return json_answer({"error": {"code": status, "message": message, "errors": [reason]}}, status)


def read_range(header: str | None, size: int) -> tuple[int | None, int]:
    """The first byte that a Range header asks for and the one behind the last; (None, size) where it asks for all."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if match is None or match[0] == "bytes=-":
        return None, size
    first, last = match.groups()
    start, end = int(first or 0), min(int(last or size) + 1, size)
    if not first:
        start, end = max(0, size - int(last)), size
    if start >= size:
        raise ApiError(416, "Requested range not satisfiable")
    return (start, end) if start < end else (None, size)


def read_batch(asked: Asked) -> list[tuple[str, Asked]]:
    """The Content-ID and the request of each part of a batch."""
    head = f"Content-Type: {asked.headers.get('Content-Type')}\n\n"
    requests = []
    for part in email.message_from_string(head + asked.body.decode()).get_payload():
        line, _, rest = part.get_payload().lstrip().partition("\n")
        method, url, _ = line.split()
        inner = email.message_from_string(rest)
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        requests.append(
            (part.get("Content-ID", ""), Asked.of(method, target, inner, inner.get_payload().encode()))
        )
    return requests


def batch_answer(answers: list[tuple[str, Answer]]) -> Answer:
    """The answers to a batch, in its order, in one."""
    parts = []
    for identity, answer in answers:
        content_id = f"Content-ID: <response-{identity.strip('<>')}>\r\n"
        headers = "".join(f"{key}: {value}\r\n" for key, value in answer.headers.items())
        parts.append(
            f"--{BATCH_BOUNDARY}\r\nContent-Type: application/http\r\n{content_id}\r\n"
            f"HTTP/1.1 {answer.status} Answer\r\n{headers}Content-Length: {len(answer.body)}\r\n\r\n"
            f"{answer.body.decode()}\r\n"
        )
    body = "".join(parts) + f"--{BATCH_BOUNDARY}--\r\n"
    return Answer(200, body.encode(), {"Content-Type": f"multipart/mixed; boundary={BATCH_BOUNDARY}"})

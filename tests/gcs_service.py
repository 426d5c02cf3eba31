"""The process of the test server: sockets, faults, counts and the controls; `tests.gcs_server` starts it."""

from __future__ import annotations

import asyncio
import base64
import mimetypes
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.gcs_api import Api, kind_of, request_key
from tests.gcs_faults import DOWNLOADING, READING, Faults, Schedule
from tests.gcs_objects import Bucket, hashes_of
from tests.gcs_server import Counts, Settings
from tests.gcs_wire import Answer, Asked, batch_answer, error_answer, json_answer, read_batch
from tests.loopback import CONTROL

CLOSE_BY_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 s: to close the socket sends RST."""


class Service:
    """Answers clients at the URL `origin`; the controls are its methods named `control_...`."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._in_flight = 0
        self.control_reset()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request."""
        try:
            body = await request.content.read()
            asked = Asked.of(request.method, request.raw_path, request.headers, body)
            if asked.target.startswith(CONTROL):
                control = getattr(self, f"control_{asked.path[1]}")
                return await _send(request, json_answer(control(**asked.json())), "")
            return await self._handle(request, asked)
        except ConnectionError:
            # The client went away; what it had not sent whole is not carried out.
            return web.Response()

    async def _handle(self, request: web.BaseRequest, asked: Asked) -> web.StreamResponse:
        self._in_flight += 1
        self._peak_in_flight = max(self._peak_in_flight, self._in_flight)
        try:
            await asyncio.sleep(self._latency_seconds(asked))
            return await _send(request, *self._answer_or_batch(asked))
        finally:
            self._in_flight -= 1

    def _latency_seconds(self, asked: Asked) -> float:
        of_list = self._settings.list_latency_seconds if kind_of(asked) == "list" else 0
        return self._settings.latency_seconds + of_list

    def _answer_or_batch(self, asked: Asked) -> tuple[Answer, str]:
        if kind_of(asked) != "batch":
            return self._answer(asked)
        answers = []
        for content_id, part in read_batch(asked):
            answer, fault = self._answer(part)
            # A part has no connection of its own to lose: it is answered as if something behind it had lost one.
            lost = fault in ("reset", "lost_answer")
            answers.append((content_id, error_answer(503, fault) if lost else answer))
        return batch_answer(answers), ""

    def _answer(self, asked: Asked) -> tuple[Answer, str]:
        kind = kind_of(asked)
        self._requests[kind] += 1
        if kind == "download":
            self._downloads["/".join(asked.path[-3::2])] += 1
        if kind == "token":
            # Another host's affair at Google.
            return self._api.answer(asked), ""
        if self._settings.outage:
            return error_answer(503, "We encountered an internal error. Please try again."), ""
        if kind in self._settings.deny or "all" in self._settings.deny:
            return error_answer(403, "The caller does not have permission, or it does not exist."), ""
        fault = self._schedule.next_fault(kind, request_key(asked)) if self._schedule.concerns(kind) else ""
        if fault.startswith("status_"):
            answer = error_answer(int(fault.removeprefix("status_")), fault)
        else:
            answer = Answer(503) if fault == "reset" else self._api.answer(asked)
        if fault in READING + DOWNLOADING and not (answer.body and answer.status in (200, 206)):
            fault = ""
        self._faults.update([fault] if fault else [])
        return answer, fault

    def control_reset(self) -> None:
        """Forget buckets, objects, settings and counts."""
        self._api = Api(self._origin)
        self._store = self._api.store
        self._settings = Settings()
        self._schedule = Schedule(self._settings.faults)
        self.control_reset_counts()

    def control_reset_counts(self) -> None:
        """Count from zero."""
        self._requests: Counter[str] = Counter()
        self._downloads: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._peak_in_flight = 0

    def control_counts(self) -> dict[str, Any]:
        """The fields of `Counts`."""
        return vars(Counts(self._requests, self._downloads, self._faults, self._peak_in_flight))

    def control_set(self, **changes: Any) -> None:
        """Change the settings that are named; the schedule of new faults begins at its start."""
        if "faults" in changes:
            changes["faults"] = Faults(**changes["faults"])
            self._schedule = Schedule(changes["faults"])
        self._settings = replace(self._settings, **changes)
        self._api.rewrite_bytes = self._settings.rewrite_bytes
        self._api.keys_a_page = self._settings.keys_a_page
        self._api.places = self._settings.places

    def control_create_bucket(self, bucket: str) -> None:
        """Make an empty bucket where there is none."""
        self._bucket(bucket)

    def control_put(self, bucket: str, name: str, content: str) -> int:
        """Store one object; `content` is base64."""
        stored = self._store.new(bucket, name, base64.b64decode(content), _fields(name))
        self._bucket(bucket).put(stored)
        return stored.generation

    def control_fill(self, bucket: str, pattern: str, count: int, contents: Sequence[str]) -> None:
        """Store objects that differ in name alone, but for turns of `contents`, base64."""
        several = [(content, hashes_of(content)) for content in map(base64.b64decode, contents)]
        fields = _fields(pattern)
        turns = islice(cycle(several), count)
        self._bucket(bucket).put_many(
            self._store.new(bucket, pattern.format(n), content, fields, hashes)
            for n, (content, hashes) in enumerate(turns)
        )

    def control_put_directory(self, directory: str, bucket: str, prefix: str) -> int:
        """Store the files below a local directory."""
        files = [path for path in sorted(Path(directory).rglob("*")) if path.is_file()]
        names = [prefix + path.relative_to(directory).as_posix() for path in files]
        self._bucket(bucket).put_many(
            self._store.new(bucket, name, path.read_bytes(), _fields(name))
            for name, path in zip(names, files, strict=True)
        )
        return len(files)

    def control_objects(self, bucket: str, prefix: str) -> list[str]:
        """Names in a bucket."""
        return self._store.bucket(bucket).names(prefix)

    def control_get(self, bucket: str, name: str) -> str:
        """An object's content, base64."""
        return base64.b64encode(self._store.find(bucket, name).content).decode()

    def control_delete(self, bucket: str, name: str) -> None:
        """Forget an object."""
        self._store.bucket(bucket).delete(name)

    def _bucket(self, name: str) -> Bucket:
        return self._store.buckets.setdefault(name, Bucket())


def _fields(name: str) -> dict[str, str | None]:
    return {"contentType": mimetypes.guess_type(name)[0]}


async def _send(request: web.BaseRequest, answer: Answer, fault: str) -> web.StreamResponse:
    body = answer.body
    half = len(body) // 2
    if fault in ("reset", "lost_answer"):
        _reset(request)
        return web.Response()
    if fault in READING:
        return await _send_half(request, answer, reset=fault == "reset_midway")
    if fault == "short":
        body = body[:half]
    if fault == "corrupted":
        body = body[:half] + bytes([body[half] ^ 0xFF]) + body[half + 1 :]
    response = web.Response(status=answer.status, body=body, headers=answer.headers)
    await response.prepare(request)
    await response.write_eof()
    return response


async def _send_half(request: web.BaseRequest, answer: Answer, *, reset: bool) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = len(answer.body)
    await response.prepare(request)
    await response.write(answer.body[: len(answer.body) // 2])
    if reset:
        # RST overtakes what the client has not yet read, the headers too.
        await asyncio.sleep(0.01)
        _reset(request)
    elif request.transport is not None:
        request.transport.close()
    return response


def _reset(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, CLOSE_BY_RESET
        )
        request.transport.abort()

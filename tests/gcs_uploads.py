"""Bodies of uploads to the test server: in one piece, with metadata before it, or in chunks."""

from __future__ import annotations

import email
import json
import re
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.gcs_wire import ApiError, Asked

QUANTUM = 1 << 18
"""Bytes: but for the last, a chunk is kept in multiples of this."""


@dataclass(eq=False)
class Session:
    """A resumable upload: what has come of it and, once it is whole, the object that it became."""

    name: str
    conditions: Mapping[str, str]
    fields: Mapping[str, Any]
    received: bytearray = field(default_factory=bytearray)
    resource: dict[str, Any] | None = None

    def receive(self, asked: Asked) -> bool:
        """Add a chunk, as far as it is new and is kept; returns whether the upload is whole."""
        sent = len(asked.body)
        header = asked.headers.get("Content-Range", f"bytes 0-{sent - 1}/{sent}")
        match = re.fullmatch(r"bytes (?:(\d+)-(-?\d+)|\*)/(\d+|\*)", header)
        if match is None:
            raise ApiError(400, f"Content-Range {header!r} is not understood.")
        first, last, total = match.groups()
        if first is not None:
            if int(last) + 1 - int(first) != sent or int(first) > len(self.received):
                raise ApiError(400, f"{header} does not fit {sent} bytes after {len(self.received)}.")
            self.received += asked.body[len(self.received) - int(first) :]
        if total != "*" and len(self.received) >= int(total):
            if len(self.received) > int(total):
                raise ApiError(400, f"{len(self.received)} bytes were sent of {total}.")
            return True
        del self.received[len(self.received) // QUANTUM * QUANTUM :]
        return False


class Uploads:
    """Resumable uploads by identity, which depends on the object and not on other uploads."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._started: Counter[tuple[str, str]] = Counter()

    def start(self, bucket: str, name: str, conditions: Mapping[str, str], fields: Mapping[str, Any]) -> str:
        """Begin an upload; returns its identity."""
        self._started[bucket, name] += 1
        identity = f"{zlib.crc32(f'{bucket}/{name}'.encode()):08x}-{self._started[bucket, name]}"
        self._sessions[identity] = Session(name, conditions, fields)
        return identity

    def find(self, identity: str) -> Session:
        """The upload, or a 404."""
        try:
            return self._sessions[identity]
        except KeyError:
            raise ApiError(404, "There is no such upload.") from None

    def cancel(self, identity: str) -> None:
        """Forget an upload."""
        self.find(identity)
        del self._sessions[identity]


def read_upload(asked: Asked) -> tuple[dict[str, Any], bytes]:
    """The fields that a request sets, and the content, which is empty for one that starts a resumable upload."""
    kind = asked.query.get("uploadType")
    if kind == "multipart":
        return _read_multipart(asked.body)
    if kind == "resumable":
        return {"contentType": asked.headers.get("X-Upload-Content-Type"), **asked.json()}, b""
    return {"contentType": asked.headers.get("Content-Type")}, asked.body


def _read_multipart(body: bytes) -> tuple[dict[str, Any], bytes]:
    # Lines end as the first one does: a content may begin or end with either sort of line end.
    first_line, _, _ = body.partition(b"\n")
    newline = b"\r\n" if first_line.endswith(b"\r") else b"\n"
    boundary = first_line.rstrip(b"\r")
    whole = body[len(first_line) + 1 : body.rindex(newline + boundary + b"--")]
    described, _, media = whole.partition(newline + boundary + newline)
    headers, _, content = media.partition(newline * 2)
    properties = json.loads(described.partition(newline * 2)[2])
    content_type = email.message_from_bytes(headers).get("Content-Type")
    return {"contentType": content_type, **properties}, content


def read_hashes(asked: Asked) -> dict[str, str]:
    """The checksums in X-Goog-Hash, named as an object's fields are."""
    parts = [part.strip().partition("=") for part in asked.headers.get("X-Goog-Hash", "").split(",")]
    return {"md5Hash" if key == "md5" else key: value for key, _, value in parts if key}

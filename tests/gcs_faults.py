"""What goes wrong at the test server, and when: the same for one seed, in whatever order requests come."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

ALWAYS = ("status_429", "status_503", "status_500", "status_408", "reset")
READING = ("reset_midway", "truncated")
DOWNLOADING = ("short", "corrupted")
WRITING = ("lost_answer",)
READS = ("bucket", "list", "metadata", "download")
"""Kinds of requests that change nothing."""


@dataclass(frozen=True)
class Faults:
    """How often requests fail, each rate between 0 and 1.

    Attributes:
        seed: Another seed, other requests that fail.
        status_429: Answered with 429 and not carried out; likewise 503, 500 and 408.
        reset: The connection is reset before the request is carried out.
        reset_midway: Reads only: the connection is reset within the body.
        truncated: Reads only: the connection is closed within the body; Content-Length is the whole's.
        short: Downloads only: the second half is missing; Content-Length agrees with what is sent.
        corrupted: Downloads only: a byte in the middle is another one; x-goog-hash is the right one's.
        lost_answer: Writes only: carried out, then the connection is reset.
        kinds: Only requests of these kinds fail; empty: of all kinds.
        max_consecutive: A request that failed so many times in a row gets through; None: no limit.
    """

    seed: int = 0
    status_429: float = 0.0
    status_503: float = 0.0
    status_500: float = 0.0
    status_408: float = 0.0
    reset: float = 0.0
    reset_midway: float = 0.0
    truncated: float = 0.0
    short: float = 0.0
    corrupted: float = 0.0
    lost_answer: float = 0.0
    kinds: tuple[str, ...] = ()
    max_consecutive: int | None = 3

    def __post_init__(self) -> None:
        for faults in (ALWAYS + READING + DOWNLOADING, ALWAYS + WRITING):
            rates = [self.rate(fault) for fault in faults]
            if min(rates) < 0 or sum(rates) > 1 + 1e-9:
                raise ValueError(f"rates must be at least 0 and at most 1 together, got {rates}")

    def rate(self, fault: str) -> float:
        """The rate of one fault by name."""
        return getattr(self, fault)


class Schedule:
    """Decides by the seed, the request and how often that request was made before."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._asked: Counter[str] = Counter()
        self._in_a_row: Counter[str] = Counter()

    def concerns(self, kind: str) -> bool:
        """Whether requests of this kind may fail."""
        chosen = not self._faults.kinds or kind in self._faults.kinds
        return chosen and any(self._faults.rate(fault) for fault in _possible(kind))

    def next_fault(self, kind: str, request_key: str) -> str:
        """The name of the fault that this request meets; empty where it meets none."""
        self._asked[request_key] += 1
        fault = self._draw(kind, request_key)
        if not fault or self._in_a_row[request_key] == self._faults.max_consecutive:
            self._in_a_row[request_key] = 0
            return ""
        self._in_a_row[request_key] += 1
        return fault

    def _draw(self, kind: str, request_key: str) -> str:
        text = f"{self._faults.seed} {self._asked[request_key]} {request_key}"
        drawn = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big") / 2**56
        for fault in _possible(kind):
            drawn -= self._faults.rate(fault)
            if drawn < 0:
                return fault
        return ""


def _possible(kind: str) -> tuple[str, ...]:
    if kind not in READS:
        return ALWAYS + WRITING
    return ALWAYS + READING + (DOWNLOADING if kind == "download" else ())

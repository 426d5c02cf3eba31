"""Asking a store again: which errors pass, how long to wait, how many requests to have in flight."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Generic, TypeVar

import aiohttp

Result = TypeVar("Result")

REQUESTS_AT_ONCE = 64
REQUESTS_AT_LEAST = 4
ATTEMPTS = 8
"""For a request that fails while others of the same store do not."""
OUTAGE_SECONDS = 600.0
"""How long a store that fails on everything is waited for."""
FIRST_WAIT_SECONDS = 0.05
LONGEST_WAIT_SECONDS = 16.0
SLOW_DOWN_SECONDS = 1.0
"""Refusals within a second were all sent before the first of them came back."""

_PASSING_STATUS = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
_REFUSING_STATUS = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_SLOW_DOWN_STATUS = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


class ShortRead(OSError):
    """What came is not what the store said it would send."""


class GaveUp(Exception):
    """A call that failed for the last time.

    Args:
        error: What was raised then.
        attempts: How often it was tried.
    """

    def __init__(self, error: Exception, attempts: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.attempts = attempts


def status_of(error: BaseException) -> int | None:
    """The HTTP status that a client library's error stands for, as gcsfs, aiohttp, botocore and azure tell it."""
    if isinstance(error, aiohttp.ClientError):
        # Broken payloads have a `code`, too, which no server sent.
        return error.status if isinstance(error, aiohttp.ClientResponseError) else None
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return status_in(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    for name in ("status", "code", "status_code"):
        status = status_in(getattr(error, name, None))
        if status is not None:
            return status
    cause = error.__cause__
    return status_of(cause) if cause else None


def status_in(value: object) -> int | None:
    """The HTTP status in a number or in its digits; None in anything else."""
    text = str(value)
    return int(text) if text.isdigit() and len(text) == 3 else None


def is_refusal(error: Exception) -> bool:
    """Whether the store will not say more to us: 401 or 403."""
    # gcsfs raises a bare OSError for 403.
    return (
        isinstance(error, PermissionError)
        or status_of(error) in _REFUSING_STATUS
        or str(error).startswith("Forbidden")
    )


def may_pass(error: Exception) -> bool:
    """Whether to ask again: after 408, 429 and 5xx but 501, what happens to a connection, and short reads."""
    if isinstance(error, _FINAL) or is_refusal(error):
        return False
    status = status_of(error)
    if status is not None:
        return status in _PASSING_STATUS or (
            status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED
        )
    return isinstance(error, (OSError, aiohttp.ClientError, asyncio.TimeoutError))


class Patience(Generic[Result]):
    """How one store is dealt with; to be used on one event loop only.

    Requests in flight follow additive increase, multiplicative decrease (Chiu and Jain, 1989): halved where the
    store says slow down, up by one after as many successes as there are in flight.
    """

    def __init__(self) -> None:
        self.limit = float(REQUESTS_AT_ONCE)
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._slowed_down = float("-inf")
        self._last_success = float("-inf")
        self._failing_since: float | None = None

    async def call(self, request: Callable[[], Awaitable[Result]]) -> tuple[Result, int]:
        """The request's result and the number of attempts that it took.

        Raises:
            GaveUp: With an error that will not pass, or that has not passed; or for a store in which nothing has
                worked for `OUTAGE_SECONDS`.
        """
        attempts = 0
        failing_since = None
        while True:
            attempts += 1
            try:
                result = await self._in_turn(request)
            except Exception as error:
                failing_since = failing_since or time.monotonic()
                if not may_pass(error) or self._is_over(failing_since, attempts):
                    raise GaveUp(error, attempts) from error
            else:
                return result, attempts
            longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**attempts)
            await asyncio.sleep(random.uniform(longest / 2, longest))

    def _is_over(self, failing_since: float, attempts: int) -> bool:
        if self._last_success > failing_since:
            return attempts >= ATTEMPTS
        return time.monotonic() - (self._failing_since or failing_since) > OUTAGE_SECONDS

    async def _in_turn(self, request: Callable[[], Awaitable[Result]]) -> Result:
        while self._in_flight >= self.limit:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                # Who was given a turn and takes it no more passes it on.
                self._wake()
                raise
        self._in_flight += 1
        try:
            result = await request()
        except Exception as error:
            self._count_failure(error)
            raise
        else:
            self._answered()
            self.limit = min(REQUESTS_AT_ONCE, self.limit + 1 / self.limit)
            return result
        finally:
            self._in_flight -= 1
            self._wake()

    def _count_failure(self, error: Exception) -> None:
        if not may_pass(error):
            self._answered()
            return
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if status_of(error) in _SLOW_DOWN_STATUS and now - self._slowed_down > SLOW_DOWN_SECONDS:
            self._slowed_down = now
            self.limit = max(REQUESTS_AT_LEAST, self.limit / 2)

    def _answered(self) -> None:
        self._last_success = time.monotonic()
        self._failing_since = None

    def _wake(self) -> None:
        free = int(self.limit) - self._in_flight
        while self._waiting and free > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1

"""Which errors are asked about again, how long, and how many requests are in flight."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
import requests
from gcsfs.retry import HttpError

from transforms import patience
from transforms.patience import GaveUp, Patience, ShortRead


def failing(error: Exception, times: int) -> Callable[[], Awaitable[str]]:
    """A request that fails so many times and then works."""
    left = [times]

    async def request() -> str:
        await asyncio.sleep(0)
        if left[0]:
            left[0] -= 1
            raise error
        return "result"

    return request


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was waited for, which takes no time."""
    waited: list[float] = []
    sleep = asyncio.sleep

    async def no_sleep(seconds: float) -> None:
        if seconds:
            waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr("transforms.patience.asyncio.sleep", no_sleep)
    return waited


PASSING = [
    HttpError({"code": 429, "message": "slow down"}),
    HttpError({"code": 503}),
    HttpError({"code": "500"}),
    HttpError({"code": 408}),
    requests.exceptions.ProxyError(),
    aiohttp.ClientPayloadError("cut"),
    ConnectionResetError(),
    asyncio.TimeoutError(),
    ShortRead("3 bytes came of 4"),
]
FINAL = [
    FileNotFoundError("x"),
    FileExistsError("x"),
    PermissionError("x"),
    OSError("Forbidden: https://x\nno"),
    HttpError({"code": 401}),
    HttpError({"code": 400}),
    HttpError({"code": 501}),
    ValueError("Bad Request"),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_may_pass_is_asked_again(error: Exception, waits: list[float]) -> None:
    assert asyncio.run(Patience().call(failing(error, 3))) == ("result", 4)
    assert len(waits) == 3


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_what_will_not_pass_is_not(error: Exception, waits: list[float]) -> None:
    with pytest.raises(GaveUp) as raised:
        asyncio.run(Patience().call(failing(error, 1)))
    assert (raised.value.error, raised.value.attempts) == (error, 1)
    assert waits == []


def test_waits_grow_and_differ(waits: list[float]) -> None:
    asyncio.run(Patience().call(failing(ConnectionResetError(), 12)))
    for number, waited in enumerate(waits, start=1):
        longest = min(patience.LONGEST_WAIT_SECONDS, patience.FIRST_WAIT_SECONDS * 2**number)
        assert longest / 2 <= waited <= longest
    assert len(set(waits)) == 12


@pytest.mark.parametrize("error", [None, FileNotFoundError("x")], ids=["others work", "others are not there"])
def test_a_request_that_fails_while_others_are_answered_is_given_up(
    error: Exception | None, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.patience.OUTAGE_SECONDS", 1.0)

    async def run() -> None:
        store: Patience[Any] = Patience()

        async def work() -> None:
            while True:
                with suppress(GaveUp):
                    await store.call(failing(error or ConnectionResetError(), 1 if error else 0))

        others = asyncio.create_task(work())
        try:
            await store.call(failing(ConnectionResetError(), 1000))
        finally:
            others.cancel()

    with pytest.raises(GaveUp) as raised:
        asyncio.run(run())
    assert raised.value.attempts == patience.ATTEMPTS


def test_a_store_in_which_nothing_works_is_waited_for_and_then_given_up_at_once(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("transforms.patience.time.monotonic", lambda: now[0])

    async def request() -> str:
        now[0] += 10.0
        raise ConnectionResetError

    async def run() -> tuple[int, int]:
        store: Patience[Any] = Patience()
        attempts = []
        for _ in range(2):
            with pytest.raises(GaveUp) as raised:
                await store.call(request)
            attempts.append(raised.value.attempts)
        return attempts[0], attempts[1]

    # Ten seconds a request: 600 s are over after the 62nd, and the next one is not waited for.
    assert asyncio.run(run()) == (62, 1)


def test_an_outage_that_ended_does_not_count(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1.0]
    monkeypatch.setattr("transforms.patience.time.monotonic", lambda: now[0])

    async def run() -> None:
        store: Patience[Any] = Patience()
        for _ in range(3):
            assert await store.call(failing(ConnectionResetError(), 1)) == ("result", 2)
            now[0] += 2 * patience.OUTAGE_SECONDS

    asyncio.run(run())


def test_requests_in_flight_are_limited_and_halved_where_the_store_says_slow_down(waits: list[float]) -> None:
    async def run() -> tuple[int, float, float]:
        store: Patience[Any] = Patience()
        in_flight, peak = [0], [0]

        async def request() -> None:
            in_flight[0] += 1
            peak[0] = max(peak[0], in_flight[0])
            for _ in range(5):
                await asyncio.sleep(0)
            in_flight[0] -= 1

        await asyncio.gather(*(store.call(request) for _ in range(500)))
        before = store.limit
        await asyncio.gather(*(store.call(failing(HttpError({"code": 503}), 1)) for _ in range(10)))
        return peak[0], before, store.limit

    peak, before, after = asyncio.run(run())
    assert peak == before == patience.REQUESTS_AT_ONCE
    # Once for all ten, and a little up again with each that then works.
    assert before / 2 <= after < before / 2 + 1


def test_the_limit_falls_no_further_than_to_four(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(step=2.0)
    monkeypatch.setattr("transforms.patience.time.monotonic", lambda: next(seconds))
    store: Patience[Any] = Patience()
    asyncio.run(store.call(failing(HttpError({"code": 503}), 20)))
    # And a quarter up again with the success.
    assert store.limit == patience.REQUESTS_AT_LEAST + 1 / patience.REQUESTS_AT_LEAST == 4.25


def test_who_waits_no_more_is_passed_over() -> None:
    async def run() -> list[str]:
        store: Patience[Any] = Patience()
        store.limit = 1.0
        gate = asyncio.Event()

        async def hold() -> str:
            await gate.wait()
            return "held"

        held = asyncio.create_task(store.call(hold))
        await asyncio.sleep(0)
        gone, last = (asyncio.create_task(store.call(failing(ValueError(), 0))) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        gate.set()
        return [result for result, _ in await asyncio.wait_for(asyncio.gather(held, last), 10)]

    assert asyncio.run(run()) == ["held", "result"]


def test_a_turn_that_was_given_and_is_not_taken_goes_on_to_the_next() -> None:
    async def run() -> str:
        store = Patience[str]()
        store.limit = 1.0
        over = asyncio.Event()

        async def hold() -> str:
            await over.wait()
            # So that the limit stays as it is.
            raise FileNotFoundError

        async def hold_and_cancel() -> None:
            with suppress(GaveUp):
                await store.call(hold)
            # In the turn of the loop in which it was woken.
            woken.cancel()

        held = asyncio.ensure_future(hold_and_cancel())
        await asyncio.sleep(0)
        woken, following = (asyncio.ensure_future(store.call(failing(OSError(), 0))) for _ in range(2))
        await asyncio.sleep(0)
        over.set()
        await held
        return (await asyncio.wait_for(following, timeout=30))[0]

    assert asyncio.run(run()) == "result"


def test_the_limit_grows_again(waits: list[float]) -> None:
    async def run() -> float:
        store: Patience[Any] = Patience()
        store.limit = 8.0
        for _ in range(64 * 64):
            await store.call(failing(ConnectionResetError(), 0))
        return store.limit

    assert asyncio.run(run()) == patience.REQUESTS_AT_ONCE


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (HttpError({"code": 503}), 503),
        (HttpError({"code": "429"}), 429),
        (type("Botocore", (Exception,), {"response": {"ResponseMetadata": {"HTTPStatusCode": 404}}})(), 404),
        (type("Azure", (Exception,), {"status_code": 500})(), 500),
        (ValueError("x"), None),
        (SystemExit(3), None),
    ],
)
def test_the_status_is_found_whatever_the_client(error: BaseException, status: int | None) -> None:
    assert patience.status_of(error) == status

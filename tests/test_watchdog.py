"""A call that does not come back ends the process; no other does."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from transforms.watchdog import EXIT_HUNG, Watchdog, watched

NEVER = 1e9


@pytest.fixture
def ended() -> list[str]:
    return []


@pytest.fixture
def watchdog(ended: list[str]) -> Watchdog:
    """Ticks only when it is told."""
    return Watchdog(NEVER, ended.append)


@pytest.fixture
def by_the_second(ended: list[str]) -> Watchdog:
    """A tick is a second, and only the test ticks."""
    watchdog = Watchdog(1.0, ended.append)
    watchdog._thread = threading.current_thread()
    return watchdog


def test_a_call_within_its_limit_is_left_alone(by_the_second: Watchdog, ended: list[str]) -> None:
    for _ in range(100):
        with by_the_second.watched(10, "the call"):
            for _ in range(10):
                by_the_second.tick(1.0)
    assert ended == []


def test_a_call_over_its_limit_is_named_once_among_others(by_the_second: Watchdog, ended: list[str]) -> None:
    with by_the_second.watched(60, "the slow one"), by_the_second.watched(5, "the hung one"):
        for _ in range(7):
            by_the_second.tick(1.0)
    assert ended == ["the hung one did not come back within 5 s"]


def test_a_call_that_raised_is_over(by_the_second: Watchdog, ended: list[str]) -> None:
    with pytest.raises(ValueError, match="ours"), by_the_second.watched(5, "the call"):
        raise ValueError("ours")
    for _ in range(100):
        by_the_second.tick(1.0)
    assert ended == []


def test_time_in_which_the_process_stood_still_does_not_count(
    by_the_second: Watchdog, ended: list[str]
) -> None:
    with by_the_second.watched(10, "the call"):
        by_the_second.tick(3600.0)
    assert ended == []


def test_calls_of_several_threads_are_watched_by_one(watchdog: Watchdog) -> None:
    before = threading.active_count()
    inside = threading.Barrier(9)

    def call() -> None:
        with watchdog.watched(5, "the call"):
            inside.wait(timeout=10)
            inside.wait(timeout=10)

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(call) for _ in range(8)]
        inside.wait(timeout=10)
        assert threading.active_count() == before + 8 + 1
        inside.wait(timeout=10)
        for each in calls:
            each.result()
    assert watchdog._limits == {}


def test_it_costs_microseconds() -> None:
    with watched(5, "the first starts the thread"):
        pass
    started = time.perf_counter()
    for _ in range(10_000):
        with watched(5, "the call"):
            pass
    assert (time.perf_counter() - started) / 10_000 < 100e-6


@pytest.mark.parametrize("hang", ["time.sleep(60)", "lock.acquire()"])
def test_a_process_that_hangs_is_ended_for_real(hang: str) -> None:
    code = f"""
import sys, threading, time
from transforms import watchdog
lock = threading.Lock()
lock.acquire()
watchdog.TICK_SECONDS = 0.05
def other():
    while True:
        with watchdog.watched(30, "another thread's call"):
            time.sleep(0.01)
threading.Thread(target=other).start()
with watchdog.watched(0.3, "the model"):
    {hang}
"""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == EXIT_HUNG
    assert done.stderr == "pixelbeam: the model did not come back within 0.3 s; run the same command again\n"
    assert time.monotonic() - started < 30

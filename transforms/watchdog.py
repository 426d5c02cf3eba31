"""A limit on calls that may never come back and that nothing can interrupt: those to the device."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

EXIT_HUNG = 75
"""Exit code of a process that was ended because a call did not come back."""

TICK_SECONDS = 1.0
STDERR = 2


class Watchdog:
    """One thread for all calls under way, which ends the process when one has taken too long.

    To begin and to end a call costs microseconds: the thread looks from time to time instead of being told. Time in
    which the whole process stood still, by Ctrl-Z for instance, does not count.

    Args:
        tick_seconds: How often to look.
        end: What to do with the line that says which call hung; it is called on the thread.
    """

    def __init__(self, tick_seconds: float, end: Callable[[str], None]) -> None:
        self._tick_seconds = tick_seconds
        self._end = end
        self._seconds = 0.0
        self._limits: dict[object, tuple[float, str]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watched(self, seconds: float, what: str) -> Iterator[None]:
        """End the process if the block takes longer; several threads may be inside at once.

        Args:
            seconds: At least so long it may take, and a few ticks more.
            what: What the call is, for the line.
        """
        call = object()
        with self._lock:
            # The present tick has run for a part already.
            limit = self._seconds + seconds + self._tick_seconds
            self._limits[call] = limit, f"{what} did not come back within {seconds:g} s"
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del self._limits[call]

    def tick(self, elapsed_seconds: float) -> None:
        """Count the time since the last tick; a tick that comes very late counts as two."""
        with self._lock:
            self._seconds += min(elapsed_seconds, 2 * self._tick_seconds)
            over = [line for limit, line in self._limits.values() if limit < self._seconds]
        if over:
            self._end(over[0])

    def _watch(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(self._tick_seconds)
            now = time.monotonic()
            self.tick(now - last)
            last = now


@contextmanager
def watched(seconds: float, what: str) -> Iterator[None]:
    """End this process with `EXIT_HUNG` and one line on stderr if the block takes longer than `seconds`.

    An exception would have nobody to raise it in: the thread that made the call is inside of it.
    """
    with _of_process().watched(seconds, what):
        yield


@cache
def _of_process() -> Watchdog:
    return Watchdog(TICK_SECONDS, _end_process)


def _end_process(line: str) -> None:
    # Python's own streams may be locked by the thread that hangs.
    os.write(STDERR, f"pixelbeam: {line}; run the same command again\n".encode())
    os._exit(EXIT_HUNG)

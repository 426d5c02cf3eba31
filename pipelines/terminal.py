"""Live lines for long work: what is being done, how much of it, how fast, and the time left.

They are on stderr, and only where that is a terminal. Lines that are open at once, in several threads or one within
the other, stand below each other.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TextIO, TypeVar

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

REFRESHES_A_SECOND = 4
BAR_WIDTH = 24
SLOWEST_RATE = 0.1
"""A second; what is slower is said in seconds each."""

T = TypeVar("T")


class Row(Protocol):
    """What a live line shows, asked for at each refresh."""

    def shown(self) -> tuple[str, float, float | None, str]:
        """What is being done, how much is done, of how much (None where that is not known), and all that in words."""
        ...


class Line:
    """A live line, to be used by `with`.

    Args:
        what: What is being done; may be changed on the way.
        noun: Of what there is so much, in the plural; empty for one long step.
        total: How much there is; None where that is not known.
        count: How much is done; where it is not given, `done` is counted up by whoever does it.
        clock: Seconds from any beginning.
    """

    def __init__(
        self,
        what: str,
        noun: str = "",
        total: float | None = None,
        count: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what = what
        self.done = 0.0
        self._noun = noun
        self._total = total
        self._count = count
        self._clock = clock
        self._started = clock()
        self._first: tuple[float, float] | None = None
        self._is_shown = False

    def __enter__(self) -> Line:
        self._is_shown = sys.stderr.isatty()
        if self._is_shown:
            _screen.add(self, sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown:
            _screen.remove(self)

    def shown(self) -> tuple[str, float, float | None, str]:
        """As `Row` says; the rate counts from the first that was done."""
        now, done = self._clock(), self._count() if self._count else self.done
        if not self._noun:
            return self.what, 0, None, rounded_duration(now - self._started)
        words = [f"{done:,.0f}{'' if self._total is None else f' of {self._total:,.0f}'} {self._noun}"]
        if done:
            self._first = self._first or (now, done)
            rate = (done - self._first[1]) / max(now - self._first[0], 1e-9)
            words += said_of(rate, self._noun, None if self._total is None else self._total - done)
        return self.what, done, self._total, ", ".join(words)


def tracked(items: Iterable[T], what: str, noun: str, total: int | None = None) -> Iterator[T]:
    """The items, counted on a live line as they come."""
    with Line(what, noun, total) as line:
        for item in items:
            yield item
            line.done += 1


def said_of(rate: float, noun: str, left: float | None) -> list[str]:
    """Rate and time left in words; what is not known is left out."""
    if not rate:
        return []
    speed = f"{rate:,.1f} {noun}/s" if rate >= SLOWEST_RATE else f"{rounded_duration(1 / rate)} each"
    return [speed, *([] if left is None else [f"{rounded_duration(left / rate)} left"])]


def rounded_duration(seconds: float) -> str:
    """`0 s`, `12 s`, `3 min`, `5 h 12 min`: what is refreshed as one looks has no more digits than one can read."""
    if seconds < 100:
        return f"{seconds:,.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60:02d} min"


class Screen:
    """The live lines of one terminal."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: tuple[Row, ...] = ()
        self._live: Live | None = None

    def add(self, row: Row, terminal: TextIO) -> None:
        """Show one more line, below the others."""
        with self._lock:
            self._rows = (*self._rows, row)
            if self._live is None:
                self._live = Live(
                    console=Console(file=terminal),
                    get_renderable=self._table,
                    refresh_per_second=REFRESHES_A_SECOND,
                    transient=True,
                    # What goes into a pipe or a file must not be shown instead.
                    redirect_stdout=sys.stdout.isatty(),
                )
                self._live.start()

    def remove(self, row: Row) -> None:
        """Show its end, and then no longer; after the last one the terminal is as it was."""
        with self._lock:
            if self._live is None:
                return
            self._live.refresh()
            self._rows = tuple(each for each in self._rows if each is not row)
            if not self._rows:
                self._live.stop()
                self._live = None

    def _table(self) -> Table:
        """All lines. Takes no lock: it is called by a thread that has the display's."""
        table = Table.grid(padding=(0, 1))
        for row in self._rows:
            what, done, total, words = row.shown()
            table.add_row(what, ProgressBar(total, done, BAR_WIDTH, pulse=total is None), words)
        return table


_screen = Screen()

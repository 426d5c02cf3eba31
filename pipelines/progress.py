"""What a person sees of a run: the live line and the final tables."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.table import Table

from pipelines.terminal import Screen, said_of
from transforms.changes import Changes
from transforms.fingerprints import VariantRun
from transforms.footers import Footer
from transforms.index import Index
from transforms.listing import Found
from transforms.paths import from_here
from transforms.records import StepSeconds
from transforms.tables import failures_directory, rows_directory

PLAIN_SECONDS = 10.0
PLAIN_WIDTH = 240


def stdout() -> Console:
    """Standard output; wide where it is no terminal, so that no line of a table is folded."""
    console = Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


class Live:
    """Shows a run's tally while it goes on: one live line on a terminal, plain lines elsewhere.

    Args:
        counts: The run's tally: `Tally.snapshot`, or what gives the same.
        n_images: Images in all.
        n_variants: Variants; an image is done when it is done for each.
        terminal: Where to show it.
        more: What else there is to say, asked for each time.
        clock: Seconds from any beginning.
    """

    def __init__(
        self,
        counts: Callable[[], tuple[int, int, int]],
        n_images: int,
        n_variants: int,
        terminal: TextIO,
        more: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counts = counts
        self._n_images = n_images
        self._n_variants = n_variants
        self._more = more
        self._terminal = terminal
        self._screen = Screen() if terminal.isatty() else None
        self._stopped = threading.Event()
        self._clock = clock
        self._first: tuple[float, float] | None = None
        self._thread = threading.Thread(target=self._print_lines, name="progress", daemon=True)

    def __enter__(self) -> Live:
        if self._screen:
            self._screen.add(self, self._terminal)
        else:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._screen:
            self._screen.remove(self)
        else:
            self._stopped.set()
            self._thread.join()

    def shown(self) -> tuple[str, float, float | None, str]:
        """As `terminal.Row` says."""
        done, words = self.state()
        return "running", done, self._n_images, f"{done:,.0f} of {self._n_images:,} images, {words}"

    def state(self) -> tuple[float, str]:
        """Images done, and in words the rate, the failures and the time left.

        The rate counts from the first images on, so that loading the modules does not make the end look far.
        """
        scored, failed, passed_over = (count / self._n_variants for count in self._counts())
        done, now = scored + passed_over, self._clock()
        more = self._more() if self._more else ""
        if not scored:
            return done, more or "loading the modules"
        self._first = self._first or (now, scored)
        rate = (scored - self._first[1]) / max(now - self._first[0], 1e-9)
        words = said_of(rate, "images", self._n_images - done)
        failures = f"{failed:,.0f} failed{' in this run' if passed_over else ''}"
        return done, ", ".join(filter(None, (*words[:1], failures, *words[1:], more)))

    def _print_lines(self) -> None:
        printed, said = 0.0, ""
        while not self._stopped.wait(PLAIN_SECONDS):
            done, words = self.state()
            if done > printed or (self._more and words != said):
                line = f"{done:,.0f} of {self._n_images:,} images, {words}"
                print(line, file=self._terminal, flush=True)
                printed, said = done, words


def counted(count: int, noun: str) -> str:
    """A number with its noun: `1 unit`, `2,000 units`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_listing(work: Index, changes: Changes, found: Found) -> None:
    """Say what listing found."""
    notes = [f"{counted(work.n_images, 'image')} in {counted(work.n_units, 'unit')}"]
    for count, what in (
        (changes.new, "new"),
        (changes.changed, "changed"),
        (changes.gone, "not listed any more"),
        (changes.duplicates, "listed twice"),
    ):
        if count:
            notes.append(f"{count:,} {what}")
    if found.ignored:
        notes.append(
            f"{counted(found.ignored, 'other file')} ignored (hidden, or without an image's extension)"
        )
    print(", ".join(notes), file=sys.stderr)


def print_summary(
    output: str, runs: tuple[VariantRun, ...], footers: dict[str, list[Footer]], run_id: str
) -> None:
    """Print the final table of each variant, computed from the footers of the rows files."""
    console = stdout()
    for run in runs:
        random = "[bold red], RANDOM WEIGHTS, the scores mean nothing[/]" if run.random_weights else ""
        console.print(f"\n[bold]{run.variant.name}[/]{random}", highlight=False, soft_wrap=True)
        table = Table(pad_edge=False, collapse_padding=True)
        for name in ("rows", "failures", "images/s", "fetch s", "decode s", "model s", "write s"):
            table.add_column(name, justify="left" if name == "failures" else "right")
        table.add_row(*_cells(footers[run.variant.name], run_id))
        console.print(table)
        places = [rows_directory(run.variant.directory)]
        if any(footer.failures for footer in footers[run.variant.name]):
            places.append(failures_directory(run.variant.directory))
        for place in places:
            console.print(
                f"{from_here(output)}/{place}/*.parquet", highlight=False, markup=False, soft_wrap=True
            )


def _cells(footers: list[Footer], run_id: str) -> list[str]:
    ours = [footer for footer in footers if footer.run == run_id]
    elapsed = max((f.finished for f in ours), default=0.0) - min((f.started for f in ours), default=0.0)
    images = sum(footer.rows + footer.failures for footer in ours)
    seconds = sum((footer.seconds for footer in footers), StepSeconds())
    reasons: Counter[str] = Counter()
    for footer in footers:
        reasons.update(footer.failures_by)
    failures = [
        f"{sum(reasons.values()):,}",
        *(f"{count:,} {reason}" for reason, count in reasons.most_common()),
    ]
    return [
        f"{sum(footer.rows for footer in footers):,}",
        "\n".join(failures),
        f"{images / elapsed:,.1f}" if elapsed > 0 else "–",
        *(f"{value:,.1f}" for value in (seconds.fetch, seconds.decode, seconds.model, seconds.write)),
    ]

"""What the footers say of the work: how many images came how far, where the time went, images a second."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.report.parts import Parts
from pipelines.verdict import PLACES, verdict
from transforms.footers import Footer
from transforms.records import StepSeconds

RATE_BINS = 60
LEAST_FILES_FOR_A_RATE = 4
"""Of fewer, images a second over time are a straight line."""
STEPS = (
    ("fetch", "fetched", "could not be fetched"),
    ("decode", "decoded", "could not be decoded"),
    ("infer", "rows", "could not be scored"),
)
"""Each with what those are that passed it, and the others."""


@dataclass(frozen=True)
class Stage:
    """How many images came so far.

    Attributes:
        name: What had been done to them.
        images: How many.
        lost: How many of the stage before are not among them.
        why: What the others met.
    """

    name: str
    images: int
    lost: int
    why: str


@dataclass(frozen=True)
class Reason:
    """Why images failed: a step, an error of that step, and how many."""

    step: str
    error: str
    images: int


@dataclass(frozen=True)
class Funnel:
    """From listed images to rows; `exact` is False where it was estimated from some of the footers."""

    stages: tuple[Stage, ...]
    reasons: tuple[Reason, ...]
    rows: int
    failures: int
    exact: bool


@dataclass(frozen=True)
class Share:
    """A part of the time, from 0 to 1, with its seconds."""

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class RunFacts:
    """What one run did for the variant.

    Attributes:
        name: The run's name, its start in UTC.
        images: That it did.
        seconds: From the first image that was asked for to the last one written.
        rate: Images a second.
    """

    name: str
    images: int
    seconds: float
    rate: float


@dataclass(frozen=True)
class Times:
    """Where the time of the largest run went.

    Attributes:
        runs: All runs that wrote some of the rows, the largest first.
        places: Where the chain of work was.
        threads: Seconds of the threads that fetched and decoded beside it.
        verdict: The bottleneck and what to change.
        rate: Images a second over the seconds since the run began; none where there are few files.
    """

    runs: tuple[RunFacts, ...]
    places: tuple[Share, ...]
    threads: tuple[Share, ...]
    verdict: str
    rate: tuple[tuple[float, float], ...]


def funnel(parts: Parts, images: int, units: int) -> Funnel:
    """How far the images of an index came.

    Args:
        parts: The variant's files.
        images: In the index.
        units: In the index.
    """
    met: Counter[str] = Counter()
    for footer in parts.footers:
        met.update(footer.failures_by)
    reasons = [_reason(name, round(count * parts.scale)) for name, count in met.most_common()]
    stages = [Stage("listed", images, 0, "")]
    done = min(images, _done(parts, images, units))
    if done < images:
        why = (
            "not done yet" if parts.units_done < units and not parts.unreadable else "not done, or unreadable"
        )
        stages.append(Stage("done so far", done, images - done, why))
    for step, name, why in STEPS:
        lost = sum(reason.images for reason in reasons if reason.step == step)
        stages.append(Stage(name, stages[-1].images - lost, lost, why))
    failures = sum(reason.images for reason in reasons)
    return Funnel(tuple(stages), tuple(reasons), stages[-1].images, failures, parts.is_whole)


def _reason(name: str, images: int) -> Reason:
    step, _, error = name.partition(": ")
    return Reason(step, error, images)


def _done(parts: Parts, images: int, units: int) -> int:
    """Images in the units that are done, as the footers say; where all are done a sample of them tells no more."""
    if parts.units_done == units and not parts.unreadable and not parts.is_whole:
        return images
    return round(sum(footer.rows + footer.failures for footer in parts.footers) * parts.scale)


def times(parts: Parts, precision: str) -> Times:
    """Where the time went in the run that did most, and what every run did."""
    by_run: dict[str, list[Footer]] = defaultdict(list)
    # A further round is a run's own, and so are its seconds and images.
    for unit in parts.units:
        for part in unit.parts:
            by_run[part.footer.run].append(part.footer)
    runs = sorted((_facts(run, its, parts.scale) for run, its in by_run.items()), key=lambda run: -run.images)
    if not runs:
        return Times((), (), (), "", ())
    of_largest = by_run[runs[0].name]
    seconds = sum((footer.seconds for footer in of_largest), StepSeconds())
    return Times(
        runs=tuple(runs),
        places=_shares({PLACES[name]: getattr(seconds, name) for name in PLACES}, parts.scale),
        threads=_shares({"fetching": seconds.fetch, "decoding": seconds.decode}, parts.scale),
        verdict=verdict(of_largest, runs[0].name, precision),
        rate=tuple(rate(of_largest, parts.scale)),
    )


def _facts(run: str, footers: Sequence[Footer], scale: float) -> RunFacts:
    images = round(sum(footer.rows + footer.failures for footer in footers) * scale)
    seconds = max(footer.finished for footer in footers) - min(footer.started for footer in footers)
    return RunFacts(run, images, seconds, images / seconds if seconds > 0 else 0.0)


def _shares(seconds: dict[str, float], scale: float) -> tuple[Share, ...]:
    whole = sum(seconds.values()) or 1.0
    return tuple(Share(name, value * scale, value / whole) for name, value in seconds.items())


def rate(footers: Sequence[Footer], scale: float) -> list[tuple[float, float]]:
    """Images a second over the seconds since a run began, each unit's spread evenly over its own time.

    Args:
        footers: Of the run.
        scale: What to multiply by, where they are a sample.

    Returns:
        Seconds at which a bin begins, and the images a second in it; the end at last. None of few footers.
    """
    if len(footers) < LEAST_FILES_FOR_A_RATE:
        return []
    began = min(footer.started for footer in footers)
    starts = np.array([footer.started - began for footer in footers])
    ends = np.maximum(np.array([footer.finished - began for footer in footers]), starts + 1e-3)
    images = np.array([footer.rows + footer.failures for footer in footers], float) * scale
    edges = np.linspace(0, ends.max(), min(RATE_BINS, 2 * len(footers)) + 1)
    done = ((np.clip(edges[:, None], starts, ends) - starts) / (ends - starts)) @ images
    rates = np.diff(done) / np.diff(edges)
    return [*zip(edges[:-1].tolist(), rates.tolist(), strict=True), (float(edges[-1]), float(rates[-1]))]

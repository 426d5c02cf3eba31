"""What a classifier said: its most frequent classes, how sure it was, and the images at both ends."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.report.rows import Image

CLASSES = 15
BINS = 25
EXTREMES = 12


@dataclass(frozen=True)
class ClassCount:
    """A class, and how many of the sampled images it is the best one of."""

    label: str
    images: int
    share: float


@dataclass(frozen=True)
class Bin:
    """How many of the sampled values lie from `low` to `high`."""

    low: float
    high: float
    images: int


@dataclass(frozen=True)
class Scores:
    """What a classifier said of the sampled images.

    Attributes:
        classes: The most frequent best classes.
        n_classes: Best classes in all.
        confidence: Probabilities of the best class.
        median: Of them.
        least: The images of which the model was least sure, the worst first.
        most: The images of which it was most sure, the best first.
    """

    classes: tuple[ClassCount, ...]
    n_classes: int
    confidence: tuple[Bin, ...]
    median: float
    least: tuple[Image, ...]
    most: tuple[Image, ...]


def scores(images: Sequence[Image]) -> Scores | None:
    """What the best classes of images say; None where there are none."""
    scored = [(image, image.top) for image in images if image.top is not None]
    if not scored:
        return None
    counts = Counter(top.label for _, top in scored)
    probabilities = np.array([top.probability for _, top in scored])
    order = np.argsort(probabilities, kind="stable")
    ends = min(EXTREMES, len(scored) // 2 or 1)
    return Scores(
        classes=tuple(
            ClassCount(label, count, count / len(scored)) for label, count in counts.most_common(CLASSES)
        ),
        n_classes=len(counts),
        confidence=tuple(bins(probabilities, 0.0, _upper(float(probabilities.max())), BINS)),
        median=float(np.median(probabilities)),
        least=tuple(scored[place][0] for place in order[:ends]),
        most=tuple(scored[place][0] for place in order[::-1][:ends]),
    )


def bins(values: np.typing.NDArray[np.floating], low: float, high: float, count: int) -> list[Bin]:
    """How many of the values lie in each of `count` equal parts from `low` to `high`."""
    counts, edges = np.histogram(values, count, (low, high))
    return [
        Bin(float(start), float(end), int(images))
        for start, end, images in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _upper(most: float) -> float:
    """Where an axis of probabilities ends: 1, or where all are small the next of 0.5, 0.2, 0.1, 0.05, ..."""
    if most > 0.5:
        return 1.0
    power = 10.0 ** math.floor(math.log10(max(most, 1e-6)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= most)

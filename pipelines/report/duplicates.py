"""Images that are the same, by their bytes or nearly by their features."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.report.rows import Image
from transforms.records import FloatArray

GROUPS = 8
"""That are shown."""


@dataclass(frozen=True)
class Group:
    """Images that are the same, or nearly so."""

    images: tuple[Image, ...]


@dataclass(frozen=True)
class Duplicates:
    """Groups of images, the largest first.

    Attributes:
        groups: A few of them.
        n_groups: How many there are.
        n_images: Images in all of them.
        compared: Images that were compared with each other.
    """

    groups: tuple[Group, ...]
    n_groups: int
    n_images: int
    compared: int


def near_duplicates(images: Sequence[Image], values: FloatArray, most: float) -> Duplicates:
    """Groups of images of different files, each at most `most` from the first of its group."""
    groups = [Group(tuple(images[place] for place in its)) for its in gathered(distances(values) <= most)]
    return _largest(groups, len(images))


def different(images: Sequence[Image]) -> list[int]:
    """Places of the images without those whose file is equal to one before."""
    first = {image.sha256: place for place, image in reversed(list(enumerate(images)))}
    return sorted(first.values())


def distances(values: FloatArray) -> FloatArray:
    """All distances `[n, n]` of vectors `[n, n_features]`."""
    # As differences of squares they are exact only where the mean is near 0.
    values = values - values.mean(axis=0)
    squares = np.einsum("ij,ij->i", values, values)
    squared = squares[:, None] + squares - 2 * values @ values.T
    return np.sqrt(np.maximum(squared, 0, out=squared), out=squared)


def gathered(close: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Groups of nodes, each close to its first one, which is the one that is close to most; none is in two groups.

    Not whole chains: in a dense cloud everything is close to something.

    Args:
        close: Symmetric, `[n, n]`, each node close to itself.
    """
    free = np.ones(len(close), bool)
    counts = close.sum(axis=1)
    groups = []
    while counts.max(initial=0) > 1:
        leader = int(counts.argmax())
        group = np.flatnonzero(close[leader] & free)
        groups.append([leader, *group[group != leader].tolist()])
        free[group] = False
        counts -= close[:, group].sum(axis=1)
        counts[group] = 0
    return groups


def equal_contents(images: Sequence[Image]) -> Duplicates:
    """Groups of images whose files are equal byte by byte."""
    by_hash: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        by_hash[image.sha256].append(image)
    return _largest([Group(tuple(its)) for its in by_hash.values() if len(its) > 1], len(images))


def _largest(groups: Sequence[Group], compared: int) -> Duplicates:
    ordered = sorted(groups, key=lambda group: -len(group.images))
    return Duplicates(
        tuple(ordered[:GROUPS]), len(groups), sum(len(group.images) for group in groups), compared
    )

"""What feature vectors say: a map in two dimensions, neighbours, and whether they are sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipelines.report import sampling
from pipelines.report.duplicates import Duplicates, different, near_duplicates
from pipelines.report.rows import Image, Rows
from pipelines.report.scores import Bin, bins
from transforms.records import FloatArray

QUERIES = 6
NEIGHBOURS = 6
NEAR = 0.1
"""Nearer than this part of the usual distance are near duplicates."""
SAME = 1e-5
"""Less than this, as a part of the vectors' length, is what another batch makes of the same image."""
PAIRS = 20_000
"""Random ones, which tell the usual distance."""
BLOCK = 1024
"""Rows whose distances to all others are held at a time."""
NORM_BINS = 30
LARGEST = 1e14
"""Sums of the squares of smaller values are still float32's: of 10,000 vectors of 100,000 values."""


@dataclass(frozen=True)
class Health:
    """Whether feature vectors are sound.

    Attributes:
        rows: Vectors that were looked at.
        dimensions: Of each.
        dead: Dimensions that have the same value in every one.
        not_finite: Vectors with NaN, infinity, or a value of `LARGEST` or more.
        least, median, most: Of their norms.
        norms: How these are distributed; none where they are all alike.
    """

    rows: int
    dimensions: int
    dead: int
    not_finite: int
    least: float
    median: float
    most: float
    norms: tuple[Bin, ...]


@dataclass(frozen=True)
class Point:
    """An image at its place on the map."""

    image: Image
    x: float
    y: float


@dataclass(frozen=True)
class Map:
    """The two directions in which the features differ most.

    Attributes:
        points: The images, in the order in which `sampling.pick` prefers them.
        explained: The part of the variance that each direction has.
    """

    points: tuple[Point, ...]
    explained: tuple[float, float]


@dataclass(frozen=True)
class Near:
    """Another image, and how far it is: 0 is the same, 1 as far as two different ones usually are."""

    image: Image
    distance: float


@dataclass(frozen=True)
class Neighbours:
    """An image and those next to it."""

    image: Image
    nearest: tuple[Near, ...]


@dataclass(frozen=True)
class Features:
    """What the features of the sampled rows say.

    Attributes:
        health: Whether they are sound.
        map: None where there is none to be had.
        neighbours: None as well, with `near`.
        near: Images that are nearly the same.
        compared: Images that these two are of: of each file one, with sound features.
        lacking: Why there is no map, or else why there are no neighbours; empty where all is there.
    """

    health: Health
    map: Map | None = None
    neighbours: tuple[Neighbours, ...] = ()
    near: Duplicates | None = None
    compared: int = 0
    lacking: str = ""


def features(rows: Rows) -> Features | None:
    """What the features say; None where the module has none, or there is no row."""
    if rows.features is None:
        return None
    found = Features(health(rows.features))
    sound = np.flatnonzero(_sound(rows.features))
    values, images = rows.features[sound], [rows.images[place] for place in sound]
    if len(images) < 3:
        return replace(found, lacking="Fewer than three images have sound features")
    # The copies of a file would make any distance that is usual among them, and be each other's neighbours.
    unlike = different(images)
    if len(unlike) == 1:
        return replace(found, lacking="These images are copies of one file")
    if np.ptp(values, axis=0).max() <= SAME * np.abs(values).max():
        return replace(found, lacking="The features of all these images are the same")
    found = replace(found, map=pca_map(images, values))
    chosen = sampling.pick(unlike, sampling.FEATURE_ROWS, lambda place: images[place].uri)
    return _compared(found, [images[place] for place in chosen], directions(values[chosen]))


def _compared(found: Features, images: Sequence[Image], values: FloatArray) -> Features:
    """What is found, with the neighbours of different images by directions `[n, n_features]`, n at least 2."""
    usual = usual_distance(values)
    if usual <= SAME:
        return replace(found, lacking="Most pairs of different images have features of the same direction")
    places, distances = nearest(values, min(NEIGHBOURS, len(images) - 1))
    return replace(
        found,
        neighbours=_neighbours(images, places, distances / usual),
        near=near_duplicates(images, values, NEAR * usual),
        compared=len(images),
    )


def health(values: FloatArray) -> Health:
    """Norms and dead dimensions of feature vectors `[n, n_features]`."""
    finite = values[_sound(values)]
    norms = np.linalg.norm(finite, axis=1) if len(finite) else np.zeros(1)
    low, high = float(norms.min()), float(norms.max())
    dead = int((finite.min(axis=0) == finite.max(axis=0)).sum()) if len(finite) > 1 else 0
    return Health(
        rows=len(values),
        dimensions=values.shape[1],
        dead=dead,
        not_finite=len(values) - len(finite),
        least=low,
        median=float(np.median(norms)),
        most=high,
        norms=tuple(bins(norms, low, high, NORM_BINS)) if high - low > 1e-6 * high else (),
    )


def _sound(values: FloatArray) -> npt.NDArray[np.bool_]:
    """Which vectors `[n, n_features]` can be calculated with: their sums of squares are numbers."""
    return np.asarray(np.abs(values).max(axis=1) < LARGEST)


def pca_map(images: Sequence[Image], values: FloatArray) -> Map:
    """The images by the two principal components of their features `[n, n_features]`, n at least 3."""
    centred = (values - values.mean(axis=0)).astype(np.float32)
    small = centred.T if centred.shape[1] <= centred.shape[0] else centred
    # The eigenvectors of the smaller one of both products give those of the other: a singular value decomposition.
    variances, vectors = np.linalg.eigh((small @ small.T).astype(np.float64))
    # None is negative but by rounding.
    variances = np.maximum(variances, 0)
    two = vectors[:, ::-1][:, :2].astype(np.float32)
    if small is centred:
        two = centred.T @ two
        two /= np.maximum(np.linalg.norm(two, axis=0), 1e-12)
    if two.shape[1] < 2:
        two = np.pad(two, ((0, 0), (0, 1)))
    # An eigenvector's sign is arbitrary; this one is the same each time.
    two *= np.where(two.sum(axis=0) < 0, -1, 1)
    where = centred @ two
    first, second = [*variances[::-1][:2].tolist(), 0.0][:2]
    whole = float(variances.sum())
    order = sampling.shuffled(range(len(images)), lambda place: images[place].uri)
    points = tuple(Point(images[place], float(where[place, 0]), float(where[place, 1])) for place in order)
    return Map(points, (first / whole, second / whole))


def directions(values: FloatArray) -> FloatArray:
    """Vectors of length 1, whose distances order them as cosine similarity does."""
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(norms, np.finfo(np.float32).tiny), np.float32)


def usual_distance(values: FloatArray) -> float:
    """The median distance of random pairs of vectors `[n, n_features]`."""
    random = np.random.default_rng(sampling.SEED)
    left, right = random.integers(0, len(values), (2, PAIRS // 10 if len(values) < 100 else PAIRS))
    distances = [
        np.linalg.norm(values[left[start : start + BLOCK]] - values[right[start : start + BLOCK]], axis=1)
        for start in range(0, len(left), BLOCK)
    ]
    return float(np.median(np.concatenate(distances)[left != right]))


def nearest(values: FloatArray, count: int) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """The `count` nearest others of a few vectors that lie far from each other.

    Returns:
        Rows `[queries, 1 + count]`, each query first, and their distances.
    """
    queries = spread(values, QUERIES)
    distances = np.stack([np.linalg.norm(values - values[query], axis=1) for query in queries])
    distances[np.arange(len(queries)), queries] = -1.0
    order = np.argsort(distances, axis=1, kind="stable")[:, : count + 1]
    return order, np.maximum(np.take_along_axis(distances, order, axis=1), 0.0)


def spread(values: FloatArray, count: int) -> list[int]:
    """At most `count` rows of vectors that cover them: a usual one, then each time the farthest from those before."""
    away = np.linalg.norm(values - values.mean(axis=0), axis=1)
    # The farthest ones of all are often outliers.
    candidates = away <= np.quantile(away, 0.9)
    chosen = [int(away.argmin())]
    least = np.where(candidates, np.linalg.norm(values - values[chosen[0]], axis=1), 0.0)
    while len(chosen) < count and least.max() > 0:
        chosen.append(int(least.argmax()))
        least = np.minimum(least, np.linalg.norm(values - values[chosen[-1]], axis=1))
    return chosen


def _neighbours(
    images: Sequence[Image], places: npt.NDArray[np.intp], distances: FloatArray
) -> tuple[Neighbours, ...]:
    return tuple(
        Neighbours(
            images[its[0]],
            tuple(Near(images[place], float(far)) for place, far in zip(its[1:], away[1:], strict=True)),
        )
        for its, away in zip(places, distances, strict=True)
    )

"""Images to compare two ways of running a module by, and how far their scores are apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from transforms.records import FloatArray
from transforms.variants import Variant


def probe(variant: Variant, n: int) -> npt.NDArray[np.uint8]:
    """The same `n` images at each call, uint8 `[n, size, size, 3]`, that have what photographs have.

    Smooth fields whose contrast falls with their frequency, brightness more than colour, and a little noise: a
    network tells them apart, so that a wrong scale or channel moves its scores.
    """
    size, random = variant.size, np.random.default_rng(0)
    images = np.zeros([n, size, size, 3])
    for cells in (2, 4, 8, 16, 32, 64):
        grid = random.normal(size=(n, cells, cells, 1)) + 0.4 * random.normal(size=(n, cells, cells, 3))
        places = np.linspace(0, cells - 1, size)[:, None] - np.arange(cells)
        weights = np.maximum(0, 1 - np.abs(places))
        images += np.einsum("yi,nijc,xj->nyxc", weights, grid, weights, optimize=True) * cells**-0.7
    images += 0.03 * random.normal(size=images.shape)
    spread = images.std(axis=(1, 2, 3), keepdims=True)
    images = 127.5 + 55 * (images - images.mean(axis=(1, 2, 3), keepdims=True)) / spread
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def relative_l2(values: FloatArray, expected: FloatArray) -> float:
    """The worst of `|values - expected| / |expected|` over the rows of two arrays `[n, width]`; may be NaN."""
    norms = np.maximum(np.linalg.norm(expected, axis=1), np.finfo(np.float32).tiny)
    return float(np.max(np.linalg.norm(values - expected, axis=1) / norms))

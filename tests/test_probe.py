"""The images that a graph is checked with."""

from __future__ import annotations

import numpy as np

from tests.tiny_modules import tiny_variant
from transforms.probe import probe


def test_probes_are_always_the_same_and_unlike_each_other() -> None:
    variant = tiny_variant(size=64)
    images = probe(variant, 4)
    assert (images.shape, images.dtype) == ((4, 64, 64, 3), np.uint8)
    np.testing.assert_array_equal(images, probe(variant, 4))
    flat = images.reshape(4, -1).astype(np.float64)
    assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 0.8
    # Neighbours are alike, as in a photograph, and the range is used.
    assert all(np.corrcoef(image[:, :-1].ravel(), image[:, 1:].ravel())[0, 1] > 0.9 for image in images)
    assert all(30 < image.std() < 80 for image in images)

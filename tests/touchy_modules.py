"""A module that dies, hangs, raises or gives NaN on images of certain colours, and scores the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests import photos
from tests.tiny_modules import BIAS, DENSE, N_CLASSES, N_FEATURES, features_of, normalised, write_tf2

SIZE = 32
NAME = "tests/touchy/1"
MESSAGE = "too red"

# RGB, 0 to 255. The four touch the module; quite black and quite white, which loading tries, do not.
ABORTS = (245, 245, 245)
HANGS = (8, 8, 8)
RAISES = (230, 20, 20)
NAN = (20, 230, 20)
BLUE = (20, 20, 230)
GREY = (128, 128, 128)

_NEAR = 0.03
_BYTES_PAST_ANY_MEMORY = 1 << 48


def image(colour: tuple[int, int, int]) -> bytes:
    """A JPEG of one colour, which resizing leaves as it is; other colours than the four are scored."""
    return photos.jpeg(np.full((48, 40, 3), colour, np.uint8), quality=100)


def write_touchy(path: Path, most_images: int | None = None) -> None:
    """A TF2 classifier of one convolution.

    One image in a batch is enough for the first three.

    Args:
        path: Directory of the SavedModel.
        most_images: A larger batch raises ResourceExhaustedError.
    """

    def call(inputs: Any, kernel: Any) -> Any:
        features = features_of(normalised(inputs), kernel)
        # Zeros that depend on what must run, so that no optimisation takes it out.
        for zero in (_abort(inputs), _hang(inputs), _raise(inputs), _exhaust(inputs, most_images)):
            features = features + zero
        features = tf.where(_are(NAN, inputs)[:, tf.newaxis], np.float32(np.nan), features)
        return tf.nn.bias_add(tf.matmul(features, DENSE), BIAS)

    write_tf2(path, call, shape=[None, SIZE, SIZE, 3])


def variant_toml(folder: Path, most_images: int | None = None) -> str:
    """The module in `folder` and the TOML file that names it; returns the file's path."""
    write_touchy(folder / "module", most_images)
    path = folder / "touchy.toml"
    path.write_text(
        f"""[[variants]]
name = "{NAME}"
handle = "module"
format = "tf2"
size = {SIZE}
fixed_size = true
resize = "center_crop_bilinear"
outputs = ["logits", "features"]
n_classes = [{N_CLASSES}]
n_features = [{N_FEATURES}]
multiply_adds_billions = 0.001
"""
    )
    return str(path)


def _are(colour: tuple[int, int, int], inputs: Any) -> Any:
    """Which images have this mean colour, bool `[n]`."""
    wanted = np.float32(colour) / np.float32(255)
    return tf.reduce_all(tf.abs(tf.reduce_mean(inputs, [1, 2]) - wanted) < _NEAR, axis=1)


def _any(colour: tuple[int, int, int], inputs: Any) -> Any:
    return tf.reduce_any(_are(colour, inputs))


def _abort(inputs: Any) -> Any:
    def abort() -> Any:
        with tf.control_dependencies([tf.raw_ops.Abort(error_msg="almost white")]):
            return tf.reduce_sum(inputs) * 0.0

    return tf.cond(_any(ABORTS, inputs), abort, lambda: 0.0)


def _hang(inputs: Any) -> Any:
    return tf.while_loop(lambda _: _any(HANGS, inputs), lambda rounds: [rounds + 1.0], [0.0])[0]


def _raise(inputs: Any) -> Any:
    with tf.control_dependencies([tf.debugging.Assert(~_any(RAISES, inputs), [MESSAGE])]):
        return tf.identity(0.0)


def _exhaust(inputs: Any, most_images: int | None) -> Any:
    n_images = tf.shape(inputs, tf.int64)[0]
    if most_images is None:
        return 0.0
    exhausted = n_images > most_images
    return tf.cond(
        exhausted, lambda: tf.reduce_sum(tf.fill([n_images * _BYTES_PAST_ANY_MEMORY], 0.0)), lambda: 0.0
    )

"""The published evaluation preprocessing, from the JPEG's bytes, in raw TensorFlow operations.

Written from the publishers' code, not from ours, so that the two can be compared bit for bit. Each function
takes the bytes of a JPEG without an EXIF orientation and gives float32 `[size, size, 3]`, RGB, in units of full
white.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

CROP_PADDING = 32


def v1_google(jpeg: bytes, size: int) -> npt.NDArray[np.float32]:
    """`preprocess_for_eval` of tensorflow/tpu models/official/efficientnet/preprocessing.py at f1a5906."""
    image = decode_and_center_crop(jpeg, size)
    resized = tf.raw_ops.ResizeBicubic(
        images=tf.expand_dims(image, 0), size=[size, size], align_corners=False, half_pixel_centers=False
    )
    return in_units_of_white(resized)


def v1_tensorflow(jpeg: bytes, size: int) -> npt.NDArray[np.float32]:
    """`preprocess_for_eval` of tensorflow/models official/vision/image_classification at 0d1e219."""
    image = decode_and_center_crop(jpeg, size)
    resized = tf.raw_ops.ResizeBilinear(
        images=tf.expand_dims(image, 0), size=[size, size], align_corners=False, half_pixel_centers=False
    )
    return in_units_of_white(resized)


def v2(jpeg: bytes, size: int) -> npt.NDArray[np.float32]:
    """`preprocess_for_eval` of google/automl efficientnetv2/preprocessing.py, 320 pixels and more (s to xl)."""
    image = tf.raw_ops.DecodeJpeg(contents=jpeg, channels=3)
    resized = tf.raw_ops.ResizeBilinear(
        images=tf.expand_dims(image, 0), size=[size, size], align_corners=False, half_pixel_centers=True
    )
    return in_units_of_white(resized)


def v2_b(jpeg: bytes, size: int) -> npt.NDArray[np.float32]:
    """`preprocess_for_eval` of google/automl efficientnetv2/preprocess_legacy.py (b0 to b3)."""
    image = decode_and_center_crop(jpeg, size)
    resized = tf.raw_ops.ResizeBicubic(
        images=tf.expand_dims(image, 0), size=[size, size], align_corners=False, half_pixel_centers=False
    )
    return in_units_of_white(resized)


def decode_and_center_crop(jpeg: bytes, size: int) -> Any:
    """`_decode_and_center_crop`, the same in all three repositories: uint8 `[side, side, 3]`."""
    shape = tf.raw_ops.ExtractJpegShape(contents=jpeg)
    height, width = shape[0], shape[1]
    shorter = tf.cast(tf.minimum(height, width), tf.float32)
    side = tf.cast((size / (size + CROP_PADDING)) * shorter, tf.int32)
    top = ((height - side) + 1) // 2
    left = ((width - side) + 1) // 2
    return tf.raw_ops.DecodeAndCropJpeg(
        contents=jpeg, crop_window=tf.stack([top, left, side, side]), channels=3
    )


def in_units_of_white(resized: Any) -> npt.NDArray[np.float32]:
    """The one image of a batch in 255ths, as the modules on TF Hub take it."""
    pixels: npt.NDArray[np.float32] = (resized[0] / 255.0).numpy()
    return pixels

"""The four published ways from an upright image to a model's input."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from transforms.errors import BadImage
from transforms.records import DecodedImage, FloatArray, PixelArray


class Policy(NamedTuple):
    """How one family of modules was evaluated by its publishers.

    Attributes:
        crops: Whether only the centre square of `crop_box` is kept; else the whole image is squashed.
        operation: TensorFlow's raw resize operation, never antialiased, corners never aligned.
        half_pixel_centers: False is the legacy sampling of TensorFlow 1.
    """

    crops: bool
    operation: str
    half_pixel_centers: bool


POLICIES = {
    # google/efficientnet (tensorflow/tpu preprocessing.py at f1a5906)
    # and V2 b0 to b3 (google/automl efficientnetv2/preprocess_legacy.py)
    "center_crop_bicubic": Policy(crops=True, operation="ResizeBicubic", half_pixel_centers=False),
    # tensorflow/efficientnet (tensorflow/models image_classification/preprocessing.py at 0d1e219)
    "center_crop_bilinear": Policy(crops=True, operation="ResizeBilinear", half_pixel_centers=False),
    # V2 s, m, l, xl (google/automl efficientnetv2/preprocessing.py)
    "squash_bilinear": Policy(crops=False, operation="ResizeBilinear", half_pixel_centers=True),
}


def crop_box(height: int, width: int, size: int) -> tuple[int, int, int]:
    """The centre square that the published evaluation keeps: top, left and side in pixels.

    The side is `size / (size + 32)` of the shorter edge in float32, cut to a whole number (tensorflow/tpu
    preprocessing.py). Of a 1-pixel edge that is 0, which the published code refuses; here it is at least 1.

    Args:
        height: Pixels of the upright image.
        width: Pixels of the upright image.
        size: Edge of the model's input in pixels.
    """
    side = max(1, int(np.float32(size / (size + 32)) * np.float32(min(height, width))))
    return (height - side + 1) // 2, (width - side + 1) // 2, side


def resize(image: DecodedImage, size: int, policy: str) -> FloatArray:
    """Makes a model's input of one image, bit for bit as the published evaluation does.

    Args:
        image: What `images.decode` made of a file; with its pixels, unless the policy crops.
        size: Edge of the model's input in pixels.
        policy: A key of `POLICIES`.

    Returns:
        float32 `[size, size, 3]` in units of full white; bicubic overshoots [0, 1] and is not clipped.

    Raises:
        BadImage: `corrupt`, if the crop of the JPEG cannot be decoded by itself.
    """
    return _in_255ths(image, size, policy) / np.float32(255)


def resize_to_bytes(image: DecodedImage, size: int, policy: str) -> PixelArray:
    """As `resize`, in 255ths of full white, rounded to the nearest (half upwards) and clipped: uint8.

    A quarter of the bytes to hold and to bring to a device, for at most half a level of difference.
    """
    pixels = _in_255ths(image, size, policy) + np.float32(0.5)
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def _in_255ths(image: DecodedImage, size: int, policy: str) -> FloatArray:
    """float32 `[size, size, 3]`, nominally 0 to 255."""
    import tensorflow as tf

    crops, operation, half_pixel_centers = POLICIES[policy]
    square = _centre_square(image, size) if crops else _whole(image)
    # Bilinear has a GPU kernel too, which would round differently and queue behind the model.
    with tf.device("CPU:0"):
        resized = getattr(tf.raw_ops, operation)(
            images=square[np.newaxis],
            size=[size, size],
            align_corners=False,
            half_pixel_centers=half_pixel_centers,
        )
    in_255ths: FloatArray = np.asarray(resized)[0]
    return in_255ths


def _centre_square(image: DecodedImage, size: int) -> PixelArray:
    """The pixels in `crop_box`; of a JPEG decoded for themselves, as the published evaluation does.

    libjpeg interpolates chroma only inside of what it decodes, so that the outer columns of a crop differ, by up to
    16 levels, from the same columns of the whole image.
    """
    import tensorflow as tf

    top, left, side = crop_box(image.height, image.width, size)
    if image.jpeg is None:
        return _whole(image)[top : top + side, left : left + side]
    window = [top, left, side, side]
    try:
        return np.asarray(tf.raw_ops.DecodeAndCropJpeg(contents=image.jpeg, crop_window=window, channels=3))
    except tf.errors.InvalidArgumentError as error:
        raise BadImage("corrupt", "JPEG whose centre cannot be decoded") from error


def _whole(image: DecodedImage) -> PixelArray:
    if image.pixels is None:
        raise ValueError("the whole image is wanted, but it was decoded for crops only")
    return image.pixels

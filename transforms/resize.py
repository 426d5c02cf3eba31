"""The four published ways from an upright image to a model's input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

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

# Bilinear has a GPU kernel too, which would round differently and queue behind the model.
_DEVICE = "CPU:0"


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
        image: What `images.decode` made of a file.
        size: Edge of the model's input in pixels.
        policy: A key of `POLICIES`.

    Returns:
        float32 `[size, size, 3]` in units of full white; bicubic overshoots [0, 1] and is not clipped.

    Raises:
        BadImage: `corrupt`, if the JPEG cannot be decoded, or its crop by itself.
    """
    (resized,) = resize_many([image], (ModelInput(size, policy),))
    if isinstance(resized, BadImage):
        raise resized
    return to_unit(resized[0])


class ModelInput(NamedTuple):
    """What one model takes: the edge of its input in pixels, and a key of `POLICIES`."""

    size: int
    policy: str


Resized: TypeAlias = "tuple[FloatArray, ...] | BadImage"
"""One image for each model: float32 `[size, size, 3]`, full white at 255; or `corrupt`."""


def resize_many(images: Sequence[DecodedImage], inputs: tuple[ModelInput, ...]) -> list[Resized]:
    """`resize` of each image for each model, bit for bit; the JPEGs are decoded here, all in one call.

    A call of TensorFlow from Python costs as much as decoding a thumbnail, and threads that make many wait for the
    interpreter's lock. Within one call TensorFlow decodes on threads of its own.
    """
    of_jpegs = iter(_resize_jpegs([image for image in images if image.jpeg is not None], inputs))
    return [next(of_jpegs) if image.jpeg is not None else _resize_pixels(image, inputs) for image in images]


def to_unit(in_255ths: FloatArray) -> FloatArray:
    """In units of full white; not in the graph, where TensorFlow would turn the division into a product."""
    return in_255ths / np.float32(255)


def to_bytes(in_255ths: FloatArray) -> PixelArray:
    """Rounded to the nearest, half upwards, and clipped: uint8.

    A quarter of the bytes to hold and to bring to a device, for at most half a level of difference.
    """
    pixels = in_255ths + np.float32(0.5)
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def _resize_pixels(image: DecodedImage, inputs: tuple[ModelInput, ...]) -> Resized:
    import tensorflow as tf

    assert image.pixels is not None
    resized = []
    for size, policy in inputs:
        pixels = image.pixels
        if POLICIES[policy].crops:
            top, left, side = crop_box(image.height, image.width, size)
            pixels = pixels[top : top + side, left : left + side]
        with tf.device(_DEVICE):
            resized.append(np.asarray(_resample(pixels, size, policy)))
    return tuple(resized)


def _resize_jpegs(images: Sequence[DecodedImage], inputs: tuple[ModelInput, ...]) -> list[Resized]:
    """One call for all; where that fails each is tried alone, to find the guilty one."""
    import tensorflow as tf

    if not images:
        return []
    windows = [[_window(image, size) for size, _ in inputs] for image in images]
    try:
        with tf.device(_DEVICE):
            contents = tf.constant([image.jpeg for image in images])
            resized = _function(len(images), inputs)(contents, tf.constant(windows))
    except tf.errors.InvalidArgumentError:
        if len(images) == 1:
            return [BadImage("corrupt", "JPEG that cannot be decoded")]
        return [of_one for image in images for of_one in _resize_jpegs([image], inputs)]
    return [tuple(np.asarray(of_model) for of_model in of_image) for of_image in resized]


def _window(image: DecodedImage, size: int) -> tuple[int, int, int, int]:
    top, left, side = crop_box(image.height, image.width, size)
    return top, left, side, side


@cache
def _function(n_images: int, inputs: tuple[ModelInput, ...]) -> Any:
    """A concrete function of contents, `[n_images]`, and crop windows, `[n_images, len(inputs), 4]`."""
    import tensorflow as tf

    def resized(contents: Any, windows: Any) -> list[list[Any]]:
        with tf.device(_DEVICE):
            return [_resize_jpeg(contents[i], windows[i], inputs) for i in range(n_images)]

    signature = [tf.TensorSpec([n_images], tf.string), tf.TensorSpec([n_images, len(inputs), 4], tf.int32)]
    return tf.function(resized, input_signature=signature, autograph=False).get_concrete_function()


def _resize_jpeg(contents: Any, windows: Any, inputs: tuple[ModelInput, ...]) -> list[Any]:
    """One JPEG's tensors for each model; the whole of it is decoded once, and only where a policy wants it.

    A crop is decoded for itself, as the published evaluation does: libjpeg interpolates chroma only inside of what it
    decodes, so that the outer columns differ, by up to 16 levels, from the same columns of the whole image.
    """
    import tensorflow as tf

    whole = None
    resized = []
    for number, (size, policy) in enumerate(inputs):
        if POLICIES[policy].crops:
            window = windows[number]
            pixels = tf.raw_ops.DecodeAndCropJpeg(contents=contents, crop_window=window, channels=3)
        else:
            whole = tf.raw_ops.DecodeJpeg(contents=contents, channels=3) if whole is None else whole
            pixels = whole
        resized.append(_resample(pixels, size, policy))
    return resized


def _resample(pixels: Any, size: int, policy: str) -> Any:
    """Pixels `[height, width, 3]`, array or tensor, to a float32 tensor `[size, size, 3]` of the same range."""
    import tensorflow as tf

    return getattr(tf.raw_ops, POLICIES[policy].operation)(
        images=pixels[np.newaxis],
        size=[size, size],
        align_corners=False,
        half_pixel_centers=POLICIES[policy].half_pixel_centers,
    )[0]

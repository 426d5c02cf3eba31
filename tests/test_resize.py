"""`crop_box` and `resize` against the published preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import photos, reference
from transforms import devices
from transforms import resize as resize_module
from transforms.errors import BadImage
from transforms.images import decode
from transforms.records import DecodedImage, PixelArray
from transforms.resize import POLICIES, ModelInput, crop_box, resize, resize_many, to_bytes, to_unit

Reference = Callable[[bytes, int], npt.NDArray[np.float32]]

REFERENCES: list[tuple[Reference, str, int]] = [
    (reference.v1_google, "center_crop_bicubic", 456),
    (reference.v1_google, "center_crop_bicubic", 380),
    (reference.v1_tensorflow, "center_crop_bilinear", 300),
    (reference.v2, "squash_bilinear", 480),
    (reference.v2_b, "center_crop_bicubic", 224),
]
ODD_SIZES = [
    (2, 2), (2, 301), (3, 5), (7, 7), (31, 64), (97, 33), (100, 100), (101, 257), (199, 200), (224, 224),
    (225, 223), (255, 256), (299, 449), (333, 500), (375, 500), (401, 399), (480, 480), (500, 375), (511, 3),
    (640, 427), (641, 1023), (1201, 7),
]  # fmt: skip
JPEGS = [
    photos.jpeg(photos.scene(height, width, seed), quality=60 + 35 * seed // len(ODD_SIZES))
    for seed, (height, width) in enumerate(ODD_SIZES)
]
edges = st.integers(1, 200_000)


def whole(pixels: PixelArray) -> DecodedImage:
    """An image that was no JPEG."""
    return DecodedImage(pixels.shape[0], pixels.shape[1], 1, pixels)


sizes = st.integers(1, 1024)


@pytest.mark.parametrize(("published", "policy", "size"), REFERENCES)
def test_equals_the_published_preprocessing_bit_for_bit(published: Reference, policy: str, size: int) -> None:
    assert len(JPEGS) >= 20
    for data, shape in zip(JPEGS, ODD_SIZES, strict=True):
        for lazily in (False, True):
            made = resize(decode(data, lazily), size, policy)
            np.testing.assert_array_equal(made, published(data, size), strict=True, err_msg=str(shape))


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_many_at_once_equal_the_published_preprocessing_whatever_models_do(
    request: pytest.FixtureRequest, precision: str
) -> None:
    request.addfinalizer(lambda: devices.set_precision("exact"))
    devices.set_precision(precision)
    resize_module._function.cache_clear()
    inputs = tuple(ModelInput(size, policy) for _, policy, size in REFERENCES)
    images = [decode(data, lazily=True) for data in JPEGS[-9:]]
    # One that is no JPEG comes between.
    images[4] = whole(decode(JPEGS[-5]).pixels)
    for data, image, resized in zip(JPEGS[-9:], images, resize_many(images, inputs), strict=True):
        assert not isinstance(resized, BadImage)
        for (published, policy, _), made, (size, _) in zip(REFERENCES, resized, inputs, strict=True):
            if image.jpeg or not POLICIES[policy].crops:
                np.testing.assert_array_equal(to_unit(made), published(data, size), strict=True)
            else:
                np.testing.assert_array_equal(to_unit(made), resize(image, size, policy), strict=True)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_jpeg_that_cannot_be_decoded_is_a_bad_image_and_changes_nothing_for_others(policy: str) -> None:
    good, other = (decode(data, lazily=True) for data in JPEGS[-3:-1])
    bad = replace(good, jpeg=JPEGS[-3][:300])
    with pytest.raises(BadImage, match="corrupt"):
        resize(bad, 224, policy)
    first, second, third = resize_many([good, bad, other], (ModelInput(224, policy),))
    assert isinstance(second, BadImage)
    for image, made in ((good, first), (other, third)):
        assert not isinstance(made, BadImage)
        np.testing.assert_array_equal(to_unit(made[0]), resize(image, 224, policy), strict=True)


@pytest.mark.parametrize("n_images", [1, 3])
def test_the_whole_of_a_jpeg_is_decoded_once_and_only_where_a_policy_wants_it(n_images: int) -> None:
    crops = (ModelInput(24, "center_crop_bicubic"), ModelInput(32, "center_crop_bilinear"))
    squashes = (ModelInput(24, "squash_bilinear"), ModelInput(32, "squash_bilinear"))
    for inputs, n_crops, n_whole in ((crops, 2, 0), (crops + squashes, 2, 1), (squashes, 0, 1)):
        operations = [each.type for each in resize_module._function(n_images, inputs).graph.get_operations()]
        assert operations.count("DecodeAndCropJpeg") == n_crops * n_images
        assert operations.count("DecodeJpeg") == n_whole * n_images


def test_bytes_are_the_published_values_rounded_and_clipped() -> None:
    for published, policy, size in REFERENCES:
        ((resized,),) = resize_many([decode(JPEGS[-3])], (ModelInput(size, policy),))
        made = to_bytes(resized)
        expected = np.clip(published(JPEGS[-3], size).astype(np.float64) * 255, 0, 255)
        assert made.dtype == np.uint8
        assert np.abs(made - expected).max() <= 0.5 + 1e-4


def test_bicubic_overshoots_and_is_not_clipped() -> None:
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, 32:] = 255
    made = resize(whole(edge), 224, "center_crop_bicubic")
    assert made.min() < 0
    assert made.max() > 1


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (1000, 1), (2, 5000)])
def test_tiny_images_and_panoramas_work(policy: str, shape: tuple[int, int]) -> None:
    made = resize(whole(np.full((*shape, 3), 51, np.uint8)), 224, policy)
    np.testing.assert_allclose(made, np.full((224, 224, 3), 0.2, np.float32), rtol=1e-6)


@settings(max_examples=40)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 96), st.sampled_from(sorted(POLICIES)))
def test_gives_size_by_size_float32(height: int, width: int, size: int, policy: str) -> None:
    pixels = np.arange(height * width * 3, dtype=np.uint32).astype(np.uint8).reshape(height, width, 3)
    made = resize(whole(pixels), size, policy)
    assert made.shape == (size, size, 3)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()


@given(edges, edges, sizes)
def test_the_crop_is_a_square_in_the_middle_of_the_image(height: int, width: int, size: int) -> None:
    top, left, side = crop_box(height, width, size)
    assert 1 <= side <= min(height, width)
    assert 0 <= top <= height - side
    assert 0 <= left <= width - side
    assert abs(top - (height - side - top)) <= 1
    assert abs(left - (width - side - left)) <= 1


@given(edges, sizes)
def test_the_side_is_that_of_tensorflow_float32_arithmetic(edge: int, size: int) -> None:
    published = int(tf.cast((size / (size + 32)) * tf.cast(edge, tf.float32), tf.int32))
    assert crop_box(edge, edge, size)[2] == max(1, published)


def test_an_unknown_policy_is_an_error() -> None:
    with pytest.raises(KeyError, match="nearest"):
        resize(whole(np.zeros((8, 8, 3), np.uint8)), 8, "nearest")

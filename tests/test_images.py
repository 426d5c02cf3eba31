"""`decode`: every format to upright RGB."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageFile

from tests import photos
from transforms import images
from transforms.errors import BadImage
from transforms.images import decode
from transforms.records import PixelArray

PHOTO = photos.scene(67, 98, seed=3)
GREY = PHOTO[..., 0].copy()

# PHOTO as it must be stored so that a viewer who obeys the orientation shows it upright.
STORED = {
    1: PHOTO,
    2: np.fliplr(PHOTO),
    3: np.rot90(PHOTO, 2),
    4: np.flipud(PHOTO),
    5: np.transpose(PHOTO, (1, 0, 2)),
    6: np.rot90(PHOTO, 1),
    7: np.transpose(np.rot90(PHOTO, 2), (1, 0, 2)),
    8: np.rot90(PHOTO, -1),
}


def stored(orientation: int) -> PixelArray:
    return np.ascontiguousarray(STORED[orientation])


def assert_is(pixels: PixelArray, expected: PixelArray) -> None:
    np.testing.assert_array_equal(pixels, expected, strict=True)


def assert_looks_like(pixels: PixelArray, expected: PixelArray) -> None:
    """For lossy formats; another orientation of PHOTO differs from it by more than 30 levels."""
    assert pixels.shape == expected.shape
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 60}])
def test_a_jpeg_is_bit_identical_to_tensorflow(options: dict[str, object]) -> None:
    data = photos.encode(PHOTO, "JPEG", **options)
    image = decode(data)
    assert_is(image.pixels, tf.io.decode_jpeg(data, channels=3).numpy())
    assert image.orientation == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_of_a_jpeg_give_the_same_upright_image(orientation: int) -> None:
    image = decode(photos.jpeg(stored(orientation), 95, exif_orientation=orientation))
    assert_looks_like(image.pixels, PHOTO)
    assert image.pixels.flags.c_contiguous
    assert image.orientation == orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("file_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})]
)
def test_orientations_of_lossless_formats(
    file_format: str, options: dict[str, object], orientation: int
) -> None:
    data = photos.encode(stored(orientation), file_format, exif=photos.exif(orientation), **options)
    image = decode(data)
    assert_is(image.pixels, PHOTO)
    assert image.orientation == orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_of_avif(orientation: int) -> None:
    image = decode(photos.encode(stored(orientation), "AVIF", quality=95, exif=photos.exif(orientation)))
    assert_looks_like(image.pixels, PHOTO)
    assert image.orientation == orientation


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_counts_as_1(orientation: int) -> None:
    image = decode(photos.jpeg(PHOTO, 95, exif_orientation=orientation))
    assert_looks_like(image.pixels, PHOTO)
    assert image.orientation == 1


@pytest.mark.parametrize(
    "block", [b"Exif\0\0", b"Exif\0\0not a TIFF header", photos.exif(6)[:12], photos.exif(6)[:-8]]
)
def test_broken_exif_counts_as_orientation_1(block: bytes) -> None:
    image = decode(photos.encode(PHOTO, "JPEG", quality=95, exif=block))
    assert_looks_like(image.pixels, PHOTO)
    assert image.orientation == 1


def test_an_orientation_in_xmp_alone_is_none_of_exif() -> None:
    image = decode(photos.encode(PHOTO, "JPEG", quality=95, xmp=b'<x tiff:Orientation="6"/>'))
    assert image.orientation == 1


def test_a_grey_jpeg_has_three_equal_channels() -> None:
    pixels = decode(photos.jpeg(GREY, 95)).pixels
    assert_looks_like(pixels, np.stack([GREY] * 3, axis=2))
    assert_is(pixels[..., 0], pixels[..., 2])


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    data = photos.encode(Image.fromarray(PHOTO).convert("CMYK"), "JPEG", quality=95)
    assert_looks_like(decode(data).pixels, PHOTO)


def test_alpha_is_dropped() -> None:
    with_alpha = np.dstack([PHOTO, GREY])
    assert_is(decode(photos.encode(with_alpha, "PNG")).pixels, PHOTO)
    assert_is(decode(photos.encode(with_alpha, "TIFF")).pixels, PHOTO)
    assert_is(decode(photos.encode(with_alpha, "WEBP", lossless=True, exact=True)).pixels, PHOTO)


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "WEBP"])
def test_a_transparent_palette_entry_keeps_its_colour(file_format: str) -> None:
    palette = Image.fromarray(PHOTO).quantize(16)
    options: dict[str, object] = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    data = photos.encode(palette, file_format, transparency=3, **options)
    assert (np.asarray(palette) == 3).any()
    assert_is(decode(data).pixels, np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_of_16_bit_samples_the_high_byte_is_kept(file_format: str) -> None:
    samples = GREY.astype(np.uint16) * 256 + 200
    pixels = decode(photos.encode(Image.fromarray(samples), file_format)).pixels
    assert_is(pixels, np.stack([GREY] * 3, axis=2))


def test_only_the_first_frame_of_an_animation_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.fromarray(np.roll(PHOTO, 7 * number, axis=1)).quantize(32) for number in range(5)]
    data = photos.encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    monkeypatch.setattr(ImageFile.ImageFile, "seek", lambda *_: pytest.fail("a second frame was sought"))
    assert_is(decode(data).pixels, np.asarray(frames[0].convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
@pytest.mark.parametrize("file_format", ["BMP", "TIFF", "PNG", "GIF"])
def test_modes_of_lossless_formats(file_format: str, mode: str) -> None:
    image = Image.fromarray(PHOTO).convert(mode)
    if file_format == "GIF" and mode == "RGB":
        image = image.quantize(256)
    assert_is(decode(photos.encode(image, file_format)).pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("file_format", ["WEBP", "JPEG2000", "PPM", "AVIF"])
def test_other_formats_of_pillow(file_format: str) -> None:
    assert_looks_like(decode(photos.encode(PHOTO, file_format)).pixels, PHOTO)


def test_one_pixel() -> None:
    for file_format in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"):
        assert decode(photos.encode(PHOTO[:1, :1].copy(), file_format)).pixels.shape == (1, 1, 3)


def test_heic_is_read_with_the_extra() -> None:
    assert_looks_like(decode(photos.heic(PHOTO)).pixels, PHOTO)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_turned_once(orientation: int) -> None:
    """The container holds the turn, libheif applies it, and the EXIF orientation is a copy of it."""
    data = photos.heic(stored(orientation), exif=photos.exif(orientation))
    assert_looks_like(decode(data).pixels, PHOTO)


def test_heic_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = photos.heic(PHOTO)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadImage, match=r"unsupported: .*pixelbeam\[heic\]"):
        decode(data)


def test_only_an_unturned_jpeg_may_be_cropped_by_itself() -> None:
    upright, turned, png = photos.jpeg(PHOTO), photos.jpeg(PHOTO, 85, 6), photos.encode(PHOTO, "PNG")
    assert decode(upright).jpeg == upright
    assert decode(turned).jpeg is None
    assert decode(png).jpeg is None


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
def test_a_small_copy_is_upright(file_format: str, orientation: int) -> None:
    pixels = np.repeat(np.repeat(stored(orientation), 8, axis=0), 8, axis=1)
    copy = images.small_copy(photos.encode(pixels, file_format, exif=photos.exif(orientation)), 98)
    assert (copy.mode, copy.size) == ("RGB", (98, 67))
    assert_looks_like(np.asarray(copy), PHOTO)


def test_a_small_copy_of_a_smaller_image_is_the_image() -> None:
    assert_is(np.asarray(images.small_copy(photos.encode(PHOTO, "PNG"), 500)), PHOTO)


def test_a_small_copy_of_a_large_jpeg_is_decoded_small(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    monkeypatch.setattr(images, "_upright", lambda pixels, _: decoded.append(pixels.shape) or pixels)
    images.small_copy(photos.jpeg(photos.scene(1200, 1600)), 100)
    assert decoded == [(150, 200, 3)]

"""`decode`: every format to upright RGB, every kind of bad bytes to its reason."""

from __future__ import annotations

import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pillow_heif
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from tests import photos
from transforms import images
from transforms.errors import BadImage
from transforms.images import MAX_BYTES, MAX_PIXELS, decode
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


def heic(image: PixelArray, **options: object) -> bytes:
    pillow_heif.register_heif_opener()
    return photos.encode(image, "HEIF", quality=95, **options)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header), png_chunk(b"IDAT", b""), png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def assert_is(pixels: PixelArray, expected: PixelArray) -> None:
    np.testing.assert_array_equal(pixels, expected, strict=True)


def assert_looks_like(pixels: PixelArray, expected: PixelArray) -> None:
    """For lossy formats; another orientation of PHOTO differs from it by more than 30 levels."""
    assert pixels.shape == expected.shape
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).mean() < 6


def error_of(data: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 160
    return caught.value.error


# What is read


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


def test_samples_without_a_range_are_unsupported() -> None:
    assert error_of(photos.encode(Image.fromarray(GREY.astype(np.float32)), "TIFF")) == "unsupported"


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
    assert_looks_like(decode(heic(PHOTO)).pixels, PHOTO)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_turned_once(orientation: int) -> None:
    """The container holds the turn, libheif applies it, and the EXIF orientation is a copy of it."""
    data = heic(stored(orientation), exif=photos.exif(orientation))
    assert_looks_like(decode(data).pixels, PHOTO)


def test_heic_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(PHOTO)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadImage, match=r"unsupported: .*pixelbeam\[heic\]"):
        decode(data)


def test_only_an_unturned_jpeg_may_be_cropped_by_itself() -> None:
    upright, turned, png = photos.jpeg(PHOTO), photos.jpeg(PHOTO, 85, 6), photos.encode(PHOTO, "PNG")
    assert decode(upright).jpeg == upright
    assert decode(turned).jpeg is None
    assert decode(png).jpeg is None


# What is not


def test_no_bytes() -> None:
    assert error_of(b"") == "empty"


@pytest.mark.parametrize(
    "text", [b"Hello, world\n", b"<!DOCTYPE html><html>", b"BM is a text too", b"Python", b"{}", b"\0" * 99]
)
def test_what_is_not_an_image_is_called_so(text: bytes) -> None:
    assert error_of(text) == "not_an_image"


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.9, 0.999])
@pytest.mark.parametrize(
    ("file_format", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}), ("BMP", {})],
)
def test_cut_off_files_are_truncated(file_format: str, options: dict[str, object], share: float) -> None:
    data = photos.encode(photos.scene(375, 500, seed=5), file_format, **options)
    assert error_of(data[: int(len(data) * share)]) == "truncated"


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("JPEG2000", {}),
        ("AVIF", {}),
    ],
)
def test_other_files_cut_at_30_percent_are_truncated(file_format: str, options: dict[str, object]) -> None:
    data = photos.encode(photos.scene(375, 500, seed=5), file_format, **options)
    assert error_of(data[: len(data) * 3 // 10]) == "truncated"


def test_heic_cut_at_30_percent_is_truncated() -> None:
    data = heic(photos.scene(375, 500, seed=5))
    assert error_of(data[: len(data) * 3 // 10]) == "truncated"


def test_a_jpeg_whose_thumbnail_is_whole_is_still_truncated() -> None:
    thumbnail = Image.Exif()
    thumbnail[0x927C] = photos.jpeg(PHOTO[:16, :16].copy())
    data = photos.encode(PHOTO, "JPEG", exif=thumbnail.tobytes())
    with pytest.raises(BadImage, match=r"truncated: cut off: [\d,]+ bytes"):
        decode(data[: len(data) * 8 // 10])


def test_a_truncated_jpeg_makes_no_noise(capfd: pytest.CaptureFixture[str]) -> None:
    assert error_of(photos.jpeg(PHOTO)[:-100]) == "truncated"
    assert capfd.readouterr() == ("", "")


def test_damage_that_raises_what_a_decoder_should_not() -> None:
    """One file for each class of exception that Pillow's plugins were seen to let through."""
    directory = struct.pack("<QQHHQQ", 16, 1, 256, 4, 2**63, 2**63)
    tiff = photos.encode(PHOTO, "TIFF")
    files = {
        "OverflowError": b"II+\0\x08\0\0\0" + directory + bytes(64),
        "IndexError": b"qoif" + struct.pack(">IIBB", 3, 3, 3, 0) + b"\0",
        "NotImplementedError": b"DDS " + struct.pack("<I", 124) + bytes(200),
        "TypeError": tiff.replace(struct.pack("<HH", 273, 4), struct.pack("<HH", 273, 11)),
    }
    for exception, data in files.items():
        with pytest.raises(BadImage, match="corrupt") as caught:
            decode(data)
        assert type(caught.value.__cause__).__name__ == exception


def test_damage_inside_of_a_whole_file_is_corrupt() -> None:
    data = bytearray(photos.encode(PHOTO, "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert error_of(bytes(data)) == "corrupt"


def test_too_many_bytes_are_not_looked_at() -> None:
    assert error_of(bytes(MAX_BYTES + 1)) == "too_many_bytes"


def bombs() -> dict[str, bytes]:
    """Small files that claim more pixels than the limit."""
    gif = bytearray(photos.encode(GREY, "GIF"))
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    jpeg = photos.jpeg(PHOTO)
    start_of_frame = jpeg.index(b"\xff\xc0")
    bmp = bytearray(photos.encode(PHOTO, "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    tiff = photos.encode(PHOTO, "TIFF")
    edge = struct.Struct("<HHII")
    for tag, pixels in ((256, PHOTO.shape[1]), (257, PHOTO.shape[0])):
        tiff = tiff.replace(edge.pack(tag, 4, 1, pixels), edge.pack(tag, 4, 1, 60_000))
    webp = bytearray(photos.encode(PHOTO, "WEBP", lossless=True))
    webp[21:25] = struct.pack("<I", 16_382 | 16_382 << 14)
    return {
        "PNG": png_header(60_000, 60_000),
        "GIF": bytes(gif),
        "JPEG": jpeg[: start_of_frame + 5] + struct.pack(">HH", 60_000, 60_000) + jpeg[start_of_frame + 9 :],
        "BMP": bytes(bmp),
        "TIFF": tiff,
        "WEBP": bytes(webp),
    }


def test_a_bomb_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    files = bombs()
    for decoder in ("_decode_with_tensorflow", "_decode_with_pillow"):
        monkeypatch.setattr(images, decoder, lambda *_: pytest.fail("a bomb was decoded"))
    tracemalloc.start()
    assert {name: error_of(data) for name, data in files.items()} == dict.fromkeys(files, "too_many_pixels")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 5_000_000


def test_the_limit_is_ours_even_if_pillows_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert error_of(png_header(MAX_PIXELS + 1, 1)) == "too_many_pixels"
    assert error_of(png_header(MAX_PIXELS, 1)) != "too_many_pixels"


# Whatever the bytes, an image or a reason


def samples() -> list[bytes]:
    small = PHOTO[:24, :31].copy()
    made = [
        photos.jpeg(small, exif_orientation=6),
        photos.encode(small, "JPEG", progressive=True),
        photos.encode(small, "PNG", exif=photos.exif(8)),
        photos.encode(Image.fromarray(small).quantize(16), "PNG", transparency=2),
        photos.encode(small, "GIF"),
        photos.encode(small, "BMP"),
        photos.encode(small, "WEBP", exif=photos.exif(3)),
        photos.encode(small, "TIFF"),
        photos.encode(small, "TIFF", compression="tiff_lzw"),
        photos.encode(small, "JPEG2000"),
        photos.encode(small, "PPM"),
        photos.encode(small, "ICO"),
        photos.encode(small, "DDS"),
    ]
    return [*made, photos.encode(small, "AVIF")]


SAMPLES = samples()


def assert_image_or_reason(data: bytes) -> None:
    try:
        image = decode(data)
    except BadImage:
        return
    height, width, channels = image.pixels.shape
    assert height >= 1
    assert width >= 1
    assert channels == 3
    assert image.pixels.dtype == np.uint8
    assert 1 <= image.orientation <= 8


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


def test_of_what_cannot_be_decoded_there_is_no_small_copy() -> None:
    cut = photos.encode(PHOTO, "PNG")[:2000]
    reasons = []
    for data in (b"", b"milk, bread", cut, *bombs().values()):
        with pytest.raises(BadImage) as caught:
            images.small_copy(data, 50)
        reasons.append(caught.value.error)
    assert reasons == ["empty", "not_an_image", "truncated", *["too_many_pixels"] * len(bombs())]


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    assert_image_or_reason(data)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(SAMPLES), st.floats(0, 1), st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255))))
def test_damaged_files(data: bytes, kept: float, damage: list[tuple[float, int]]) -> None:
    damaged = bytearray(data[: round(len(data) * kept)])
    assume(damaged)
    for place, flips in damage:
        damaged[round(place * (len(damaged) - 1))] ^= flips
    assert_image_or_reason(bytes(damaged))

"""`decode`: every kind of bad bytes to its reason, and of any bytes an image or a reason."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests import photos
from transforms import images
from transforms.errors import BadImage
from transforms.images import MAX_BYTES, MAX_PIXELS, decode

PHOTO = photos.scene(67, 98, seed=3)
GREY = PHOTO[..., 0].copy()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header), png_chunk(b"IDAT", b""), png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def error_of(data: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 160
    return caught.value.error


def test_samples_without_a_range_are_unsupported() -> None:
    assert error_of(photos.encode(Image.fromarray(GREY.astype(np.float32)), "TIFF")) == "unsupported"


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
    data = photos.heic(photos.scene(375, 500, seed=5))
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

"""The bytes of an image file into upright RGB pixels, or the reason why not.

JPEG and PNG are decoded by TensorFlow, as in the published pipelines; everything else by Pillow. GIF and BMP
too: TensorFlow decodes every frame of a GIF before it gives the first, and takes a BMP's palette indices for greys.
"""

from __future__ import annotations

import functools
import re
import string
import struct
import warnings
from io import BytesIO
from typing import Any, cast

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from transforms.errors import BadImage
from transforms.records import DecodedImage, PixelArray

MAX_BYTES = 100_000_000
MAX_PIXELS = 2**29 // 3  # 179 megapixels; TensorFlow's limit for a PNG (2^29 bytes of RGB), and Pillow's too

_BY_TENSORFLOW = {"JPEG", "MPO", "PNG"}
# EPS and WMF are programs (Pillow hands EPS to Ghostscript); of the others Pillow knows no more than the name.
_NOT_PIXELS = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_END_MARKS = {"JPEG": _JPEG_END, "JPEG2000": _JPEG_END, "PNG": b"IEND\xaeB`\x82", "GIF": b";"}
# The decoders' own words for bytes that end too early.
_CUT_OFF = re.compile("truncated|unexpected end|not enough|insufficient", re.IGNORECASE)
_PRINTABLE = set(string.printable.encode())
# What Pillow, its plugins and pillow-heif raise for bad bytes.
_UNREADABLE = (
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


def decode(data: bytes, lazily: bool = False) -> DecodedImage:
    """Decodes the first frame of an image file to upright RGB.

    The content decides the format, never a name. A JPEG's pixels are `tf.io.decode_jpeg(data, channels=3)` bit
    for bit, turned by its EXIF orientation; one outside 1 to 8 and broken EXIF count as 1. Alpha is dropped and of
    16-bit samples the high byte is kept, in all formats, as the published pipelines' `channels=3` does with a PNG.
    Limits are checked from the header, before anything is decoded.

    Args:
        data: The whole file.
        lazily: Leave an upright JPEG undecoded, for `resize`. Only where the file is whole, that is, ends with
            the mark of its end: a crop is decoded down to its last row only.

    Raises:
        BadImage: `empty`; `too_many_bytes` (over `MAX_BYTES`); `too_many_pixels` (over `MAX_PIXELS`);
            `not_an_image`; `truncated`; `unsupported` (HEIC without the extra, samples without a range);
            `corrupt` for everything else.
    """
    if not data:
        raise BadImage("empty", "0 bytes")
    if len(data) > MAX_BYTES:
        raise BadImage("too_many_bytes", f"{len(data):,} bytes; at most {MAX_BYTES:,} are read")
    try:
        image = _open(data)
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        orientation = _orientation(image)
        if lazily and image.format == "JPEG" and orientation == 1 and data.endswith(_JPEG_END):
            return DecodedImage(image.height, image.width, orientation, None, data)
        if image.format in _BY_TENSORFLOW:
            pixels, turn = _decode_with_tensorflow(data, image.format), orientation
        else:
            # Pillow turns a TIFF while it decodes it, and then forgets the tag.
            pixels, turn = _decode_with_pillow(image), _orientation(image)
    except Image.DecompressionBombError:
        raise BadImage("too_many_pixels", f"more than {MAX_PIXELS:,} pixels") from None
    except _UNREADABLE as error:
        raise _diagnosis(data, error) from error
    upright_jpeg = data if orientation == 1 and data.startswith(_JPEG_START) else None
    upright = _upright(pixels, turn)
    return DecodedImage(upright.shape[0], upright.shape[1], orientation, upright, upright_jpeg)


def small_copy(data: bytes, side: int) -> Image.Image:
    """The image upright, in RGB, at most `side` pixels wide and high: for a person, not what a model is given.

    A JPEG is decoded at the size that is next to the wanted one, which takes a fraction of the time.

    Raises:
        BadImage: As `decode`.
    """
    if not data:
        raise BadImage("empty", "0 bytes")
    try:
        image = _open(data)
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        image.draft("RGB", (side, side))
        pixels = _decode_with_pillow(image)
        copy = Image.fromarray(_upright(pixels, _orientation(image)))
    except Image.DecompressionBombError:
        raise BadImage("too_many_pixels", f"more than {MAX_PIXELS:,} pixels") from None
    except _UNREADABLE as error:
        raise _diagnosis(data, error) from error
    copy.thumbnail((side, side))
    return copy


@functools.cache
def _formats() -> tuple[str, ...]:
    """Pillow's formats that begin with a magic number and hold pixels.

    Also silences, once, Pillow's warnings in this process: of large images within our limit, of broken EXIF.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    Image.init()
    return tuple(name for name in Image.ID if Image.OPEN[name][1] and name not in _NOT_PIXELS)


def _open(data: bytes) -> ImageFile.ImageFile:
    """Reads the header only: size, format and EXIF, no pixels."""
    if _is_heic(data):
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            raise BadImage("unsupported", "HEIC: install pixelbeam[heic]") from None
        return cast(ImageFile.ImageFile, HeifImageFile(BytesIO(data), ""))
    return Image.open(BytesIO(data), formats=_formats())


def _is_heic(data: bytes) -> bool:
    """Whether the `ftyp` box (ISO/IEC 14496-12, 4.3) names a brand of HEVC images and none of AVIF."""
    if data[4:8] != b"ftyp":
        return False
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    brands = {box[start : start + 4] for start in range(0, len(box), 4)}
    return bool(brands & _HEIC_BRANDS) and not brands & _AVIF_BRANDS


def _orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none that can be read.

    Not by `Image.getexif`, which decodes a PNG that has no EXIF and takes XMP's orientation for EXIF's.
    """
    tags: Any = getattr(image, "tag_v2", None)
    if tags is None:
        block = image.info.get("exif")
        if not block:
            return 1
        tags = Image.Exif()
        try:
            tags.load(block)
        except _UNREADABLE:
            return 1
    value = tags.get(ExifTags.Base.Orientation)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _decode_with_tensorflow(data: bytes, file_format: str) -> PixelArray:
    """The pixels of a JPEG or PNG, uint8 `[height, width, 3]`, RGB, as the published pipelines decode them.

    Args:
        data: The whole file.
        file_format: Pillow's name for it.

    Raises:
        BadImage: `truncated`.
        ValueError: TensorFlow cannot decode it.
    """
    import tensorflow as tf

    try:
        if file_format == "PNG":
            decoded = tf.raw_ops.DecodePng(contents=data, channels=3)
        else:
            # TensorFlow would refuse it too, but not say why, and libjpeg would write to standard error.
            if data.rfind(_JPEG_END) < 0:
                raise _truncated(data)
            decoded = tf.raw_ops.DecodeJpeg(contents=data, channels=3)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError("TensorFlow cannot decode it") from error
    return np.asarray(decoded)


def _decode_with_pillow(image: ImageFile.ImageFile) -> PixelArray:
    """The pixels of the first frame, uint8 `[height, width, 3]`, RGB."""
    image.load()
    if image.mode.startswith("I;16"):
        high_bytes = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(high_bytes[:, :, np.newaxis], 3, axis=2)
    if image.mode in {"I", "F"}:
        raise BadImage("unsupported", f"{image.format} with 32-bit samples, whose range is not known")
    return np.asarray(image.convert("RGB"))


def _upright(pixels: PixelArray, orientation: int) -> PixelArray:
    """Turns stored pixels as their EXIF orientation says (Exif 2.32, tag 0x0112)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    rows = -1 if orientation in {3, 4, 7, 8} else 1
    columns = -1 if orientation in {2, 3, 6, 7} else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])


def _diagnosis(data: bytes, error: Exception) -> BadImage:
    """What is wrong with bytes that could not be decoded; the one place that decides it."""
    verdicts = _verdicts(data)
    if not verdicts or set(data[:64]) <= _PRINTABLE:
        return BadImage("not_an_image", f"begins with {data[:12]!r}, as no image does")
    name, verdict = next(iter(verdicts.items()))
    if isinstance(verdict, str):
        return BadImage("unsupported", f"{name}, which this build of Pillow cannot read")
    if _ends_early(data, name, error):
        return _truncated(data)
    unidentified = isinstance(error, UnidentifiedImageError)
    detail = "its header is broken" if unidentified else str(error).partition("\n")[0][:100]
    return BadImage("corrupt", f"{name} that cannot be decoded: {detail}")


def _verdicts(data: bytes) -> dict[str, bool | str]:
    """The formats whose magic number the bytes begin with; a text for one that Pillow was built without."""
    if _is_heic(data):
        return {"HEIC": True}
    prefix = data[:16].ljust(16, b"\0")
    verdicts: dict[str, bool | str] = {}
    for name in _formats():
        accept = Image.OPEN[name][1]
        if accept is not None and (verdict := accept(prefix)):
            verdicts[name] = verdict
    return verdicts


def _ends_early(data: bytes, name: str, error: Exception) -> bool:
    """Whether bytes that could not be decoded stop before the end of their format."""
    if name in _END_MARKS and not data.endswith(_END_MARKS[name]):
        return True
    if name == "WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        return True
    if name == "TIFF" and len(data) <= int.from_bytes(data[4:8], "little" if data[:1] == b"I" else "big"):
        return True
    if name in {"AVIF", "HEIC"} and len(data) < _end_of_boxes(data):
        return True
    return _CUT_OFF.search(str(error)) is not None


def _end_of_boxes(data: bytes) -> int:
    """Where the first 64 boxes of an ISO base media file say that they end (ISO/IEC 14496-12, 4.2)."""
    end = 0
    for _ in range(64):
        size = int.from_bytes(data[end : end + 4], "big")
        if size < 8:
            break
        end += size
    return end


def _truncated(data: bytes) -> BadImage:
    return BadImage("truncated", f"cut off: {len(data):,} bytes end inside the image data")

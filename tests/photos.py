"""Photographs for the tests, made from those that scikit-image brings along, so that no network is needed."""

from __future__ import annotations

import functools
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
import skimage.data
from PIL import ExifTags, Image

from transforms.records import PixelArray


@functools.cache
def photographs() -> tuple[PixelArray, ...]:
    """Seven colour photographs, uint8 `[height, width, 3]`, RGB, from 300 x 451 to 1411 x 1411."""
    return (
        skimage.data.astronaut(),
        skimage.data.chelsea(),
        skimage.data.coffee(),
        skimage.data.hubble_deep_field(),
        skimage.data.immunohistochemistry(),
        skimage.data.retina(),
        skimage.data.rocket(),
    )


def scene(height: int, width: int, seed: int = 0) -> PixelArray:
    """A random crop of a random photograph, perhaps mirrored, scaled to uint8 `[height, width, 3]`."""
    random = np.random.default_rng(seed)
    photograph = Image.fromarray(photographs()[random.integers(len(photographs()))])
    share = random.uniform(0.4, 0.9)
    box_width, box_height = share * photograph.width, share * photograph.height
    left = random.uniform(0, photograph.width - box_width)
    top = random.uniform(0, photograph.height - box_height)
    box = (left, top, left + box_width, top + box_height)
    pixels = np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC, box))
    return np.ascontiguousarray(pixels[:, ::-1] if random.random() < 0.5 else pixels)


def encode(image: PixelArray | Image.Image, file_format: str, **options: object) -> bytes:
    """The bytes of an image file as Pillow writes it; `options` are those of `PIL.Image.Image.save`."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    """An EXIF block that holds an orientation and nothing else."""
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags.tobytes()


def jpeg(image: PixelArray, quality: int = 85, exif_orientation: int | None = None) -> bytes:
    """The bytes of a JPEG of uint8 `[height, width]` or `[height, width, 3]`, with EXIF only if asked for."""
    options = {} if exif_orientation is None else {"exif": exif(exif_orientation)}
    return encode(image, "JPEG", quality=quality, **options)


def write_photographs(
    folder: Path, count: int, seed: int = 0, size: tuple[int, int] = (500, 375)
) -> list[Path]:
    """Writes `count` distinct JPEGs into an existing folder; the same seed writes the same pictures.

    Args:
        folder: Where `photo-00000.jpg` and so on are written.
        count: How many.
        seed: Another seed, other pictures.
        size: Width and height in pixels.
    """
    width, height = size
    paths = [folder / f"photo-{number:05d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(jpeg(scene(height, width, seed * 1_000_003 + number)))
    return paths


def heic(image: PixelArray, **options: object) -> bytes:
    """The bytes of an image as HEIC."""
    pillow_heif.register_heif_opener()
    return encode(image, "HEIF", quality=95, **options)

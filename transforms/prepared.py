"""Fetched images: each decoded once and resized for each variant, or the reason why not."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from transforms import images
from transforms.errors import BadImage
from transforms.fetching import Fetched
from transforms.fingerprints import VariantRun
from transforms.records import DecodedImage, Failure, FloatArray, ImageInfo, PixelArray, StepSeconds
from transforms.resize import ModelInput, Resized, resize_many, to_bytes, to_unit


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """One image after fetching, decoding and resizing.

    Attributes:
        outcome: What the row will say, or why there is none.
        pixels: For each variant `[size, size, 3]` as in `PixelBatch`; empty for a failure.
        seconds: What it took; of images that were decoded in one call, each the same share.
    """

    outcome: ImageInfo | Failure
    pixels: Mapping[str, FloatArray | PixelArray]
    seconds: StepSeconds


def prepare_images(fetched: Sequence[Fetched], runs: tuple[VariantRun, ...]) -> list[PreparedImage]:
    """Decode once and resize for each variant; a bad image gives a Failure and changes nothing for the others."""
    started = time.perf_counter()
    inputs = tuple(ModelInput(run.variant.size, run.variant.resize) for run in runs)
    decoded = [_decoded(each.content) for each in fetched]
    of_good = iter(resize_many([image for image in decoded if isinstance(image, DecodedImage)], inputs))
    prepared = []
    for each, image in zip(fetched, decoded, strict=True):
        resized = image if isinstance(image, BadImage) else next(of_good)
        prepared.append((_outcome(each, image, resized), _pixels(resized, runs)))
    decode_seconds = (time.perf_counter() - started) / max(1, len(fetched))
    return [
        PreparedImage(outcome, pixels, StepSeconds(fetch=each.seconds, decode=decode_seconds))
        for each, (outcome, pixels) in zip(fetched, prepared, strict=True)
    ]


def _decoded(content: bytes | BadImage) -> DecodedImage | BadImage:
    if isinstance(content, BadImage):
        return content
    try:
        return images.decode(content, lazily=True)
    except BadImage as reason:
        return reason


def _outcome(fetched: Fetched, image: DecodedImage | BadImage, resized: Resized) -> ImageInfo | Failure:
    if isinstance(fetched.content, BadImage):
        return Failure(fetched.ref, "fetch", fetched.content.error, fetched.content.message, fetched.attempts)
    if isinstance(image, BadImage):
        return Failure(fetched.ref, "decode", image.error, image.message)
    if isinstance(resized, BadImage):
        return Failure(fetched.ref, "decode", resized.error, resized.message)
    sha256 = hashlib.sha256(fetched.content).hexdigest()
    # Of an image in a container the record's size was listed, or none.
    ref = replace(fetched.ref, size=len(fetched.content)) if fetched.ref.place else fetched.ref
    return ImageInfo(ref, sha256, image.width, image.height, image.orientation)


def _pixels(resized: Resized, runs: tuple[VariantRun, ...]) -> dict[str, FloatArray | PixelArray]:
    if isinstance(resized, BadImage):
        return {}
    return {
        run.variant.name: (to_bytes if run.precision == "fast" else to_unit)(pixels)
        for run, pixels in zip(runs, resized, strict=True)
    }


def empty_batch(run: VariantRun, n_images: int) -> FloatArray | PixelArray:
    """Room for a variant's batch, `[n_images, size, size, 3]` as in `PixelBatch`; it holds what was there."""
    shape = (n_images, run.variant.size, run.variant.size, 3)
    return np.empty(shape, np.uint8) if run.precision == "fast" else np.empty(shape, np.float32)

"""One fetched image: decoded once, resized for each variant, or the reason why not."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from transforms import images
from transforms.errors import BadImage
from transforms.fingerprints import VariantRun
from transforms.records import Failure, FloatArray, ImageInfo, PixelArray, StepSeconds
from transforms.resize import POLICIES, resize, resize_to_bytes
from transforms.storage import Fetched


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """One image after fetching, decoding and resizing.

    Attributes:
        outcome: What the row will say, or why there is none.
        pixels: For each variant `[size, size, 3]` as in `PixelBatch`; empty for a failure.
        seconds: What it took.
    """

    outcome: ImageInfo | Failure
    pixels: Mapping[str, FloatArray | PixelArray]
    seconds: StepSeconds


def prepare_image(fetched: Fetched, runs: tuple[VariantRun, ...]) -> PreparedImage:
    """Decode once and resize for each variant; a bad image gives a Failure.

    Where every variant crops, a whole upright JPEG is decoded in its crops only: half of the work of decoding it.
    """
    seconds = StepSeconds(fetch=fetched.seconds)
    if isinstance(fetched.content, BadImage):
        reason = fetched.content
        failure = Failure(fetched.ref, "fetch", reason.error, reason.message, fetched.attempts)
        return PreparedImage(failure, {}, seconds)
    started = time.perf_counter()
    pixels: dict[str, FloatArray | PixelArray] = {}
    outcome: ImageInfo | Failure
    try:
        crops_only = all(POLICIES[run.variant.resize].crops for run in runs)
        decoded = images.decode(fetched.content, crops_only)
        for run in runs:
            resized = resize_to_bytes if run.precision == "fast" else resize
            pixels[run.variant.name] = resized(decoded, run.variant.size, run.variant.resize)
        sha256 = hashlib.sha256(fetched.content).hexdigest()
        outcome = ImageInfo(fetched.ref, sha256, decoded.width, decoded.height, decoded.orientation)
    except BadImage as reason:
        outcome = Failure(fetched.ref, "decode", reason.error, reason.message)
    return PreparedImage(outcome, pixels, seconds + StepSeconds(decode=time.perf_counter() - started))


def empty_batch(run: VariantRun, n_images: int) -> FloatArray | PixelArray:
    """Room for a variant's batch, `[n_images, size, size, 3]` as in `PixelBatch`; it holds what was there."""
    shape = (n_images, run.variant.size, run.variant.size, 3)
    return np.empty(shape, np.uint8) if run.precision == "fast" else np.empty(shape, np.float32)

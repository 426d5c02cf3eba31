"""One fetched image: decoded once, resized for each variant, or the reason why not."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

from transforms import images
from transforms.errors import BadImage
from transforms.fingerprints import VariantRun
from transforms.records import Failure, FloatArray, ImageInfo, StepSeconds
from transforms.resize import resize
from transforms.storage import Fetched


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """One image after fetching, decoding and resizing.

    Attributes:
        outcome: What the row will say, or why there is none.
        pixels: For each variant float32 `[size, size, 3]`, RGB, nominally 0 to 1; empty for a failure.
        seconds: What it took.
    """

    outcome: ImageInfo | Failure
    pixels: Mapping[str, FloatArray]
    seconds: StepSeconds


def prepare_image(fetched: Fetched, runs: tuple[VariantRun, ...]) -> PreparedImage:
    """Decode once and resize for each variant; a bad image gives a Failure."""
    seconds = StepSeconds(fetch=fetched.seconds)
    if isinstance(fetched.content, BadImage):
        reason = fetched.content
        failure = Failure(fetched.ref, "fetch", reason.error, reason.message, fetched.attempts)
        return PreparedImage(failure, {}, seconds)
    started = time.perf_counter()
    pixels: dict[str, FloatArray] = {}
    outcome: ImageInfo | Failure
    try:
        decoded = images.decode(fetched.content)
        for run in runs:
            pixels[run.variant.name] = resize(decoded, run.variant.size, run.variant.resize)
        height, width, _ = decoded.pixels.shape
        sha256 = hashlib.sha256(fetched.content).hexdigest()
        outcome = ImageInfo(fetched.ref, sha256, width, height, decoded.orientation)
    except BadImage as reason:
        outcome = Failure(fetched.ref, "decode", reason.error, reason.message)
    return PreparedImage(outcome, pixels, seconds + StepSeconds(decode=time.perf_counter() - started))

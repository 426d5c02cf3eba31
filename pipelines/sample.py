"""What a few of the images cost here: read and decoded as a run would do it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.terminal import tracked
from transforms import images, index
from transforms.errors import BadImage
from transforms.fetching import fetch_many
from transforms.ordered import in_chunks
from transforms.prepare import DECODE_TOGETHER
from transforms.records import DecodedImage, ImageRef, Unit
from transforms.resize import ModelInput, resize_many
from transforms.variants import Variant

SAMPLED = 256
UNITS_SAMPLED = 8
"""Each costs a request or two for its members."""


@dataclass(frozen=True)
class Sample:
    """What reading and decoding images took.

    Attributes:
        images: How many there were.
        failures_by: How many of them cannot be read or decoded, for each `step: error`.
        bytes_an_image: On average.
        fetched_per_second: Images read a second from this machine, all requests at once.
        decode_seconds: Of CPU for an image, decoded once and resized for each variant.
    """

    images: int
    failures_by: dict[str, int]
    bytes_an_image: float
    fetched_per_second: float
    decode_seconds: float


def choose(units: Sequence[Unit]) -> list[ImageRef]:
    """Some images of some units, the same each time."""
    chosen = random.Random(0)
    some = chosen.sample(units, min(UNITS_SAMPLED, len(units)))
    refs = [index.members(unit) for unit in some]
    each = -(-SAMPLED // max(1, len(some)))
    return [ref for its in refs for ref in sorted(chosen.sample(its, min(each, len(its))), key=its.index)]


def measure(refs: Sequence[ImageRef], variants: Sequence[Variant]) -> Sample | None:
    """Read and decode the images; None where none could be read."""
    # The first request connects, the first call of TensorFlow builds its kernels.
    first = [each.content for each in fetch_many(refs[:1], images.MAX_BYTES)]
    _decode([content for content in first if isinstance(content, bytes)], variants)
    started = time.perf_counter()
    coming = tracked(fetch_many(refs, images.MAX_BYTES), "reading a sample", "images", len(refs))
    fetched = [each.content for each in coming]
    fetch_seconds = time.perf_counter() - started
    read = [content for content in fetched if isinstance(content, bytes)]
    if not read:
        return None
    started = time.process_time()
    not_decoded = _decode(read, variants)
    decode_seconds = time.process_time() - started
    not_read = [content for content in fetched if isinstance(content, BadImage)]
    failures = [
        f"{step}: {bad.error}" for step, its in (("fetch", not_read), ("decode", not_decoded)) for bad in its
    ]
    return Sample(
        images=len(refs),
        failures_by=dict(Counter(failures).most_common()),
        bytes_an_image=sum(map(len, read)) / len(read),
        fetched_per_second=len(refs) / fetch_seconds,
        decode_seconds=decode_seconds / len(read),
    )


def _decode(contents: Sequence[bytes], variants: Sequence[Variant]) -> list[BadImage]:
    """Decode and resize as `Prepare` does, a few at once; gives why some cannot be."""
    inputs = tuple(ModelInput(variant.size, variant.resize) for variant in variants)
    bad: list[BadImage] = []
    for chunk in in_chunks(contents, DECODE_TOGETHER):
        decoded = [_decoded(content) for content in chunk]
        whole = [image for image in decoded if isinstance(image, DecodedImage)]
        bad += [each for each in (*decoded, *resize_many(whole, inputs)) if isinstance(each, BadImage)]
    return bad


def _decoded(content: bytes) -> DecodedImage | BadImage:
    try:
        return images.decode(content, lazily=True)
    except BadImage as bad:
        return bad

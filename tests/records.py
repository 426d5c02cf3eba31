"""Records made up for the tests of single stages."""

from __future__ import annotations

import numpy as np

from tests import tiny
from transforms.fingerprints import VariantRun, members_hash, uri_hash_sum
from transforms.footers import Footer
from transforms.records import Failure, ImageInfo, ImageRef, ScoreBatch, StepSeconds, Target, Unit


def refs(count: int, version: str = "1") -> list[ImageRef]:
    """Images that are nowhere."""
    return [ImageRef(f"/photos/{number:04d}.jpg", 100 + number, version) for number in range(count)]


def unit(images: list[ImageRef], number: int = 0) -> Unit:
    """A unit of them that no index holds."""
    hash_sum = uri_hash_sum(ref.uri for ref in images)
    return Unit(number, "nowhere.parquet", 0, len(images), hash_sum, members_hash(images))


def info(ref: ImageRef) -> ImageInfo:
    """What a row would say of an image."""
    return ImageInfo(ref, "ab" * 32, 640, 480, 6)


def failure(ref: ImageRef, error: str = "truncated") -> Failure:
    """Why an image has no row."""
    return Failure(ref, "decode", error, "cut off")


def score_batch(
    target: Target, number: int, good: list[ImageRef], bad: list[ImageRef] | None = None, last: bool = False
) -> ScoreBatch:
    """Scores that depend on the image alone."""
    seeds = [int(ref.uri[-8:-4]) for ref in good]
    logits = np.array([np.arange(tiny.CLASSES) * 0.5 + seed for seed in seeds], np.float32)
    features = np.array([np.full(tiny.FEATURES, seed) for seed in seeds], np.float32)
    return ScoreBatch(
        target=target,
        number=number,
        last=last,
        images=tuple(map(info, good)),
        logits=logits if good else None,
        features=features if good else None,
        failures=tuple(map(failure, bad or [])),
        seconds=StepSeconds(fetch=1.0, decode=2.0, model=3.0),
        started=1000.0,
    )


def batches(run: VariantRun, of: Unit, good: list[ImageRef], bad: list[ImageRef]) -> list[ScoreBatch]:
    """A unit in two batches, its failures in the first."""
    target, half = run.target(of), len(good) // 2
    return [
        score_batch(target, 0, good[:half], bad),
        score_batch(target, 1, good[half:], last=True),
    ]


def footer(run: VariantRun, of: Unit, **changes: object) -> Footer:
    """A footer of a unit in which every image has a row, but for `changes`."""
    fields = {
        "variant": run.variant.name,
        "handle": run.variant.handle,
        "random_weights": False,
        "settings": run.settings,
        "fingerprint": run.fingerprint(of),
        "unit": of.number,
        "members": of.members,
        "rows": of.n_images,
        "rows_hash_sum": of.uri_hash_sum,
        "failures": 0,
        "failures_hash_sum": uri_hash_sum(()),
        "failures_file": None,
        "failures_by": {},
        "seconds": StepSeconds(),
        "model": {},
        "run": "r",
        "started": 0.0,
        "finished": 1.0,
        "packages": {},
    }
    return Footer(**{**fields, **changes})

"""Prepare: units to batches of pixels. Fetch, decode once, resize for each variant."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import apache_beam as beam
import numpy as np

from transforms import images, index
from transforms.commit import committed
from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.ordered import ordered_map
from transforms.prepared import PreparedImage, prepare_image
from transforms.records import (
    Failure,
    ImageInfo,
    PixelBatch,
    Receipt,
    StepSeconds,
    Target,
    Unit,
)
from transforms.storage import PASSING_ERROR, fetch_many

OUTAGE_MIN_IMAGES = 16
OUTAGE_RATIO = 0.2


class Prepare(beam.PTransform):
    """Units to PixelBatches, lazily: the next batch is made while the model runs on this one.

    Args:
        output: The output directory; units that are done there are passed over.
        runs: The variants.
        batch_size: Images a batch.
    """

    def __init__(self, output: str, runs: tuple[VariantRun, ...], batch_size: int) -> None:
        super().__init__()
        self._output = output
        self._runs = runs
        self._batch_size = batch_size

    def expand(self, units: beam.PCollection[Unit]) -> beam.PCollection[PixelBatch]:
        return units | beam.FlatMap(
            prepare_unit, output=self._output, runs=self._runs, batch_size=self._batch_size
        ).with_output_types(PixelBatch)


def prepare_unit(
    unit: Unit, output: str, runs: tuple[VariantRun, ...], batch_size: int
) -> Iterator[PixelBatch]:
    """One unit's batches for each variant that `output` does not hold yet, and a receipt for each that it does.

    Args:
        unit: The unit.
        output: The output directory.
        runs: The variants.
        batch_size: Images a batch; only a unit's last one is smaller. As many again are prepared ahead.

    Raises:
        RunError: Every image was refused for want of permission, or over 20 % could not be read: an outage, and
            no failure of theirs.
    """
    missing = []
    for run in runs:
        target = run.target(unit)
        receipt = committed(output, run, target)
        if receipt is None:
            missing.append(run)
        else:
            yield _passed_over(target, receipt)
    if missing:
        yield from _prepare_missing(unit, tuple(missing), batch_size)


def _prepare_missing(unit: Unit, runs: tuple[VariantRun, ...], batch_size: int) -> Iterator[PixelBatch]:
    gathering = _Gathering(unit, runs, batch_size)
    fetched = fetch_many(index.members(unit), images.MAX_BYTES)
    prepared = ordered_map(_decoders(), partial(prepare_image, runs=runs), fetched, ahead=batch_size)
    for image in prepared:
        if gathering.full:
            yield from gathering.take(last=False)
        gathering.add(image)
    gathering.check_outage(unit)
    yield from gathering.take(last=True)


class _Gathering:
    """The batch that is being filled, for each variant at once."""

    def __init__(self, unit: Unit, runs: tuple[VariantRun, ...], batch_size: int) -> None:
        self._targets = {run: run.target(unit) for run in runs}
        self._batch_size = batch_size
        self._number = 0
        self._started = time.time()
        self._fetch_errors: Counter[str] = Counter()
        self._start()

    def _start(self) -> None:
        self._infos: list[ImageInfo] = []
        self._failures: list[Failure] = []
        self._seconds = StepSeconds()
        self._pixels = {
            run: np.empty((self._batch_size, run.variant.size, run.variant.size, 3), np.float32)
            for run in self._targets
        }

    @property
    def full(self) -> bool:
        return len(self._infos) == self._batch_size

    def add(self, image: PreparedImage) -> None:
        self._seconds += image.seconds
        if isinstance(image.outcome, Failure):
            self._failures.append(image.outcome)
            self._fetch_errors[image.outcome.error] += image.outcome.step == "fetch"
            return
        for run, batch in self._pixels.items():
            batch[len(self._infos)] = image.pixels[run.variant.name]
        self._infos.append(image.outcome)

    def check_outage(self, unit: Unit) -> None:
        """Raise RunError where the store failed rather than the images; a few images cannot tell."""
        refused, passing = self._fetch_errors["permission_denied"], self._fetch_errors[PASSING_ERROR]
        if unit.n_images < OUTAGE_MIN_IMAGES:
            return
        if refused == unit.n_images or passing > OUTAGE_RATIO * unit.n_images:
            what = "no permission to read" if refused else "the store failed on"
            raise RunError(
                f"{what} {max(refused, passing):,} of the {unit.n_images:,} images of unit {unit.number}, which is "
                "left for later; mend the storage and run the same command again"
            )

    def take(self, last: bool) -> Iterator[PixelBatch]:
        """One batch for each variant; then the next one is begun."""
        share = StepSeconds(
            fetch=self._seconds.fetch / len(self._targets), decode=self._seconds.decode / len(self._targets)
        )
        for run, target in self._targets.items():
            yield PixelBatch(
                target=target,
                number=self._number,
                last=last,
                images=tuple(self._infos),
                pixels=self._pixels.pop(run)[: len(self._infos)],
                failures=tuple(self._failures),
                seconds=share,
                started=self._started,
            )
        self._number += 1
        self._start()


def _passed_over(target: Target, receipt: Receipt) -> PixelBatch:
    pixels = np.empty((0, 0, 0, 3), np.float32)
    return PixelBatch(target, 0, True, (), pixels, (), StepSeconds(), time.time(), receipt)


@cache
def _decoders() -> ThreadPoolExecutor:
    """The process's decode threads; TensorFlow's decoders release the GIL."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")

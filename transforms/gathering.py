"""Prepared images to batches: one is filled for each variant at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from transforms.fingerprints import VariantRun
from transforms.prepared import PreparedImage, empty_batch
from transforms.records import Failure, ImageInfo, PixelBatch, StepSeconds, Target


class Gathering:
    """The batch that is being filled, for each variant at once.

    Args:
        targets: One unit's targets, by the variants that the images are prepared for.
        batch_size: Images a batch, failures not counted.
    """

    def __init__(self, targets: Mapping[VariantRun, Target], batch_size: int) -> None:
        self._targets = targets
        self._batch_size = batch_size
        self._number = 0
        self._started = time.time()
        self._start()

    def _start(self) -> None:
        self._infos: list[ImageInfo] = []
        self._failures: list[Failure] = []
        self._seconds = StepSeconds()
        self._pixels = {run: empty_batch(run, self._batch_size) for run in self._targets}

    def wait_for(self, prepared: Iterator[PreparedImage]) -> PreparedImage | None:
        """The next image, or None after the last one; the wait is counted."""
        started = time.perf_counter()
        image = next(prepared, None)
        self._seconds += StepSeconds(wait=time.perf_counter() - started)
        return image

    @property
    def full(self) -> bool:
        """Whether the batch has to be taken before an image is added."""
        return len(self._infos) == self._batch_size

    def add(self, image: PreparedImage) -> None:
        """Copy an image's pixels into each variant's batch, or keep why there are none."""
        self._seconds += image.seconds
        if isinstance(image.outcome, Failure):
            self._failures.append(image.outcome)
            return
        for run, batch in self._pixels.items():
            batch[len(self._infos)] = image.pixels[run.variant.name]
        self._infos.append(image.outcome)

    def take(self, last: bool) -> Iterator[PixelBatch]:
        """One batch for each variant; then the next one is begun."""
        share = self._seconds / len(self._targets)
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

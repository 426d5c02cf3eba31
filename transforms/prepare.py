"""Prepare: units to batches of pixels. Fetch, decode once, resize for each variant."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain

import apache_beam as beam
import numpy as np

from transforms import attempts, images, index
from transforms.commit import committed, failed_uris, receipt_of
from transforms.errors import RunError
from transforms.fetching import fetch_many
from transforms.fingerprints import VariantRun
from transforms.gathering import Gathering
from transforms.ordered import in_chunks, ordered_map
from transforms.outage import FetchOutcomes
from transforms.prepared import prepare_images
from transforms.quarantine import Quarantined, one_at_a_time
from transforms.records import (
    Failure,
    ImageInfo,
    ImageRef,
    PixelBatch,
    ScoreBatch,
    StepSeconds,
    Target,
    Unit,
)

ATTEMPTS_TOGETHER = 2
"""Attempts at a unit that may die with their process, before its images are scored one at a time."""
QUARANTINE_BATCH = 32

DECODE_TOGETHER = 8
"""Images that one call of TensorFlow decodes; more are hardly faster, and hold more at once."""


class Prepare(beam.PTransform):
    """Units to PixelBatches, lazily: the next batch is made while the model runs on this one.

    Args:
        output: The output directory; units that are done there are passed over.
        runs: The variants.
        run_id: Name of this run, for the markers of what it began.
        batch_size: Images a batch; None for what suits the device and the modules.
        retry_failures: Try the failures of units that are done once more.
    """

    def __init__(
        self,
        output: str,
        runs: tuple[VariantRun, ...],
        run_id: str,
        batch_size: int | None,
        retry_failures: bool = False,
    ) -> None:
        super().__init__()
        self._retry_failures = retry_failures
        self._output = output
        self._runs = runs
        self._run_id = run_id
        self._batch_size = batch_size

    def expand(self, units: beam.PCollection[Unit]) -> beam.PCollection[PixelBatch]:
        return units | beam.FlatMap(
            prepare_unit,
            output=self._output,
            runs=self._runs,
            run_id=self._run_id,
            batch_size=self._batch_size,
            retry_failures=self._retry_failures,
        ).with_output_types(PixelBatch)


def prepare_unit(
    unit: Unit,
    output: str,
    runs: tuple[VariantRun, ...],
    run_id: str,
    batch_size: int | None,
    retry_failures: bool = False,
) -> Iterator[PixelBatch]:
    """One unit's batches for each variant that `output` does not hold yet, and a receipt for each that it does.

    Two attempts at a unit may die with their process. The third scores it in quarantine.

    Args:
        unit: The unit.
        output: The output directory.
        runs: The variants.
        run_id: Name of this run.
        batch_size: Images a batch; only a unit's last one is smaller. As many again are prepared ahead.
        retry_failures: Try what failed in an earlier run once more, for each variant that has failures.

    Raises:
        RunError: Every image was refused for want of permission, or over 20 % could not be read: an outage, and
            no failure of theirs.
    """
    work = _Work({}, [])
    for run in runs:
        target = run.target(unit)
        footer = committed(output, run, target)
        if footer is None:
            work.missing[run] = target
        elif retry_failures and footer.failures and footer.run != run_id:
            again = replace(target, round=footer.round + 1, n_images=footer.failures)
            work.again.append((run, again, failed_uris(output, footer)))
        else:
            receipt = receipt_of(run, target, footer)
            yield _done(
                ScoreBatch(target, 0, True, (), None, None, (), StepSeconds(), time.time(), receipt=receipt)
            )
    if not work.missing and not work.again:
        return
    in_quarantine = attempts.count(output, unit.number) >= ATTEMPTS_TOGETHER
    marker = attempts.begin(output, run_id, unit.number)
    try:
        for refs, targets in work.parts(index.members(unit)):
            if in_quarantine:
                yield from _one_at_a_time(refs, targets)
            else:
                yield from _in_batches(refs, targets, batch_size or _own_batch_size(runs))
    finally:
        # What the store does not let us remove now, the end of the run does.
        with suppress(RunError):
            attempts.end(marker)


@dataclass(frozen=True)
class _Work:
    """What is to be done in a unit.

    Attributes:
        missing: Targets without a rows file.
        again: Targets whose failures are tried once more, with these images' uris.
    """

    missing: dict[VariantRun, Target]
    again: list[tuple[VariantRun, Target, set[str]]]

    def parts(self, refs: list[ImageRef]) -> Iterator[tuple[list[ImageRef], dict[VariantRun, Target]]]:
        """Images, and the targets that they are done for together."""
        if self.missing:
            yield refs, self.missing
        for run, target, uris in self.again:
            yield [ref for ref in refs if ref.uri in uris], {run: target}


def _in_batches(
    refs: list[ImageRef], targets: Mapping[VariantRun, Target], batch_size: int
) -> Iterator[PixelBatch]:
    gathering, outcomes = Gathering(targets, batch_size), FetchOutcomes()
    fetched = fetch_many(refs, images.MAX_BYTES)
    prepare = partial(prepare_images, runs=tuple(targets))
    together = max(1, min(DECODE_TOGETHER, batch_size // 2))
    chunks = ordered_map(_decoders(), prepare, in_chunks(fetched, together), ahead=batch_size // together)
    prepared = chain.from_iterable(chunks)
    while image := gathering.wait_for(prepared):
        if gathering.full:
            yield from gathering.take(last=False)
        outcomes.add(image.outcome)
        gathering.add(image)
    outcomes.check_outage(next(iter(targets.values())))
    yield from gathering.take(last=True)


def _one_at_a_time(refs: list[ImageRef], targets: Mapping[VariantRun, Target]) -> Iterator[PixelBatch]:
    """The images, each scored by itself in another process; one that ends the process is a failure."""
    started, number = time.time(), 0
    outcomes = FetchOutcomes()
    gathered: list[Quarantined] = []
    for image in one_at_a_time(refs, tuple(targets)):
        if len(gathered) == QUARANTINE_BATCH:
            yield from _scored_alone(targets.values(), number, False, gathered, started)
            gathered, number = [], number + 1
        outcomes.add(image.outcome)
        gathered.append(image)
    outcomes.check_outage(next(iter(targets.values())))
    yield from _scored_alone(targets.values(), number, True, gathered, started)


def _scored_alone(
    targets: Collection[Target], number: int, last: bool, gathered: list[Quarantined], started: float
) -> Iterator[PixelBatch]:
    """One batch for each target of images that were scored in quarantine."""
    seconds = sum((image.seconds for image in gathered), StepSeconds()) / len(targets)
    for target in targets:
        reasons = [image.failed.get(target.variant, image.outcome) for image in gathered]
        good = [image.scores[target.variant] for image in gathered if target.variant in image.scores]
        outputs = {name: np.stack([each[name] for each in good]) for name in (good[0] if good else ())}
        yield _done(
            ScoreBatch(
                target=target,
                number=number,
                last=last,
                images=tuple(reason for reason in reasons if isinstance(reason, ImageInfo)),
                logits=outputs.get("logits"),
                features=outputs.get("features"),
                failures=tuple(reason for reason in reasons if isinstance(reason, Failure)),
                seconds=seconds,
                started=started,
                model={"quarantine": "one image at a time"},
            )
        )


def _done(scores: ScoreBatch) -> PixelBatch:
    """The batch that leaves nothing to do for the model."""
    nothing = np.empty((0, 0, 0, 3), np.uint8)
    return PixelBatch(
        scores.target, scores.number, scores.last, (), nothing, (), StepSeconds(), scores.started, scores
    )


def _own_batch_size(runs: tuple[VariantRun, ...]) -> int:
    from transforms.runtime import load_models

    return load_models(runs).batch_size


@cache
def _decoders() -> ThreadPoolExecutor:
    from transforms.devices import decode_threads

    return ThreadPoolExecutor(decode_threads(), thread_name_prefix="decode")

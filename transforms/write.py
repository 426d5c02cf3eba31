"""WriteUnits: scores to one Parquet file a unit and variant."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import apache_beam as beam
from apache_beam.metrics import Metrics

from transforms import tally
from transforms.commit import TargetWriter
from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.infer import METRICS
from transforms.records import Receipt, ScoreBatch, StepSeconds


@dataclass(frozen=True)
class StopRule:
    """When a run cannot succeed any more.

    Attributes:
        n_images: Images in the whole index.
        max_failure_ratio: Which part of them may fail, for each variant.
    """

    n_images: int
    max_failure_ratio: float

    def check(self, counts: tally.Tally, variant: str) -> None:
        """Raise RunError where too many of the variant's images failed in this run and some are still to be done.

        What failed in earlier runs does not count, so that a dataset can be gone on with.
        """
        done, failed = counts.committed(variant)
        if done < self.n_images and failed > self.max_failure_ratio * self.n_images:
            raise RunError(
                f"stopped early: {failed:,} of {self.n_images:,} images of {variant} failed already, more than "
                f"--max-failure-ratio {self.max_failure_ratio} allows; see _failures/ in the output, then "
                "mend the input or raise the ratio"
            )


class WriteUnits(beam.PTransform):
    """ScoreBatches to committed files and their Receipts.

    Must be fused with what makes the batches: a target's batches have to come to one instance, in order.

    Args:
        output: The output directory.
        runs: The variants.
        run_id: Name of this run, for the footers.
        stop_rule: When to give the run up.
    """

    def __init__(self, output: str, runs: tuple[VariantRun, ...], run_id: str, stop_rule: StopRule) -> None:
        super().__init__()
        self._dofn = _WriteUnits(output, runs, run_id, stop_rule)

    def expand(self, batches: beam.PCollection[ScoreBatch]) -> beam.PCollection[Receipt]:
        return batches | beam.ParDo(self._dofn).with_output_types(Receipt)


def count_batch(batch: ScoreBatch, write_seconds: float) -> None:
    """Add a batch to Beam's metrics; on the runner's own thread, since those of other threads vanish."""
    refs = [each.ref for each in batch.images] + [each.ref for each in batch.failures]
    Metrics.counter(METRICS, "images").inc(len(refs))
    Metrics.counter(METRICS, "bytes").inc(sum(ref.size or 0 for ref in refs))
    for step, count in Counter(failure.step for failure in batch.failures).items():
        Metrics.counter(METRICS, f"{step}_failures").inc(count)
    Metrics.distribution(METRICS, "batch_images").update(len(batch.images))
    for name, seconds in asdict(batch.seconds + StepSeconds(write=write_seconds)).items():
        Metrics.distribution(METRICS, f"{name}_milliseconds").update(round(1000 * seconds))


class _WriteUnits(beam.DoFn):
    """Holds the open writers of the unit that is under way, at most one a variant."""

    def __init__(self, output: str, runs: tuple[VariantRun, ...], run_id: str, stop_rule: StopRule) -> None:
        self._output = output
        self._runs: Mapping[str, VariantRun] = {run.variant.name: run for run in runs}
        self._run_id = run_id
        self._stop_rule = stop_rule
        self._open: dict[str, TargetWriter] = {}

    def start_bundle(self) -> None:
        self._abandon_open()

    def process(self, batch: ScoreBatch) -> Iterator[Receipt]:
        counts = tally.of_run(self._output, self._run_id)
        variant = batch.target.variant
        if batch.receipt:
            counts.add_passed_over(batch.receipt)
            Metrics.counter(METRICS, "passed_over").inc(batch.receipt.rows + batch.receipt.failures)
            yield batch.receipt
            return
        if batch.number == 0 and variant not in self._open:
            run = self._runs[variant]
            self._open[variant] = TargetWriter(self._output, run, batch.target, self._run_id)
        if variant not in self._open:
            raise RuntimeError(f"batch {batch.number} of {variant} came before batch 0 of its unit")
        started = time.perf_counter()
        self._open[variant].add(batch)
        counts.add_batch(batch)
        receipt = self._open.pop(variant).commit() if batch.last else None
        count_batch(batch, write_seconds=time.perf_counter() - started)
        if receipt:
            counts.add_receipt(receipt)
            self._stop_rule.check(counts, variant)
            yield receipt

    def finish_bundle(self) -> None:
        if self._open:
            raise RuntimeError(f"the bundle ended inside a unit of {', '.join(self._open)}")

    def teardown(self) -> None:
        self._abandon_open()

    def _abandon_open(self) -> None:
        for writer in self._open.values():
            writer.close()
        self._open = {}

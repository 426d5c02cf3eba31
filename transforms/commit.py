"""One target's rows and failures: streamed to local files, then committed under their final names."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import replace
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import index, storage
from transforms.errors import RunError
from transforms.fingerprints import VariantRun, add_hash_sums, uri_hash_sum
from transforms.footers import Footer, read_footer, united
from transforms.records import Failure, ModelFacts, Receipt, ScoreBatch, StepSeconds, Target
from transforms.tables import (
    ROWS_PER_GROUP,
    failures_directory,
    failures_path,
    failures_table,
    rounds,
    rows_directory,
    rows_path,
    rows_schema,
    rows_table,
    rubbish,
)

EMPTY_HASH_SUM = uri_hash_sum(())


def committed(output: str, run: VariantRun, target: Target) -> Footer | None:
    """What the rounds of a target that is done already say together; None where it is not.

    A rows file whose failures file is gone, which takes a person or a race of two runs, is done anew.
    """
    folder = os.path.join(output, rows_directory(run.variant.directory))
    start = os.path.basename(rows_path(run, replace(target, round=0))).removesuffix("parquet")
    names = next(iter(rounds(storage.list_names(folder, start)).values()), [])
    if not names:
        return None
    footer = united([read_footer(os.path.join(folder, name)) for name in names])
    if footer.failures_file and not storage.exists(os.path.join(output, footer.failures_file)):
        for name in names:
            storage.delete(os.path.join(folder, name))
        return None
    return footer


def receipt_of(run: VariantRun, target: Target, footer: Footer) -> Receipt:
    """The receipt of a target that `committed` found."""
    path = rows_path(run, replace(target, round=0))
    return Receipt(target.variant, target.unit.number, footer.rows, footer.failures, path)


def failed_uris(output: str, footer: Footer) -> set[str]:
    """The images that have no row."""
    if footer.failures_file is None:
        return set()
    table = pq.read_table(
        pa.BufferReader(storage.read(os.path.join(output, footer.failures_file))), columns=["uri"]
    )
    return set(table.column("uri").to_pylist())


class TargetWriter:
    """Takes a target's batches in order and commits them as one rows file.

    The rows file is the only commit. Failures are written first, under a name of this attempt's own, and the
    rows file names them: dying in between leaves a failures file that nobody reads. Any number of attempts
    may run, one after another or at once: the first rows file to appear counts, and the others' are dropped.
    """

    def __init__(self, output: str, run: VariantRun, target: Target, run_id: str) -> None:
        self._output = output
        self._run = run
        self._target = target
        self._run_id = run_id
        self._started = 0.0
        self._next_number = 0
        self._failures: list[Failure] = []
        self._seconds = StepSeconds()
        self._model: ModelFacts = {}
        self._rows = 0
        self._hash_sum = EMPTY_HASH_SUM
        self._pending: list[pa.Table] = []
        self._folder = tempfile.TemporaryDirectory(prefix="pixelbeam-")
        self._rows_file = os.path.join(self._folder.name, "rows.parquet")
        self._kept = index.kept_columns(target.unit.index_part) if run.keep else pa.schema([])
        self._writer = pq.ParquetWriter(
            self._rows_file, rows_schema(run, self._kept), compression="zstd", use_dictionary=False
        )

    def add(self, batch: ScoreBatch) -> None:
        """Append one batch; RuntimeError where it is not the next one, which only a broken chain can cause."""
        if batch.number != self._next_number or batch.target != self._target:
            raise RuntimeError(
                f"batch {batch.number} of {batch.target.variant} unit {batch.target.unit.number} came where "
                f"batch {self._next_number} of unit {self._target.unit.number} was due"
            )
        if batch.number == 0:
            self._started = batch.started
        self._next_number += 1
        self._model = batch.model or self._model
        started = time.perf_counter()
        self._failures.extend(batch.failures)
        if batch.images:
            self._pending.append(rows_table(batch, self._run, self._kept))
            self._rows += len(batch.images)
            self._hash_sum = add_hash_sums(
                self._hash_sum, uri_hash_sum(info.ref.uri for info in batch.images)
            )
        if sum(table.num_rows for table in self._pending) >= ROWS_PER_GROUP:
            self._write_pending()
        self._seconds += batch.seconds + StepSeconds(write=time.perf_counter() - started)

    def commit(self) -> Receipt:
        """Commit what was added, and remove what this unit's new file supersedes.

        Returns:
            The receipt of the file that counts: this one, or that of an attempt that was faster.
        """
        started = time.perf_counter()
        unit = self._target.unit
        if self._rows + len(self._failures) != self._target.n_images:
            raise RuntimeError(
                f"unit {unit.number} lists {self._target.n_images} images, but {self._rows} rows and "
                f"{len(self._failures)} failures came"
            )
        if not index.holds(self._output, unit):
            raise RunError(
                f"an image of unit {unit.number} changed and another run lists it anew; run the same command again"
            )
        # A round that has no new rows says nothing new.
        if self._rows or self._target.round == 0:
            self._write_pending()
            failures_file = self._commit_failures()
            self._seconds += StepSeconds(write=time.perf_counter() - started)
            self._writer.add_key_value_metadata(self._footer(failures_file).to_metadata())
            self._writer.close()
            storage.commit(self._rows_file, os.path.join(self._output, rows_path(self._run, self._target)))
        self.close()
        footer = committed(self._output, self._run, self._target)
        if footer is None:
            raise RunError(
                f"the rows of unit {unit.number} are gone as soon as written; run the same command again"
            )
        # Of an attempt that was slower than another, the failures file is swept with the rest.
        self._sweep(footer)
        return receipt_of(self._run, self._target, footer)

    def close(self) -> None:
        """Remove the local files; harmless after `commit`."""
        self._writer.close()
        self._folder.cleanup()

    def _write_pending(self) -> None:
        if self._pending:
            self._writer.write_table(pa.concat_tables(self._pending), row_group_size=ROWS_PER_GROUP)
            self._pending = []

    def _commit_failures(self) -> str | None:
        if not self._failures:
            return None
        local = os.path.join(self._folder.name, "failures.parquet")
        pq.write_table(failures_table(self._failures), local, compression="zstd")
        path = failures_path(self._run, self._target, uuid.uuid4().hex[:8])
        storage.commit(local, os.path.join(self._output, path))
        return path

    def _footer(self, failures_file: str | None) -> Footer:
        reasons = Counter(f"{failure.step}: {failure.error}" for failure in self._failures)
        return Footer(
            variant=self._run.variant.name,
            handle=self._run.variant.handle,
            random_weights=self._run.random_weights,
            settings=self._run.settings,
            fingerprint=self._target.fingerprint,
            unit=self._target.unit.number,
            members=self._target.unit.members,
            rows=self._rows,
            rows_hash_sum=self._hash_sum,
            failures=len(self._failures),
            failures_hash_sum=uri_hash_sum(failure.ref.uri for failure in self._failures),
            failures_file=failures_file,
            failures_by=dict(sorted(reasons.items())),
            seconds=self._seconds,
            model=self._model,
            run=self._run_id,
            started=self._started,
            finished=time.time(),
            packages=package_versions(),
            round=self._target.round,
        )

    def _sweep(self, footer: Footer) -> None:
        directory = self._run.variant.directory
        part = f"part-{self._target.unit.number:06d}-"
        rows_names, failures_names = (
            storage.list_names(os.path.join(self._output, folder), part)
            for folder in (rows_directory(directory), failures_directory(directory))
        )
        current = {(self._target.unit.number, self._target.fingerprint): footer}
        for path in rubbish(current, rows_names, failures_names, directory):
            storage.delete(os.path.join(self._output, path))


@cache
def package_versions() -> dict[str, str]:
    """Versions of the packages that decide the result."""
    names = ("pixelbeam", "apache-beam", "tensorflow", "numpy", "pillow", "pyarrow")
    return {name: importlib.metadata.version(name) for name in names}

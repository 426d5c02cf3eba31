"""The main job: list, launch, watch, settle. `build` is the diagram of the README."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Iterable

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipelines import model_dir, progress, settle
from pipelines.config import RunConfig
from pipelines.listing import MAX_IMAGES_PER_UNIT, check_output, list_work
from pipelines.record import record_run
from transforms import index, tally
from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.index import Index
from transforms.infer import EfficientNetHandler
from transforms.prepare import Prepare
from transforms.records import Receipt
from transforms.tables import Footer
from transforms.write import StopRule, WriteUnits

EXIT_COMPLETE = 0
EXIT_TOO_MANY_FAILURES = 3

MIN_IMAGES_PER_UNIT = 64
UNIT_SECONDS = 300.0
# Measured with EfficientNet-B0 and B3: 160 and 36 images a second on two cores.
MULTIPLY_ADDS_PER_CORE_SECOND = 32e9


def build(
    pipeline: beam.Pipeline,
    index_parts: Iterable[str],
    config: RunConfig,
    runs: tuple[VariantRun, ...],
    run_id: str,
    stop_rule: StopRule,
) -> beam.PCollection[Receipt]:
    """The pipeline: index parts to the receipts of committed files. Only keys are shuffled."""
    return (
        pipeline
        | "Parts" >> beam.Create(list(index_parts))
        | "Units" >> beam.FlatMap(index.units_of)
        | "Reshuffle" >> beam.Reshuffle()
        | "Prepare" >> Prepare(config.output, runs, config.batch_size or default_batch_size(runs))
        | "RunInference" >> RunInference(EfficientNetHandler(runs))
        | "WriteUnits" >> WriteUnits(config.output, runs, run_id, stop_rule)
    )


def run(config: RunConfig) -> int:
    """Do what the configuration says; returns the exit code.

    Raises:
        UsageError: The command cannot mean what it says.
        RunError: It cannot be carried out; what was committed stays.
    """
    check_output(config.output)
    runs = model_dir.resolve_variants(config)
    work = list_work(config.inputs, config.output, config.images_per_unit or default_unit(runs), config.limit)
    settle.refuse_other_settings(config.output, runs, work, config.replace)
    run_id = record_run(config, runs, work)
    with progress.Live(tally.of_run(run_id), work.n_images, len(runs)):
        launch(config, runs, work, run_id)
    footers = settle.settle(config.output, runs, work)
    progress.print_summary(config.output, runs, footers, run_id)
    return exit_code(config.max_failure_ratio, footers)


def launch(config: RunConfig, runs: tuple[VariantRun, ...], work: Index, run_id: str) -> None:
    """Run the pipeline to its end; raises RunError with the one line that matters where it fails."""
    # A worker in this process logs and prints each error that the runner then raises.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    pipeline = beam.Pipeline(options=beam_options(config))
    build(
        pipeline, work.part_paths(), config, runs, run_id, StopRule(work.n_images, config.max_failure_ratio)
    )
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            pipeline.run().wait_until_finish()
    except RuntimeError as error:
        raise RunError(reason_of(error)) from error


def beam_options(config: RunConfig) -> PipelineOptions:
    """Beam's options; without a runner, this process with two threads, of which one fills the other's gaps."""
    options = PipelineOptions(list(config.beam_options))
    if options.view_as(StandardOptions).runner is None:
        in_process = (
            "--runner=FnApiRunner",
            "--direct_running_mode=multi_threading",
            "--direct_num_workers=2",
        )
        options = PipelineOptions([*in_process, *config.beam_options])
    return options


def reason_of(error: RuntimeError) -> str:
    """One line for a failed pipeline: our own error's text; a surprise's last line, after its traceback.

    Runners hand over a worker's error as the text of its traceback.
    """
    text = str(error).split(" [while running")[0].strip()
    ours = re.search(r"^transforms\.errors\.RunError: (.*)", text, re.M)
    if ours:
        return ours.group(1)
    print(text, file=sys.stderr)
    return (
        f"the pipeline failed: {text.splitlines()[-1]}; what was committed stays, run the same command again"
    )


def exit_code(max_failure_ratio: float, footers: dict[str, list[Footer]]) -> int:
    """0, or 3 where more of a variant's images failed than may."""
    for of_variant in footers.values():
        failed = sum(footer.failures for footer in of_variant)
        images = failed + sum(footer.rows for footer in of_variant)
        if failed > max_failure_ratio * images:
            return EXIT_TOO_MANY_FAILURES
    return EXIT_COMPLETE


def default_batch_size(runs: tuple[VariantRun, ...]) -> int:
    """Images a batch: fewer where the images are large, since a batch is held for every variant."""
    return 32 if max(run.variant.size for run in runs) <= 300 else 16


def default_unit(runs: tuple[VariantRun, ...]) -> int:
    """Images a unit: about five minutes of work for all variants on this machine's cores, at most 4096."""
    multiply_adds = sum(run.variant.multiply_adds_billions or 1.0 for run in runs) * 1e9
    images = UNIT_SECONDS * (os.cpu_count() or 1) * MULTIPLY_ADDS_PER_CORE_SECOND / multiply_adds
    return max(MIN_IMAGES_PER_UNIT, min(MAX_IMAGES_PER_UNIT, int(images)))

"""The main job: list, launch, watch, settle. `build` is the diagram of the README."""

from __future__ import annotations

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
from pipelines.listing import MAX_IMAGES_PER_UNIT, list_work
from pipelines.quiet import stderr_aside
from pipelines.record import record_run
from transforms import index, tally
from transforms.errors import RunError, UsageError
from transforms.fingerprints import VariantRun
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
    pipeline = new_pipeline(config)
    runs = model_dir.resolve_variants(config)
    if not config.replace:
        settle.refuse_other_settings(config.output, runs)
    work = list_work(config.inputs, config.output, config.images_per_unit or default_unit(runs), config.limit)
    run_id = record_run(config, runs, work)
    stop_rule = StopRule(work.n_images, config.max_failure_ratio)
    build(pipeline, work.part_paths(), config, runs, run_id, stop_rule)
    with (
        stderr_aside() as terminal,
        progress.Live(tally.of_run(config.output, run_id), work.n_images, len(runs), terminal),
    ):
        launch(pipeline)
    footers = settle.settle(config.output, runs, work)
    progress.print_summary(config.output, runs, footers, run_id)
    return exit_code(config.max_failure_ratio, footers)


def new_pipeline(config: RunConfig) -> beam.Pipeline:
    """An empty pipeline for the runner that was asked for; UsageError where its options do not fit together."""
    try:
        return beam.Pipeline(options=beam_options(config))
    except ValueError as error:
        raise UsageError(" ".join(str(error).split())) from error


def launch(pipeline: beam.Pipeline) -> None:
    """Run the pipeline to its end; raises RunError with the one line that matters where it fails."""
    # A worker in this process logs each error that the runner then raises.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    try:
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
    """One line for a failed pipeline, our own error's text; for a surprise its whole traceback comes first.

    Runners hand over a worker's error as the text of its traceback.
    """
    text = str(error).split(" [while running")[0].strip()
    ours = re.search(r"^transforms\.errors\.RunError: (.*)", text, re.M)
    if ours:
        return ours.group(1)
    return f"{text}\nthe pipeline failed, what was committed stays; run the same command again"


def exit_code(max_failure_ratio: float, footers: dict[str, list[Footer]]) -> int:
    """0, or 3 where more of a variant's images failed than may."""
    for variant, of_variant in footers.items():
        failed = sum(footer.failures for footer in of_variant)
        images = failed + sum(footer.rows for footer in of_variant)
        if failed > max_failure_ratio * images:
            print(
                f"pixelbeam: {failed:,} of {images:,} images of {variant} failed, more than --max-failure-ratio "
                f"{max_failure_ratio} allows; the reasons are in _failures/ in the output",
                file=sys.stderr,
            )
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

"""The main job: list, launch, watch, settle. `build` is the diagram of the README."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipelines import model_dir, progress, settle
from pipelines.config import RunConfig
from pipelines.listing import default_unit, list_work, unit_size
from pipelines.quiet import stderr_aside
from pipelines.record import record_run
from pipelines.verdict import verdict
from transforms import attempts, devices, index, tally
from transforms.containers import Layout
from transforms.errors import RunError, UsageError
from transforms.fingerprints import VariantRun
from transforms.footers import Footer
from transforms.infer import EfficientNetHandler
from transforms.prepare import Prepare
from transforms.records import Receipt
from transforms.runtime import load_models
from transforms.write import StopRule, WriteUnits

EXIT_COMPLETE = 0
EXIT_TOO_MANY_FAILURES = 3


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
        | "Prepare" >> Prepare(config.output, runs, run_id, config.batch_size, config.retry_failures)
        | "RunInference" >> RunInference(EfficientNetHandler(runs, config.wants_gpu))
        | "WriteUnits" >> WriteUnits(config.output, runs, run_id, stop_rule)
    )


def run(config: RunConfig) -> int:
    """Do what the configuration says; returns the exit code.

    Raises:
        UsageError: The command cannot mean what it says.
        RunError: It cannot be carried out; what was committed stays.
    """
    pipeline = new_pipeline(config)
    if config.wants_gpu and is_here(config):
        devices.require_gpu()
    runs = model_dir.resolve_variants(config)
    if not config.replace:
        settle.refuse_other_settings(config.output, runs)
    with ThreadPoolExecutor(1) as beside:
        if is_here(config):
            # What goes wrong is raised where the pipeline asks for the models.
            beside.submit(load_models, runs)
        size = unit_size(config.images_per_unit, default_unit(run.variant for run in runs))
        work = list_work(
            config.inputs, config.output, Layout(config.image_column, config.keep), size, config.limit
        )
        run_id = record_run(config, runs, work)
        stop_rule = StopRule(work.n_images, config.max_failure_ratio)
        build(pipeline, work.part_paths(), config, runs, run_id, stop_rule)
        launch_and_show(pipeline, config, run_id, work.n_images)
    footers = settle.settle(config.output, runs, work)
    attempts.sweep(config.output)
    progress.print_summary(config.output, runs, footers, run_id)
    print(verdict(chain.from_iterable(footers.values()), run_id, config.precision))
    return exit_code(config.max_failure_ratio, footers)


def launch_and_show(pipeline: beam.Pipeline, config: RunConfig, run_id: str, n_images: int) -> None:
    """Run the pipeline to its end and show how it goes; an end in order leaves no markers of units begun."""
    counts = tally.of_run(config.output, run_id)
    try:
        with stderr_aside() as terminal, progress.Live(counts, n_images, len(config.variants), terminal):
            launch(pipeline)
    finally:
        # In an outage what stopped the run is what counts.
        with suppress(RunError):
            attempts.forget(config.output, run_id)


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
    """Beam's options; without a runner, this process with as many threads as keep its device busy."""
    options = list(config.beam_options)
    if is_here(config):
        options = [
            "--runner=FnApiRunner",
            "--direct_running_mode=multi_threading",
            f"--direct_num_workers={devices.harness_threads()}",
            *options,
        ]
    return PipelineOptions(options)


def is_here(config: RunConfig) -> bool:
    """Whether the run is in this process, as it is where no runner is named."""
    return PipelineOptions(list(config.beam_options)).view_as(StandardOptions).runner is None


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

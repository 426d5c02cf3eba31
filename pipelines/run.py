"""The main job: list, launch, watch, settle. `build` is the diagram of the README."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from pipelines import dataflow, jobs, model_dir, progress, regions, settle
from pipelines.config import RunConfig
from pipelines.estimate import rate_on_cpu, together
from pipelines.launch import is_here, launch_and_show, new_pipeline
from pipelines.listing import UNIT_SECONDS, list_work, unit_size
from pipelines.record import record_run
from pipelines.verdict import verdict
from pipelines.workers import workers_of
from transforms import attempts, devices, index
from transforms.containers import Layout
from transforms.fingerprints import VariantRun
from transforms.footers import Footer
from transforms.index import Index
from transforms.infer import EfficientNetHandler
from transforms.prepare import Prepare
from transforms.records import Receipt
from transforms.runtime import load_models
from transforms.write import StopRule, WriteUnits

EXIT_COMPLETE = 0
EXIT_TOO_MANY_FAILURES = 3


@dataclass(frozen=True)
class Begun:
    """A run whose inputs are listed and whose record is written: what it takes to build it and to finish it.

    Attributes:
        config: What was asked for.
        runs: The variants, their modules there and checked.
        work: The output's index.
        run_id: The run's name.
    """

    config: RunConfig
    runs: tuple[VariantRun, ...]
    work: Index
    run_id: str


def build(pipeline: beam.Pipeline, begun: Begun) -> beam.PCollection[Receipt]:
    """The pipeline: index parts to the receipts of committed files. Only keys are shuffled."""
    config, runs, run_id = begun.config, begun.runs, begun.run_id
    stop_rule = StopRule(begun.work.n_images, config.max_failure_ratio)
    return (
        pipeline
        | "Parts" >> beam.Create(begun.work.part_paths(), reshuffle=False)
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
    begun = begin(config)
    has_ended = execute(begun)
    return finish(begun) if has_ended else EXIT_COMPLETE


def begin(config: RunConfig) -> Begun:
    """Have the modules at hand, list the inputs into the output's index, and write the record of the run.

    Raises:
        UsageError: The command cannot mean what it says.
        RunError: An input, a module or the output is out of reach.
    """
    check(config)
    runs = model_dir.resolve_variants(config)
    if not config.replace:
        settle.refuse_other_settings(config.output, runs)
    if is_here(config):
        load_beside(runs)
    layout = Layout(config.image_column, config.keep)
    size = unit_size(config.images_per_unit, usual_unit(config))
    work = list_work(config.inputs, config.output, layout, size, config.limit)
    return Begun(config, runs, work, record_run(config, runs, work))


def load_beside(runs: tuple[VariantRun, ...]) -> None:
    """Start loading the models in a thread; what goes wrong is raised where the pipeline asks for them."""
    beside = ThreadPoolExecutor(1)
    beside.submit(load_models, runs)
    beside.shutdown(wait=False)


def check(config: RunConfig) -> None:
    """What can be told before anything is read or written: where the run is to be has what it needs.

    Raises:
        UsageError: The options do not fit together, or what they name is out of the workers' reach.
        RunError: There is no GPU here, and one was asked for.
    """
    dataflow.check(config)
    new_pipeline(config)
    if dataflow.is_asked_for(config):
        regions.check(config)
    elif config.wants_gpu and is_here(config):
        devices.require_gpu()


def execute(begun: Begun) -> bool:
    """Run the pipeline where it is to run; False where a job of Dataflow is left to itself."""
    on_dataflow = dataflow.is_asked_for(begun.config)
    if on_dataflow:
        dataflow.check_index(begun.work)
        begun = replace(begun, config=dataflow.filled_in(begun.config, begun.work.n_units, begun.run_id))
    config, n_images = begun.config, begun.work.n_images
    pipeline = new_pipeline(config)
    build(pipeline, begun)
    if not on_dataflow:
        launch_and_show(pipeline, config, begun.run_id, n_images)
        return True
    job = jobs.submit(pipeline, config, begun.run_id)
    if job is None or not jobs.wants_to_wait(config):
        return False
    jobs.follow(job, n_images, len(begun.runs))
    return True


def usual_unit(config: RunConfig) -> float:
    """Images that the device of the run does in the time that a unit should take."""
    if dataflow.is_asked_for(config):
        return workers_of(config).unit_images
    variants = model_dir.named(config)
    return UNIT_SECONDS * together(rate_on_cpu(variant, devices.cores()) for variant in variants)


def finish(begun: Begun) -> int:
    """Sweep and sum up what the pipeline has done; returns the exit code.

    Raises:
        RunError: It has not done all.
    """
    config = begun.config
    footers = settle.settle(config.output, begun.runs, begun.work)
    attempts.sweep(config.output)
    progress.print_summary(config.output, begun.runs, footers, begun.run_id)
    print(verdict(chain.from_iterable(footers.values()), begun.run_id, config.precision))
    return exit_code(config.max_failure_ratio, footers)


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

"""Where the benchmarks touch the product's inside: what changes there is followed here and nowhere else."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from pipelines import launch, model_dir, run, settle
from pipelines.config import RunConfig
from pipelines.listing import list_work, unit_size
from pipelines.record import record_run
from transforms import attempts, devices, graphs, modules
from transforms.fingerprints import VariantRun
from transforms.index import Index
from transforms.listing import USUAL_LAYOUT
from transforms.prepare import prepare_unit
from transforms.records import PixelBatch, Unit
from transforms.runtime import Models, load_models


@dataclass(frozen=True, eq=False)
class Job:
    """A run's configuration with its models loaded in this process.

    Attributes:
        config: Its output is where the index lies, and no rows.
        runs: The variants.
        models: Loaded.
        batch_size: Images a batch, as the pipeline takes it.
        threads: How many threads of the pipeline call the models and prepare units.
    """

    config: RunConfig
    runs: tuple[VariantRun, ...]
    models: Models
    batch_size: int
    threads: int


def load(config: RunConfig) -> Job:
    """Resolve and load the modules as a run does."""
    # Before anything of TensorFlow runs, as the pipeline's options ask for it: it sets up the device.
    threads = devices.harness_threads()
    runs = model_dir.resolve_variants(config)
    models = load_models(runs)
    return Job(config, runs, models, config.batch_size or models.batch_size, threads)


def kind() -> str:
    """`cpu` or `gpu`: where this process runs models."""
    return devices.kind()


def index_of(job: Job) -> Index:
    """List the inputs into the job's output."""
    config = job.config
    size = unit_size(config.images_per_unit, run.usual_unit(config))
    return list_work(config.inputs, config.output, USUAL_LAYOUT, size, config.limit)


def batches(job: Job, unit: Unit) -> Iterator[PixelBatch]:
    """One unit's batches from the pipeline's own Prepare, which leaves no marker of an attempt that died."""
    run_id = uuid.uuid4().hex
    try:
        yield from prepare_unit(unit, job.config.output, job.runs, run_id, job.batch_size)
    finally:
        attempts.forget(job.config.output, run_id)


def score(job: Job, variant: str, pixels: Any) -> dict[str, Any]:
    """One call to the pipeline's own models: `logits` and `features`, those that the variant gives."""
    return job.models.score(variant, pixels).outputs


def all_pixels(job: Job, precision: str) -> list[Any]:
    """All batches' pixels of the job's only variant as Prepare makes them for a precision."""
    (only,) = job.runs
    wanted = replace(job, runs=(replace(only, precision=precision),))
    return [batch.pixels for unit in index_of(job).units() for batch in batches(wanted, unit) if len(batch)]


def step_function(job: Job, step: str) -> tuple[Callable[[Any], dict[str, Any]], str]:
    """One step between the loaded module and the graph that runs, under this process's options.

    Args:
        job: With one variant.
        step: As in `benchmarks.precision`.

    Returns:
        A function of a batch of pixels to numpy outputs, and the precision whose pixels it takes.
    """
    (variant_run,) = job.runs
    variant, sha256 = variant_run.variant, variant_run.module_sha256
    module = modules.load(variant_run.module_path, variant)
    takes = "fast" if step == "uint8" else "exact"
    if step == "loaded":
        function = module.function
    elif step == "frozen":
        frozen = convert_variables_to_constants_v2(module.graph_function)
        # It gives a list of what was a dict, which TensorFlow flattens by name.
        names = sorted(module.graph_function.structured_outputs)

        def function(batch: Any) -> dict[str, Any]:
            return dict(zip(names, frozen(batch), strict=True))

    else:
        optimised = graphs.optimise(module, variant, sha256)
        if optimised.graph is None:
            raise SystemExit(f"{variant.name} runs as it is loaded: {optimised.facts.reason}")
        function = graphs.function(optimised, variant, takes)

    def call(pixels: Any) -> dict[str, Any]:
        return {name: np.asarray(values) for name, values in function(tf.constant(pixels)).items()}

    return call, takes


def whole_pipeline(job: Job, limit: int | None = None) -> dict[str, float]:
    """Build and launch the pipeline into a fresh output, and count what it wrote.

    Returns:
        `seconds` from launch to end, `images` listed, and the least `rows` and most `failures` of any variant.
    """
    output = tempfile.mkdtemp(dir=os.path.dirname(job.config.output), prefix="output-")
    try:
        config = replace(job.config, output=output, limit=limit or job.config.limit)
        work = index_of(replace(job, config=config))
        pipeline = launch.new_pipeline(config)
        run.build(pipeline, run.Begun(config, job.runs, work, record_run(config, job.runs, work)))
        started = time.perf_counter()
        launch.launch(pipeline)
        seconds = time.perf_counter() - started
        footers = settle.settle(output, job.runs, work).values()
        return {
            "seconds": seconds,
            "images": work.n_images,
            "rows": min(sum(footer.rows for footer in of_variant) for of_variant in footers),
            "failures": max(sum(footer.failures for footer in of_variant) for of_variant in footers),
        }
    finally:
        shutil.rmtree(output)


# The steps of a run's start: label, module, attribute. `benchmarks.startup` times the first call of each, and needs the
# last one; it also replaces `pipelines.cli.start_tensorflow`.
STEPS = (
    ("resolve the modules", "pipelines.model_dir", "resolve_variants"),
    ("list", "pipelines.run", "list_work"),
    ("build", "pipelines.run", "build"),
    ("load the models", "pipelines.run", "load_models"),
    ("first model call", "transforms.runtime", "Models.score"),
    ("score the first batch", "transforms.infer", "score"),
)

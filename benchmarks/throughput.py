"""How near the pipeline comes to its parts alone, in one run: `python -m benchmarks.throughput --variant V`.

Each round measures, one after the other: the models alone on ready batches, Prepare alone, the whole pipeline, and
with `--plain` a loop written by hand. All share the machine's cores, so that on a CPU no pipeline can be faster than
the sum of what its parts take; on a GPU preparing and scoring run beside each other, and the slower one decides:

    CPU  bound = 1 / (sum over variants of 1 / model rate + 1 / prepare rate)
    GPU  bound = min(1 / (sum over variants of 1 / model rate), prepare rate)

in images a second, where an image is done when every variant has scored it. Both parts alone are called from as many
threads as the pipeline calls them from, with its batch size and its settings of TensorFlow. A round's ratios are
quotients of that round's rates; the table shows medians, least and most over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from benchmarks import measure
from benchmarks.child import Child, Figures, Parts, interleaved
from pipelines.config import PRECISIONS, RunConfig
from transforms.variants import find

if TYPE_CHECKING:
    from benchmarks.product import Job

READY_BATCHES = 4
MODEL, PREPARE, PIPELINE, PLAIN = "model", "prepare", "pipeline", "plain"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = _options(arguments)
    measure.pull(options.variant, options.model_dir)
    with measure.work_directory(options.work) as work:
        inputs = (
            [os.path.abspath(options.images)]
            if options.images
            else [measure.photographs(work, options.count)]
        )
        shared: dict[str, Any] = {
            "inputs": inputs,
            "limit": options.count,
            "variants": options.variant,
            "model_dir": os.path.abspath(options.model_dir),
        }
        pipeline = Child(
            "benchmarks.throughput:parts",
            **shared,
            work=work,
            precision=options.precision,
            batch_size=options.batch_size,
            images_per_unit=options.images_per_unit,
        )
        with contextlib.ExitStack() as stack:
            children = [stack.enter_context(pipeline)]
            if options.plain:
                children.append(stack.enter_context(Child("benchmarks.plain:parts", **shared)))
            figures = interleaved(children, options.rounds)
    check_counts(figures, pipeline.facts["images"])
    names = [find(spec).name for spec in options.variant]
    settings = {**pipeline.facts, "variants": names, "precision": options.precision, "rounds": options.rounds}
    measure.show(
        measure.report("throughput", settings, rates(figures, names, pipeline.facts["kind"])),
        title=f"{', '.join(names)}, {options.precision}",
        unit="images/s (ratios: 1)",
        as_json=options.json,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--variant", nargs="+", required=True, metavar="V")
    parser.add_argument("--images", metavar="DIR", help="default: photographs made for this")
    parser.add_argument("--count", type=int, default=4000, metavar="N", help="images, at most; default: 4000")
    parser.add_argument("--precision", choices=PRECISIONS, default="exact")
    parser.add_argument("--plain", action="store_true", help="a loop written by hand beside it")
    parser.add_argument("--batch-size", type=int, metavar="N", help="default: the pipeline's own")
    parser.add_argument("--images-per-unit", type=int, metavar="N", help="default: the pipeline's own")
    return parser.parse_args(arguments)


def check_counts(figures: dict[str, list[Figures]], images: int) -> None:
    """SystemExit where a part did not do all images: a rate of fewer would be none."""
    for part, of_part in figures.items():
        for each in of_part:
            done = each["rows"] + each.get("failures", 0) if "rows" in each else each["images"]
            if part.startswith((PREPARE, PIPELINE, PLAIN)) and done != images:
                raise SystemExit(f"{part}: {done:,.0f} of {images:,} images were done")


def rates(figures: dict[str, list[Figures]], names: list[str], kind: str) -> dict[str, list[float]]:
    """Images a second of each part in each round, the bound, and the ratios."""
    rounds = {
        part: [each["images"] / each["seconds"] for each in each_round]
        for part, each_round in figures.items()
    }
    models = [rounds[f"{MODEL} {name}"] for name in names]
    rounds["bound"] = [
        bound(of_round, prepare, kind)
        for of_round, prepare in zip(zip(*models, strict=True), rounds[PREPARE], strict=True)
    ]
    plain = [rounds[f"{PLAIN} {name}"] for name in names if f"{PLAIN} {name}" in rounds]
    if plain:
        rounds[PLAIN] = [one_after_another(of_round) for of_round in zip(*plain, strict=True)]
    for other in ("bound", PLAIN):
        if other in rounds:
            rounds[f"{PIPELINE} / {other}"] = [
                ours / theirs for ours, theirs in zip(rounds[PIPELINE], rounds[other], strict=True)
            ]
    return rounds


def bound(models: Iterable[float], prepare: float, kind: str) -> float:
    """The most images a second that the parts allow together, all in images a second; formulas above.

    Args:
        models: Each model alone.
        prepare: Fetching, decoding and resizing for all models.
        kind: `cpu`, where all share the cores, or `gpu`, where the models have a device of their own.
    """
    all_models = one_after_another(models)
    return min(all_models, prepare) if kind == "gpu" else one_after_another((all_models, prepare))


def one_after_another(rates_of_parts: Iterable[float]) -> float:
    """Images a second where each image takes the sum of what its parts take."""
    return 1 / sum(1 / rate for rate in rates_of_parts)


def parts(work: str, limit: int, inputs: list[str], spawned: float, **settings: Any) -> Parts:
    """For `benchmarks.child`: model, prepare and pipeline, which share the process's settings of TensorFlow."""
    from benchmarks import product

    del spawned
    config = RunConfig(
        inputs=tuple(inputs),
        output=os.path.join(work, f"index-{os.getpid()}"),
        variants=tuple(settings.pop("variants")),
        limit=limit,
        **settings,
    )
    job = product.load(config)
    index = product.index_of(job)
    units = list(index.units())
    ready = ready_batches(job, units)
    # Once before anything is timed: lazy imports, TensorFlow's first sight of each shape.
    product.whole_pipeline(job, limit=2 * job.batch_size)
    measures: dict[str, Callable[[], Figures]] = {}
    for run in job.runs:
        name = run.variant.name
        score_all(job, name, ready[name], job.batch_size * job.threads)
        measures[f"{MODEL} {name}"] = _model(job, name, ready[name], index.n_images)
    measures[PREPARE] = lambda: prepare_all(job, units)
    measures[PIPELINE] = lambda: product.whole_pipeline(job)
    facts = {
        "images": index.n_images,
        "units": index.n_units,
        "kind": product.kind(),
        "batch_size": job.batch_size,
        "threads": job.threads,
    }
    return Parts(measures, facts)


def ready_batches(job: Job, units: Iterable[Any]) -> dict[str, list[Any]]:
    """For each variant the pixels of the first few batches, as the pipeline's own Prepare makes them."""
    from benchmarks import product

    ready: dict[str, list[Any]] = {run.variant.name: [] for run in job.runs}
    for batch in itertools.chain.from_iterable(product.batches(job, unit) for unit in units):
        if len(batch) and len(ready[batch.target.variant]) < READY_BATCHES:
            ready[batch.target.variant].append(batch.pixels)
        if all(len(pixels) == READY_BATCHES for pixels in ready.values()):
            break
    return ready


def _model(job: Job, name: str, ready: list[Any], images: int) -> Callable[[], Figures]:
    return lambda: score_all(job, name, ready, images)


def score_all(job: Job, name: str, ready: list[Any], images: int) -> Figures:
    """Score ready batches, again and again, until as many images are done, from the pipeline's number of threads."""
    from benchmarks import product

    round_of_all = sum(len(pixels) for pixels in ready)
    pixels_of_calls = ready * math.ceil(images / round_of_all)
    started = time.perf_counter()
    with ThreadPoolExecutor(job.threads) as pool:
        for _ in pool.map(lambda pixels: product.score(job, name, pixels), pixels_of_calls):
            pass
    return {
        "seconds": time.perf_counter() - started,
        "images": sum(len(pixels) for pixels in pixels_of_calls),
    }


def prepare_all(job: Job, units: list[Any]) -> Figures:
    """Prepare every unit from the pipeline's number of threads and drop the batches."""
    from benchmarks import product

    first = job.runs[0].variant.name

    def prepare(unit: Any) -> int:
        return sum(
            len(batch) + len(batch.failures)
            for batch in product.batches(job, unit)
            if batch.target.variant == first
        )

    started = time.perf_counter()
    with ThreadPoolExecutor(job.threads) as pool:
        images = sum(pool.map(prepare, units))
    return {"seconds": time.perf_counter() - started, "images": images}


if __name__ == "__main__":
    main()

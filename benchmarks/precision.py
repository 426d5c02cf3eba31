"""What each step between a module as it comes and the one that runs does: `python -m benchmarks.precision --variant V`.

    loaded     the module as TensorFlow loads it, float32 images
    frozen     its variables made constants
    folded     the graph that `exact` runs: frozen, with its arithmetic before and after convolutions folded in
    bfloat16   the same graph under the options of `fast`, float32 images
    uint8      the graph that `fast` runs: under the same options, images in 255ths, rounded

Each is called on the same photographs, which the pipeline's own Prepare made ready, in its batch size and from its
number of threads; the last two in a process of their own, since options hold for a whole process. Speed is in images a
second over interleaved rounds; outputs are compared with those of the loaded module by the relative L2 distance
`|y - y0| / |y0|` and the cosine of each image's vector: the worst image counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import measure
from benchmarks.child import Child, Figures, Parts, interleaved
from pipelines.config import RunConfig
from transforms.variants import find

COUNT = 256
STEPS = {"exact": ("loaded", "frozen", "folded"), "fast": ("bfloat16", "uint8")}

Outputs = dict[str, npt.NDArray[np.float32]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = measure.parser(__doc__, rounds=5)
    parser.add_argument("--variant", required=True, metavar="V")
    parser.add_argument("--count", type=int, default=COUNT, metavar="N", help=f"images; default: {COUNT}")
    options = parser.parse_args(arguments)
    measure.pull([options.variant], options.model_dir)
    with measure.work_directory(options.work) as work:
        shared = {
            "folder": measure.photographs(work, options.count),
            "work": work,
            "variant": options.variant,
            "model_dir": os.path.abspath(options.model_dir),
        }
        with (
            Child("benchmarks.precision:parts", precision="exact", **shared) as exact,
            Child("benchmarks.precision:parts", precision="fast", **shared) as fast,
        ):
            figures = interleaved([exact, fast], options.rounds)
            settings = {**exact.facts, "variant": find(options.variant).name, "rounds": options.rounds}
        rounds = {
            f"{step}: images/s": [each["images"] / each["seconds"] for each in of_step]
            for step, of_step in figures.items()
        }
        for step in figures:
            rounds[f"{step} / loaded"] = [
                ours / loaded
                for ours, loaded in zip(rounds[f"{step}: images/s"], rounds["loaded: images/s"], strict=True)
            ]
        outputs = find(options.variant).outputs
        reference = read(work, "loaded", outputs)
        for step in figures:
            for figure, value in differences(read(work, step, outputs), reference).items():
                rounds[f"{step}: {figure}"] = [value]
    measure.show(
        measure.report("precision", settings, rounds),
        title=find(options.variant).name,
        unit="value",
        as_json=options.json,
    )


def differences(outputs: Outputs, reference: Outputs) -> Figures:
    """The largest relative L2 distance and the least cosine of any image, for each output."""
    figures: Figures = {}
    for name, expected in reference.items():
        ours, theirs = outputs[name].astype(np.float64), expected.astype(np.float64)
        norms = np.linalg.norm(theirs, axis=1)
        distances = np.linalg.norm(ours - theirs, axis=1) / norms
        cosines = np.sum(ours * theirs, axis=1) / (np.linalg.norm(ours, axis=1) * norms)
        figures[f"{name} relative L2"] = float(distances.max())
        figures[f"{name} cosine"] = float(cosines.min())
    return figures


def read(work: str, step: str, outputs: Iterable[str]) -> Outputs:
    """What a step gave."""
    return {name: np.load(_path(work, step, name)) for name in outputs}


def _path(work: str, step: str, output: str) -> str:
    return os.path.join(work, f"precision-{step}-{output}.npy")


def parts(folder: str, work: str, variant: str, model_dir: str, precision: str, spawned: float) -> Parts:
    """For `benchmarks.child`: the steps of one precision, each of which has written its outputs."""
    from benchmarks import product

    del spawned
    config = RunConfig(
        inputs=(folder,),
        output=os.path.join(work, f"index-{os.getpid()}"),
        variants=(variant,),
        model_dir=model_dir,
        precision=precision,
    )
    job = product.load(config)
    measures: dict[str, Callable[[], Figures]] = {}
    for step in STEPS[precision]:
        function, takes = product.step_function(job, step)
        batches = product.all_pixels(job, takes)
        outputs = [function(pixels) for pixels in batches]
        for name in outputs[0]:
            np.save(_path(work, step, name), np.concatenate([each[name] for each in outputs]))
        measures[step] = _measure(function, batches, job.threads)
    return Parts(measures, {"batch_size": job.batch_size, "threads": job.threads, "kind": product.kind()})


def _measure(function: Callable[[Any], Outputs], batches: list[Any], threads: int) -> Callable[[], Figures]:
    def measured() -> Figures:
        started = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            images = sum(len(next(iter(outputs.values()))) for outputs in pool.map(function, batches))
        return {"seconds": time.perf_counter() - started, "images": images}

    return measured


if __name__ == "__main__":
    main()

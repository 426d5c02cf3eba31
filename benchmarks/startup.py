"""Where a run's start goes: `python -m benchmarks.startup`.

A process of its own does `pixelbeam run` over a few photographs, through the command line's own `main`; the imports
and the first call of each step are timed from outside, by functions put around them. A step's seconds are those
between its call and its return, so that what it calls is within it, and what a run does beside another step overlaps
with it. Rounds after the first find every file in memory, so one more start comes before them and is not counted.
"""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import measure
from benchmarks.child import Child, Figures, Parts
from transforms.variants import find

COUNT = 64
DEFAULT_VARIANT = "google/efficientnet/b0/classification/1"
FIRST_SCORED = "score the first batch"
BEFORE = "start Python, read the arguments"
FIRST_BATCH = "first batch, from the end of TensorFlow's import"
WHOLE = "whole run, from the start of the process"

Span = tuple[float, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--variant", default=DEFAULT_VARIANT, help=f"default: {DEFAULT_VARIANT}")
    parser.add_argument("--count", type=int, default=COUNT, metavar="N", help=f"images; default: {COUNT}")
    options = parser.parse_args(arguments)
    measure.pull([options.variant], options.model_dir)
    rounds: dict[str, list[float]] = {}
    with measure.work_directory(options.work) as work:
        arguments_of_child = {
            "folder": measure.photographs(work, options.count),
            "output": os.path.join(work, "startup-output"),
            "variant": options.variant,
            "model_dir": os.path.abspath(options.model_dir),
        }
        for number in range(options.rounds + 1):
            with Child("benchmarks.startup:parts", **arguments_of_child) as child:
                figures = child.measure("run")
            if number:
                for step, seconds in figures.items():
                    rounds.setdefault(step, []).append(seconds)
    settings = {"variant": find(options.variant).name, "images": options.count, "rounds": options.rounds}
    measure.show(
        measure.report("startup", settings, rounds),
        title=f"{find(options.variant).name}, {options.count} images",
        unit="seconds",
        as_json=options.json,
    )


def parts(folder: str, output: str, variant: str, model_dir: str, spawned: float) -> Parts:
    """For `benchmarks.child`: one whole start, which a process can measure only once."""
    shutil.rmtree(output, ignore_errors=True)
    arguments = ["run", "--input", folder, "--output", output, "--variant", variant, "--model-dir", model_dir]
    begun = time.time()
    return Parts({"run": lambda: _start(arguments, begun - spawned)})


def _start(arguments: list[str], python_seconds: float) -> Figures:
    begun = time.perf_counter()
    seconds: Figures = {}
    spans: dict[str, Span] = {}
    from pipelines import cli

    start_tensorflow = vars(cli)["start_tensorflow"]

    def imports() -> None:
        seconds[BEFORE] = python_seconds + time.perf_counter() - begun
        spans["import TensorFlow"] = _timed(start_tensorflow)
        spans["import Beam"] = _timed(lambda: importlib.import_module("apache_beam.ml.inference.base"))
        spans["import the rest"] = _timed(lambda: importlib.import_module("benchmarks.product"))
        for step, module, attribute in importlib.import_module("benchmarks.product").STEPS:
            put_around(spans, step, module, attribute)

    # `pixelbeam run` calls it before it imports Beam and what needs either.
    vars(cli)["start_tensorflow"] = imports
    code = cli.main(arguments)
    if code:
        raise SystemExit(f"the run ended with {code}")
    end = time.perf_counter()
    for step, (entered, left) in sorted(spans.items(), key=lambda item: item[1]):
        seconds[step] = left - entered
    seconds[FIRST_BATCH] = spans[FIRST_SCORED][1] - spans["import TensorFlow"][1]
    seconds[WHOLE] = python_seconds + end - begun
    return seconds


def _timed(work: Callable[[], Any]) -> Span:
    entered = time.perf_counter()
    work()
    return entered, time.perf_counter()


def put_around(spans: dict[str, Span], step: str, module: str, attribute: str) -> None:
    """Replace a function by one that notes in `spans` when its first call began and ended.

    Args:
        spans: Where to note it, in seconds of `time.perf_counter`.
        step: Under which name.
        module: Where it is looked up when it is called.
        attribute: Its name there; of a method, `Class.method`.
    """
    *path, name = attribute.split(".")
    owner = functools.reduce(getattr, path, importlib.import_module(module))
    function = getattr(owner, name)

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        entered = time.perf_counter()
        result = function(*arguments, **options)
        spans.setdefault(step, (entered, time.perf_counter()))
        return result

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    main()

"""What the pipeline itself costs an image, and its memory over more and more images: `python -m benchmarks.overhead`.

A module that costs next to nothing, small photographs, and `pixelbeam run` in a process of its own at each count.
Whole processes are measured from outside, and what a start costs is the same at every count, so that an image's share
is the slope between the least and the largest count:

    microseconds an image = (seconds at the largest - seconds at the least) / (largest - least) * 1e6

once of wall seconds and once of CPU seconds (user and system, all threads). Beside it the same files decoded and
resized alone, one after the other in a loop of one thread, CPU microseconds an image.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import measure
from benchmarks.child import Child, Figures, Parts
from transforms.variants import find

SIZE = (96, 72)
INPUT = 32
FEATURES = 4
ALONE_PASSES = 20
TOML = f"""[[variants]]
name = "pixelbeam/nothing/feature-vector/1"
handle = "module"
format = "tf2"
size = {INPUT}
fixed_size = false
resize = "center_crop_bilinear"
outputs = ["features"]
n_features = [{FEATURES}]
multiply_adds_billions = 0.001
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--counts", type=int, nargs="+", default=[5000, 20000, 80000], metavar="N")
    options = parser.parse_args(arguments)
    counts = sorted(set(options.counts))
    with measure.work_directory(options.work) as work:
        toml = os.path.join(work, "nothing.toml")
        folders = {count: measure.photographs(work, count, SIZE) for count in counts}
        with Child("benchmarks.overhead:alone", folder=folders[counts[0]], toml=toml) as alone:
            measure.pull([toml], options.model_dir)
            rounds: dict[str, list[float]] = {}
            for _ in range(options.rounds):
                for figure, value in one_round(alone, folders, toml, options.model_dir).items():
                    rounds.setdefault(figure, []).append(value)
    settings = {"counts": counts, "size": SIZE, "rounds": options.rounds}
    title = f"a module that costs nothing, photographs of {SIZE[0]}x{SIZE[1]}"
    measure.show(
        measure.report("overhead", settings, rounds), title=title, unit="value", as_json=options.json
    )


def one_round(alone: Child, folders: dict[int, str], toml: str, model_dir: str) -> Figures:
    """All figures once."""
    decode = alone.measure("alone")
    usages = {count: run(folder, count, toml, model_dir) for count, folder in folders.items()}
    return {
        **{f"{count} images: wall s": usage.wall_seconds for count, usage in usages.items()},
        **{f"{count} images: CPU s": usage.cpu_seconds for count, usage in usages.items()},
        **{f"{count} images: peak MB": usage.peak_bytes / 1e6 for count, usage in usages.items()},
        **quotients(usages, decode["cpu_microseconds"]),
    }


def quotients(usages: dict[int, measure.Usage], alone_microseconds: float) -> Figures:
    """What follows from the runs at each count and from decoding and resizing alone."""
    least, largest = min(usages), max(usages)
    cpu = slope({count: usage.cpu_seconds for count, usage in usages.items()})
    peaks = [usage.peak_bytes for usage in usages.values()]
    return {
        "pipeline: wall µs an image": slope({count: usage.wall_seconds for count, usage in usages.items()}),
        "pipeline: CPU µs an image": cpu,
        "decode and resize alone: CPU µs an image": alone_microseconds,
        "pipeline / alone": cpu / alone_microseconds,
        f"peak at {largest} / at {least}": usages[largest].peak_bytes / usages[least].peak_bytes,
        "largest peak / smallest": max(peaks) / min(peaks),
    }


def slope(seconds: dict[int, float]) -> float:
    """Microseconds an image between the least and the largest count; of a single one, all seconds over the count."""
    least, largest = min(seconds), max(seconds)
    if least == largest:
        return seconds[least] / least * 1e6
    return (seconds[largest] - seconds[least]) / (largest - least) * 1e6


def run(folder: str, count: int, toml: str, model_dir: str) -> measure.Usage:
    """One `pixelbeam run` into a fresh output, which is verified and dropped."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(folder)) as parent:
        output = os.path.join(parent, "output")
        arguments = ["--input", folder, "--output", output, "--variant", toml, "--model-dir", model_dir]
        usage = measure.run_pixelbeam("run", *arguments)
        rows = _rows(output, toml)
        if rows != count:
            raise SystemExit(f"{rows:,} rows of {count:,} images")
        return usage


def _rows(output: str, toml: str) -> int:
    import pyarrow.parquet as pq

    folder = os.path.join(output, f"variant={find(toml).directory}")
    return sum(int(pq.read_metadata(os.path.join(folder, name)).num_rows) for name in os.listdir(folder))


def alone(folder: str, toml: str, spawned: float) -> Parts:
    """For `benchmarks.child`: writes the module, and has decoding and resizing in one thread ready."""
    import numpy as np
    import tensorflow as tf

    from transforms import images
    from transforms.resize import crop_box

    del spawned
    write_module(toml)
    contents = []
    for name in sorted(os.listdir(folder))[: measure.DISTINCT]:
        with open(os.path.join(folder, name), "rb") as file:
            contents.append(file.read())

    def all_files() -> None:
        for content in contents:
            image = images.decode(content, lazily=True)
            top, left, side = crop_box(image.height, image.width, INPUT)
            window = [top, left, side, side]
            square = tf.raw_ops.DecodeAndCropJpeg(contents=content, crop_window=window, channels=3)
            resized = tf.raw_ops.ResizeBilinear(images=square[tf.newaxis], size=[INPUT, INPUT])
            np.asarray(resized) / np.float32(255)

    def measured() -> Figures:
        started = time.process_time()
        for _ in range(ALONE_PASSES):
            all_files()
        seconds = time.process_time() - started
        return {"cpu_microseconds": seconds / (ALONE_PASSES * len(contents)) * 1e6}

    all_files()
    return Parts({"alone": measured})


def write_module(toml: str) -> None:
    """A SavedModel of one 1x1 convolution of a few pixels and their mean, and the TOML file that names it."""
    import tensorflow as tf

    module = tf.Module()
    module.kernel = tf.Variable(tf.reshape(tf.linspace(0.1, 1.0, 3 * FEATURES), [1, 1, 3, FEATURES]))

    def call(inputs: Any) -> Any:
        return tf.reduce_mean(tf.nn.conv2d(inputs, module.kernel, INPUT // 4, "SAME"), [1, 2])

    spec = tf.TensorSpec([None, INPUT, INPUT, 3], tf.float32, name="inputs")
    path = os.path.join(os.path.dirname(toml), "module")
    tf.saved_model.save(
        module, path, signatures={"serving_default": tf.function(call, input_signature=[spec])}
    )
    with open(toml, "w", encoding="utf-8") as file:
        file.write(TOML)


if __name__ == "__main__":
    main()

"""What `pixelbeam report` takes over more and more rows, and how large its page is: `python -m benchmarks.report`.

A module that costs next to nothing and gives as much as a B0 does (1,000 logits, 1,280 features), photographs of 96x72
in units of 256, one dataset for each count, made by `pixelbeam run` before the clock. Then `pixelbeam report` in a
process of its own, measured whole.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from benchmarks import measure
from benchmarks.child import Child, Parts

SIZE = (96, 72)
INPUT = 32
CLASSES, FEATURES = 1000, 1280
IMAGES_PER_UNIT = 256
TOML = f"""[[variants]]
name = "pixelbeam/wide/classification/1"
handle = "wide"
format = "tf2"
size = {INPUT}
fixed_size = false
resize = "center_crop_bilinear"
outputs = ["logits", "features"]
n_classes = [{CLASSES}]
n_features = [{FEATURES}]
multiply_adds_billions = 0.001
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--counts", type=int, nargs="+", default=[2000, 20000, 100000], metavar="N")
    options = parser.parse_args(arguments)
    counts = sorted(set(options.counts))
    with measure.work_directory(options.work) as work:
        toml = os.path.join(work, "wide.toml")
        with Child("benchmarks.report:written", toml=toml):
            pass
        outputs = {count: dataset(work, count, toml, options.model_dir) for count in counts}
        rounds: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for figure, value in one_round(outputs).items():
                rounds.setdefault(figure, []).append(value)
    settings = {"counts": counts, "images_per_unit": IMAGES_PER_UNIT, "rounds": options.rounds}
    title = f"{CLASSES:,} logits and {FEATURES:,} features a row, units of {IMAGES_PER_UNIT}"
    measure.show(measure.report("report", settings, rounds), title=title, unit="value", as_json=options.json)


def one_round(outputs: dict[int, str]) -> dict[str, float]:
    """All figures once."""
    figures: dict[str, float] = {}
    for count, output in outputs.items():
        page = f"{output}.html"
        usage = measure.run_pixelbeam("report", output, "--output", page)
        figures[f"{count} rows: wall s"] = usage.wall_seconds
        figures[f"{count} rows: CPU s"] = usage.cpu_seconds
        figures[f"{count} rows: peak MB"] = usage.peak_bytes / 1e6
        figures[f"{count} rows: page MB"] = os.path.getsize(page) / 1e6
    least, largest = min(outputs), max(outputs)
    ratio = figures[f"{largest} rows: wall s"] / figures[f"{least} rows: wall s"]
    return {**figures, f"wall at {largest} / at {least}": ratio}


def dataset(work: str, count: int, toml: str, model_dir: str) -> str:
    """The output of a run over `count` photographs; made once, and used again."""
    folder = measure.photographs(work, count, SIZE)
    output = os.path.join(work, f"dataset-{count}")
    options = ["--model-dir", model_dir, "--images-per-unit", str(IMAGES_PER_UNIT)]
    measure.run_pixelbeam("run", "--input", folder, "--output", output, "--variant", toml, *options)
    measure.run_pixelbeam("verify", output)
    return output


def written(toml: str, spawned: float) -> Parts:
    """For `benchmarks.child`: writes the module, where it is not there yet; nothing is measured."""
    del spawned
    if not os.path.exists(toml):
        write_module(toml)
    return Parts({})


def write_module(toml: str) -> None:
    """A SavedModel of a convolution, its mean and a dense layer, and the TOML file that names it."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    images = layers.Input((None, None, 3), name="image_input")
    x = layers.Conv2D(FEATURES, 8, strides=16, activation="relu", name="stem")(images)
    features = layers.GlobalAveragePooling2D(name="top_pool")(x)
    logits = layers.Dense(CLASSES, name="logits")(features)
    probabilities = layers.Activation("softmax", name="probs")(logits)
    path = os.path.join(os.path.dirname(toml), "wide")
    model: Any = tf_keras.Model(images, probabilities)
    model.save(path, include_optimizer=False, save_format="tf")
    with open(toml, "w", encoding="utf-8") as file:
        file.write(TOML)


if __name__ == "__main__":
    main()

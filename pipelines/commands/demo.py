"""`make demo`: the four modules over a few photographs, two of them broken, and a look at the result."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys

from pipelines import cli

FOLDER = "demo-output"
PHOTOGRAPHS = 24
FETCH_SECONDS = 20.0
EVERY = 6
VARIANTS = (
    "google/efficientnet/b5/feature-vector/1",
    "google/efficientnet/b4/classification/1",
    "tensorflow/efficientnet/b3/classification/1",
    "google/imagenet/efficientnet_v2_imagenet21k_ft1k_m/feature_vector/1",
)
CLASSIFIERS = tuple(name for name in VARIANTS if "classification" in name)


def main() -> int:
    """Run the demonstration; returns its exit code."""
    photographs, models, dataset = (
        os.path.join(FOLDER, name) for name in ("photographs", "models", "dataset")
    )
    write_photographs(photographs)
    pull_modules(models)
    shutil.rmtree(dataset, ignore_errors=True)
    options = ["--input", photographs, "--output", dataset, "--model-dir", models]
    code = pixelbeam("run", *options, "--max-failure-ratio", "0.2", "--variant", *VARIANTS)
    code = code or pixelbeam("verify", dataset)
    if code == 0:
        show_top_classes(dataset)
        show_one_liner(dataset)
        code = pixelbeam("report", dataset)
    return code


def pixelbeam(*arguments: str) -> int:
    """One command of ours, shown as it would be typed."""
    print(f"\n$ pixelbeam {' '.join(arguments)}", flush=True)
    return cli.main(arguments)


def write_photographs(folder: str) -> None:
    """Photographs of scikit-image as JPEGs, whole and in pieces; one is cut off and one is a text."""
    import skimage.data
    from PIL import Image

    os.makedirs(folder, exist_ok=True)
    sources = ("astronaut", "chelsea", "coffee", "rocket")
    for number in range(PHOTOGRAPHS):
        name = sources[number % len(sources)]
        photograph = Image.fromarray(getattr(skimage.data, name)())
        margin = number // len(sources) * 25
        box = (margin, margin // 2, photograph.width - margin, photograph.height - margin // 2)
        photograph.crop(box).save(os.path.join(folder, f"{name}-{number // len(sources)}.jpg"), quality=90)
    with open(os.path.join(folder, "coffee-0.jpg"), "rb") as file:
        content = file.read()
    with open(os.path.join(folder, "cut-off.jpg"), "wb") as file:
        file.write(content[: len(content) * 3 // 10])
    with open(os.path.join(folder, "shopping-list.jpg"), "w", encoding="utf-8") as text:
        text.write("milk, bread, coffee\n")
    print(f"{PHOTOGRAPHS} photographs, one cut off and a text named .jpg in {folder}")


def pull_modules(directory: str) -> None:
    """The published modules if they come within seconds, else the same architectures with random weights."""
    missing = [name for name in VARIANTS if not os.path.exists(_description(directory, name))]
    fetchable = bool(missing)
    for name in missing:
        fetchable = fetchable and _fetch(directory, name)
        if not fetchable:
            break
    if missing and not fetchable:
        print("The published modules cannot be fetched here within seconds: RANDOM WEIGHTS stand in.")
        print("Everything is as it will be, but the scores mean nothing.")
        pixelbeam("pull", "--random-weights", "--model-dir", directory, "--variant", *VARIANTS)


def _description(directory: str, name: str) -> str:
    return os.path.join(directory, f"{name.replace('/', '-')}.json")


def _fetch(directory: str, name: str) -> bool:
    command = [sys.executable, "-m", "pipelines.cli", "pull", "--model-dir", directory, "--variant", name]
    try:
        return (
            subprocess.run(command, timeout=FETCH_SECONDS, check=False, capture_output=True).returncode == 0
        )
    except subprocess.TimeoutExpired:
        return False


def show_top_classes(dataset: str) -> None:
    """The best three classes of a few images for each classifier."""
    import pyarrow.parquet as pq

    for name in CLASSIFIERS:
        print(f"\n{name}")
        (path, *_) = sorted(glob.glob(f"{dataset}/variant={name.replace('/', '-')}/*.parquet"))
        for row in pq.read_table(path, columns=["uri", "top_classes"]).to_pylist()[::EVERY]:
            best = ", ".join(
                f"{top['name'] or 'class ' + str(top['index'])} {top['probability']:.1%}"
                for top in row["top_classes"][:3]
            )
            print(f"  {os.path.basename(row['uri'])}: {best}")


def show_one_liner(dataset: str) -> None:
    """The dataset as DuckDB reads it."""
    import duckdb

    pattern = f"{dataset}/variant={CLASSIFIERS[0].replace('/', '-')}/*.parquet"
    query = (
        "SELECT top_classes[1].index AS class, count(*) AS images, round(avg(top_classes[1].probability), 4) AS mean "
        f"FROM '{pattern}' GROUP BY class ORDER BY images DESC LIMIT 5"
    )
    print(f'\n$ python -c "import duckdb; duckdb.sql(\\"{query}\\").show()"')
    print(duckdb.sql(query))


if __name__ == "__main__":
    sys.exit(main())

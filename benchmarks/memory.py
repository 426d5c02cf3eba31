"""Peak memory of whole runs over more and more images: `python -m benchmarks.memory`."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import skimage.data
from PIL import Image

DISTINCT = 64
SIZE = (200, 150)


def main() -> None:
    """Run the same variant over each number of images in a process of its own and compare the peaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[2000, 8000], metavar="N")
    parser.add_argument("--variant", default="google/efficientnet/b0/classification/1")
    parser.add_argument("--model-dir", default=os.path.expanduser("~/.cache/pixelbeam-benchmarks"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    run_pixelbeam("pull", "--random-weights", "--variant", options.variant, "--model-dir", options.model_dir)
    figures = [measure(count, options.variant, options.model_dir) for count in options.counts]
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    for figure in figures:
        print(f"{figure['images']:>8,} images  {figure['peak_mb']:>7,.0f} MB  {figure['seconds']:>6.1f} s")
    print(f"largest less smallest peak: {np.ptp([figure['peak_mb'] for figure in figures]):,.0f} MB")


def measure(count: int, variant: str, model_dir: str) -> dict[str, float]:
    """Images, peak resident megabytes and seconds of one run."""
    with tempfile.TemporaryDirectory() as folder:
        photos = os.path.join(folder, "photos")
        write_photographs(photos, count)
        arguments = ["--input", photos, "--output", os.path.join(folder, "out"), "--variant", variant]
        started = time.perf_counter()
        peak_bytes = run_pixelbeam("run", *arguments, "--model-dir", model_dir)
        return {"images": count, "peak_mb": peak_bytes / 1e6, "seconds": time.perf_counter() - started}


def run_pixelbeam(*arguments: str) -> int:
    """Run one command in a process of its own; returns its peak resident bytes."""
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    # Linux counts in kilobytes, macOS in bytes.
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def write_photographs(folder: str, count: int) -> None:
    """`count` JPEGs in `folder`, of which 64 are distinct."""
    os.makedirs(folder)
    random = np.random.default_rng(0)
    source = Image.fromarray(skimage.data.coffee())
    contents = []
    for _ in range(DISTINCT):
        left, top = (
            int(random.integers(0, side)) for side in (source.width - SIZE[0], source.height - SIZE[1])
        )
        jpeg = io.BytesIO()
        source.crop((left, top, left + SIZE[0], top + SIZE[1])).save(jpeg, "JPEG", quality=90)
        contents.append(jpeg.getvalue())
    for number in range(count):
        with open(os.path.join(folder, f"{number:06d}.jpg"), "wb") as file:
            file.write(contents[number % DISTINCT])


if __name__ == "__main__":
    main()

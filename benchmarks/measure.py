"""What every benchmark needs: photographs, our command in a process of its own, figures over rounds, tables."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

DISTINCT = 64
SOURCES = (
    "astronaut",
    "chelsea",
    "coffee",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
    "rocket",
)
PACKAGES = ("tensorflow", "apache-beam", "numpy", "pyarrow")
MODEL_DIR = os.path.expanduser("~/.cache/pixelbeam-benchmarks")


@dataclass(frozen=True)
class Usage:
    """What one process took from its start to its end.

    Attributes:
        wall_seconds: By the clock.
        cpu_seconds: User and system, all threads.
        peak_bytes: Largest resident set.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=(description or "").splitlines()[0], allow_abbrev=False)
    options.add_argument("--rounds", type=int, default=rounds, metavar="N", help=f"default: {rounds}")
    options.add_argument("--work", metavar="DIR", help="where photographs and outputs go; default: a new one")
    options.add_argument("--model-dir", default=MODEL_DIR, metavar="DIR", help=f"default: {MODEL_DIR}")
    options.add_argument("--json", action="store_true", help="for machines")
    return options


@contextlib.contextmanager
def work_directory(given: str | None) -> Iterator[str]:
    """The directory that was given, which stays, or a temporary one."""
    if given:
        os.makedirs(given, exist_ok=True)
        yield os.path.abspath(given)
    else:
        with tempfile.TemporaryDirectory(prefix="pixelbeam-benchmark-") as folder:
            yield folder


def pull(variants: Iterable[str], model_dir: str) -> None:
    """Make modules with random weights in `model_dir` for those variants that it does not hold."""
    run_pixelbeam("pull", "--random-weights", "--model-dir", model_dir, "--variant", *variants)


def environment() -> dict[str, str]:
    """For processes that are measured: as at a user's, Python keeps the bytecode of what was imported once."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {"TF_CPP_MIN_LOG_LEVEL": "2", **kept}


def run_pixelbeam(*arguments: str) -> Usage:
    """Run one command of ours in a process of its own; SystemExit with what it said where it fails."""
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, env=environment()
        ) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        wall_seconds = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}\n{tail(errors)}")
    # Linux counts in kilobytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return Usage(wall_seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def tail(errors: Any) -> str:
    """The end of what a process wrote to a temporary file."""
    errors.seek(0)
    return errors.read().decode(errors="replace")[-4000:].strip()


def photographs(work: str, count: int, size: tuple[int, int] = (500, 375)) -> str:
    """A folder of `count` JPEGs in `work`, hard links to 64 distinct ones; made once, and used again.

    Args:
        work: Where the folder lies.
        count: How many.
        size: Width and height in pixels.
    """
    width, height = size
    folder = os.path.join(work, f"photographs-{width}x{height}-{count}")
    if os.path.isdir(folder):
        return folder
    contents = os.path.join(work, f"distinct-{width}x{height}")
    if not os.path.isdir(contents):
        _write_distinct(contents, size)
    unfinished = f"{folder}.{os.getpid()}"
    os.makedirs(unfinished)
    for number in range(count):
        content = os.path.join(contents, f"{number % DISTINCT:02d}.jpg")
        _link(content, os.path.join(unfinished, f"{number:07d}.jpg"))
    os.rename(unfinished, folder)
    return folder


def _link(source: str, path: str) -> None:
    try:
        os.link(source, path)
    except OSError:
        # A file system without hard links, or with too many to this file.
        shutil.copyfile(source, path)


def _write_distinct(folder: str, size: tuple[int, int]) -> None:
    """64 random crops of scikit-image's photographs, half of them mirrored, of quality 85 to 95."""
    import numpy as np
    import skimage.data
    from PIL import Image

    random = np.random.default_rng(0)
    sources = [Image.fromarray(getattr(skimage.data, name)()) for name in SOURCES]
    unfinished = f"{folder}.{os.getpid()}"
    os.makedirs(unfinished)
    for number in range(DISTINCT):
        source = sources[number % len(sources)]
        # The largest box of the wanted proportions, shrunk and moved at random.
        scale = min(source.width / size[0], source.height / size[1]) * random.uniform(0.5, 1.0)
        width, height = scale * size[0], scale * size[1]
        left, top = random.uniform(0, source.width - width), random.uniform(0, source.height - height)
        box = (left, top, left + width, top + height)
        crop = source.resize(size, Image.Resampling.BICUBIC, box)
        if number % 2:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        jpeg = io.BytesIO()
        crop.save(jpeg, "JPEG", quality=int(random.integers(85, 96)))
        with open(os.path.join(unfinished, f"{number:02d}.jpg"), "wb") as file:
            file.write(jpeg.getvalue())
    os.rename(unfinished, folder)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most of one figure over the rounds."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def report(name: str, settings: dict[str, Any], rounds: dict[str, list[float]]) -> dict[str, Any]:
    """What `--json` prints: machine, settings, each figure of each round, and their summaries."""
    return {
        "benchmark": name,
        "machine": machine(),
        "settings": settings,
        "rounds": rounds,
        "summary": {figure: summary(values) for figure, values in rounds.items()},
    }


def machine() -> dict[str, Any]:
    """Where the figures were taken."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory_bytes / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in PACKAGES},
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _digits(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    # A cosine says nothing before its nines end.
    return f"{value:.6f}" if 0.999 <= value < 1 else f"{value:.4g}"


def show(figures: dict[str, Any], title: str, unit: str, as_json: bool) -> None:
    """Print a report, as a table of its summaries or as JSON."""
    if as_json:
        print(json.dumps(figures, indent=1))
        return
    from rich.table import Table

    from pipelines import progress

    table = Table(title=title, title_justify="left")
    table.add_column("part")
    for column in (f"{unit}, median", "min", "max"):
        table.add_column(column, justify="right")
    for part, values in figures["summary"].items():
        table.add_row(part, *(_digits(values[kind]) for kind in ("median", "min", "max")))
    progress.stdout().print(table, highlight=False)
    print(f"settings: {json.dumps(figures['settings'])}")
    print(f"machine: {json.dumps(figures['machine'])}")

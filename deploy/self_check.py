"""Whether this image can do a run: the locked packages, the programs that Dataflow starts, one run on the CPU."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement
from PIL import Image

from pipelines import cli

VARIANT = "google/efficientnet/b0/classification/1"
PHOTOGRAPHS = 6
BOOT = "/opt/apache/beam/boot"
LAUNCHER = "/opt/google/dataflow/python_template_launcher"


def main() -> int:
    """Check what the arguments name; returns 0, or raises SystemExit with what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", required=True, help="the requirements that were installed")
    parser.add_argument("--beam", required=True, help="the version of the Beam SDK image")
    parsed = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    complain(wrong_packages(Path(parsed.lock).read_text(encoding="utf-8")))
    complain(wrong_beam(parsed.beam))
    complain(missing_programs((BOOT, LAUNCHER, sys.executable), os.environ["FLEX_TEMPLATE_PYTHON_PY_FILE"]))
    with tempfile.TemporaryDirectory() as folder:
        complain(wrong_run(Path(folder)))
    print("the image can do a run")
    return 0


def complain(wrong: list[str]) -> None:
    """End the process where something is wrong."""
    if wrong:
        raise SystemExit("\n".join(wrong))


def wrong_packages(lock: str) -> list[str]:
    """The packages of a lock that are not installed in its version, a line each."""
    wrong = []
    for line in re.findall(r"^[a-z0-9][^\\\n]*", lock, re.MULTILINE):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            version = _installed(requirement.name)
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                wrong.append(f"{requirement} is locked, {version or 'nothing'} is installed")
    return wrong


def wrong_beam(version: str) -> list[str]:
    """A line where Beam is not that of the SDK image, whose boot program starts it."""
    installed = _installed("apache-beam")
    if installed == version:
        return []
    return [
        f"the SDK image is {version}, Beam {installed} is installed; renew the lock, or give BEAM_VERSION"
    ]


def missing_programs(programs: tuple[str, ...], template: str) -> list[str]:
    """What Dataflow would start and is not there, a line each."""
    missing = [program for program in programs if not os.access(program, os.X_OK)]
    missing += [path for path in (template,) if not os.path.isfile(path)]
    return [f"{path} is missing" for path in missing]


def wrong_run(folder: Path, model_dir: str = "", variant: str = VARIANT) -> list[str]:
    """A line for each command that failed, of pulling, running and verifying a few images and a text.

    Args:
        folder: An empty directory.
        model_dir: Where modules are kept; without one, in `folder`.
        variant: Which module to run; with random weights where it is not kept yet.
    """
    images, output, models = folder / "images", folder / "output", model_dir or str(folder / "models")
    images.mkdir()
    random = np.random.default_rng(0)
    for number in range(PHOTOGRAPHS):
        pixels = random.integers(0, 256, (240, 320, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.jpg")
    (images / "text.jpg").write_text("no image", encoding="utf-8")
    options = ["--model-dir", models, "--variant", variant]
    run = ["run", "--input", str(images), "--output", str(output), *options, "--max-failure-ratio", "0.5"]
    commands = (["pull", "--random-weights", *options], run, ["verify", "--deep", str(output)])
    return [f"`pixelbeam {' '.join(command)}` failed" for command in commands if cli.main(command) != 0]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())

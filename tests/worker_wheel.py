"""A worker's Python as a container has it: the package built from this tree, and nothing of the tree itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from tests.dataflow_server import SDK_WORKER

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
BUILT_FROM = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "pipelines", "transforms")
WHERE = "import json, pipelines, transforms; print(json.dumps([pipelines.__file__, transforms.__file__]))"


@dataclass(frozen=True)
class WorkerWheel:
    """A virtual environment that holds the wheel.

    Attributes:
        wheel: The wheel.
        python: The interpreter.
        site_packages: Where the wheel is installed.
    """

    wheel: Path
    python: Path
    site_packages: Path

    @property
    def interpreter(self) -> tuple[str, ...]:
        """Begins a command: isolated, it knows neither PYTHONPATH nor the directory that it is started in."""
        return (str(self.python), "-I")

    @property
    def worker(self) -> tuple[str, ...]:
        """The command of a Beam worker."""
        return (*self.interpreter, "-m", SDK_WORKER)


def make(folder: Path) -> WorkerWheel:
    """Build the wheel and install it into a virtual environment in `folder`; nothing is fetched.

    The requirements are those of the interpreter that runs the tests: a line of a .pth file leads to them. What .pth
    files lie there is not read, and one of these makes the source tree importable, where it is installed as editable.
    """
    wheel = build(folder)
    python, site_packages = make_environment(folder)
    install = [*PIP, "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*install, "--target", str(site_packages), str(wheel)], check=True)
    requirements = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "requirements.pth").write_text("".join(f"{path}\n" for path in requirements))
    made = WorkerWheel(wheel, python, site_packages)
    check(made)
    return made


def make_environment(folder: Path) -> tuple[Path, Path]:
    """An empty virtual environment in `folder`: its interpreter and its site-packages."""
    environment = folder / "venv"
    venv.create(environment, symlinks=True, with_pip=False)
    paths = {"base": str(environment), "platbase": str(environment)}
    return environment / "bin" / "python", Path(sysconfig.get_path("purelib", "venv", paths))


def build(folder: Path) -> Path:
    """The wheel of this tree, built from a copy: no earlier build has a part in it, and the tree stays as it is."""
    source = folder / "source"
    source.mkdir()
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*PIP, "wheel", *options, str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def imported(wheel: WorkerWheel) -> list[Path]:
    """Where that Python, started in the source tree, imports the two packages from."""
    command = [*wheel.interpreter, "-c", WHERE]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Path(path) for path in json.loads(output)]


def check(wheel: WorkerWheel) -> None:
    """Raise RuntimeError where workers would import the packages from anywhere but the wheel."""
    for path in imported(wheel):
        if not path.is_relative_to(wheel.site_packages):
            raise RuntimeError(f"a worker would import {path}, which is not of the wheel")

"""A script of examples/, run as its docstring says."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from tests.examples.conftest import EXAMPLES


def command(script: str) -> str:
    """What the docstring says to type."""
    return "\n".join(typed(script)[1:])


def typed(script: str) -> list[str]:
    """The docstring's indented lines: what to install, and what to type."""
    docstring = ast.get_docstring(ast.parse((EXAMPLES / script).read_text(encoding="utf-8")))
    assert docstring is not None
    indented = [line[4:] for line in docstring.splitlines() if line.startswith("    ")]
    assert indented[0].startswith("pip install ")
    assert indented[1].startswith(f"python examples/{script} ")
    return indented


def run(folder: Path, script: str, *options: str, **replaced: str) -> str:
    """What a script prints when it is run as its docstring says, with more options and other words."""
    line = command(script)
    for old, new in replaced.items():
        assert old in line
        line = line.replace(old, new)
    done = completed(folder, " ".join([line, *options]))
    assert done.returncode == 0, done.stderr
    return done.stdout


def completed(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """A command line after its end, typed in `folder` with this environment's `python`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euc", line],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )

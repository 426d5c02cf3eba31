"""A command whose stderr is a real pseudo-terminal: what a person sees, apart from what goes into a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""ECMA-48's sequences for colours and the cursor."""


@dataclass(frozen=True)
class Ended:
    """What a command did.

    Attributes:
        code: Its exit code.
        output: What went into the pipe.
        shown: Each line that was on the terminal at any time, without colours.
        raw: All that the terminal was sent.
    """

    code: int
    output: str
    shown: list[str]
    raw: str


def run(command: list[str], environment: dict[str, str] | None = None) -> Ended:
    """Run a command with stderr on a pseudo-terminal of 160 columns and stdout in a pipe."""
    ours, its = pty.openpty()
    terminal = {"COLUMNS": "160", "TERM": "xterm-256color"}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=its,
        text=True,
        env={**os.environ, **terminal, **(environment or {})},
    ) as process:
        os.close(its)
        raw = b""
        # Linux raises once nobody has the other end any more.
        with suppress(OSError):
            while piece := os.read(ours, 65536):
                raw += piece
        output, _ = process.communicate()
    os.close(ours)
    text = raw.decode(errors="replace")
    shown = [line.strip() for line in re.split(r"[\r\n]+", CONTROL.sub("", text)) if line.strip()]
    return Ended(process.returncode, output, shown, text)


def pixelbeam(*words: object, environment: dict[str, str] | None = None) -> Ended:
    """One command of ours."""
    return run([sys.executable, "-m", "pipelines.cli", *map(str, words)], environment)

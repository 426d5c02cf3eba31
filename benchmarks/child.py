"""A process of its own that holds parts of a benchmark ready, and measures one whenever it is told to.

TensorFlow's threads and options hold for a whole process, so that what differs in them cannot share one. The children
of a benchmark stay alive and sleep while another measures; thus the rounds can be interleaved.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from benchmarks import measure

Figures = dict[str, float]


@dataclass(frozen=True, eq=False)
class Parts:
    """What the child's function gives.

    Attributes:
        measures: By part, a function that measures it once.
        facts: What else the parent wants to know, in plain JSON types.
    """

    measures: Mapping[str, Callable[[], Figures]]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Child:
    """The parent's end; enter it to start the process, which ends when it is left.

    Args:
        function: `module:function`, called in the child with the arguments and `spawned`, Unix time in seconds when
            the process was started; returns `Parts`.
        arguments: In plain JSON types.

    Raises:
        SystemExit: The child failed; the text is the end of what it wrote to stderr.
    """

    def __init__(self, function: str, **arguments: Any) -> None:
        self._function = function
        self._arguments = arguments

    def __enter__(self) -> Child:
        self._errors = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "benchmarks.child", self._function]
        self._process = subprocess.Popen(
            [*command, json.dumps({**self._arguments, "spawned": time.time()})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=measure.environment(),
        )
        ready = self._answer()
        self.parts: list[str] = ready["parts"]
        self.facts: dict[str, Any] = ready["facts"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()
        self._errors.close()

    def measure(self, part: str) -> Figures:
        """Let the child measure one part once."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{part}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise SystemExit(f"{self._function} failed\n{measure.tail(self._errors)}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def interleaved(children: list[Child], rounds: int) -> dict[str, list[Figures]]:
    """Each child's parts in turn, so many rounds; the figures of each part by round."""
    figures: dict[str, list[Figures]] = {part: [] for child in children for part in child.parts}
    for _ in range(rounds):
        for child in children:
            for part in child.parts:
                figures[part].append(child.measure(part))
    return figures


def main() -> None:
    """The child's end: answers on what was stdout, which everything else here no longer reaches."""
    module, _, function = sys.argv[1].partition(":")
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        parts: Parts = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
        print(json.dumps({"parts": list(parts.measures), "facts": parts.facts}), file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(parts.measures[line.strip()]()), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""`pixelbeam report`: the dataset as one HTML page that needs nothing else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pipelines.progress import counted
from pipelines.report.sampling import SEED
from pipelines.terminal import Line
from transforms import storage
from transforms.errors import RunError, UsageError
from transforms.paths import absolute, as_text, from_here, is_remote

if TYPE_CHECKING:
    from pipelines.report.variant import Report

NAME = "report.html"
NEEDED = ("altair", "jinja2", "vl_convert")


def main(output: str, file: str | None) -> int:
    """Look at the output directory and write the page; returns 0.

    Raises:
        UsageError: The extra is not installed; there is no dataset at `output`; `file` cannot be written.
        RunError: A store failed.
    """
    try:
        from pipelines.report.page import render
        from pipelines.report.variant import read_report
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        raise UsageError(
            f"the report needs {error.name}, which is not here; `pip install pixelbeam[report]`"
        ) from error
    output = absolute(output)
    path = absolute(file) if file else _usual_path(output)
    check_file(path)
    with Line("reading the index") as line:

        def say(doing: str) -> None:
            line.what = doing

        report = read_report(output, say)
        say("drawing")
        content = as_text(render(report)).encode()
        _write(path, content)
    print(f"{as_text(from_here(path))}: {len(content) / 1e6:.1f} MB, {_looked_at(report)}")
    return 0


def _looked_at(report: Report) -> str:
    seen = sum(variant.sampled.rows for variant in report.variants)
    rows = sum(variant.funnel.rows for variant in report.variants)
    about = "" if all(variant.funnel.exact for variant in report.variants) else "about "
    return (
        f"{counted(len(report.variants), 'variant')}, {seen:,} of {about}{counted(rows, 'row')} looked at "
        f"(seed {SEED}), {counted(len(report.pictures), 'picture')}"
    )


def _usual_path(output: str) -> str:
    """Beside the dataset, but in the working directory where that lies in a store, which no browser opens."""
    return absolute(NAME) if is_remote(output) else os.path.join(output, NAME)


def check_file(path: str) -> None:
    """Raise UsageError where the page cannot be written, as far as that can be told at once."""
    if is_remote(path):
        storage.check_writable(os.path.dirname(path))
    elif os.path.isdir(path):
        raise UsageError(f"--output {path} is a directory; name a file in it")


def _write(path: str, content: bytes) -> None:
    try:
        token = storage.read_versioned(path)[1]
        if not storage.swap(path, content, token):
            raise RunError(f"{path} was written by another process meanwhile; run the same command again")
    except OSError as error:
        raise UsageError(
            f"--output {path} cannot be written: {error.strerror or error}; give another"
        ) from error

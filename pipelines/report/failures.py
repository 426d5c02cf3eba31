"""Examples of what failed, for each reason, from the failures files that the rows files name."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.report import sampling
from pipelines.report.work import Reason
from transforms.errors import RunError
from transforms.footers import Footer
from transforms.storage import open_file

EXAMPLES = 5
"""For each reason."""
FILES_A_REASON = 2
MOST_FILES = 40
FILES_AT_ONCE = 16


@dataclass(frozen=True)
class Example:
    """One image that failed: its uri and what was said of it."""

    uri: str
    message: str


def examples(
    output: str, footers: Sequence[Footer], reasons: Sequence[Reason]
) -> dict[Reason, list[Example]]:
    """A few images for each reason; none for a reason whose files are gone.

    Args:
        output: The output directory.
        footers: What the units' rounds say together.
        reasons: The most frequent one first.
    """
    paths: dict[str, None] = {}
    for reason in reasons:
        met = [footer for footer in footers if f"{reason.step}: {reason.error}" in footer.failures_by]
        for footer in sampling.pick(met, FILES_A_REASON, lambda footer: str(footer.unit)):
            paths[footer.failures_file or ""] = None
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        names = [os.path.join(output, path) for path in paths if path][:MOST_FILES]
        rows = [row for its in pool.map(_read, names) for row in its]
    found: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for row in sampling.shuffled(rows, lambda row: str(row["uri"])):
        found[row["step"], row["error"]].append(Example(row["uri"], row["message"]))
    return {reason: found[reason.step, reason.error][:EXAMPLES] for reason in reasons}


def _read(path: str) -> list[dict[str, Any]]:
    try:
        with open_file(path) as file:
            table = pq.read_table(file, columns=["uri", "step", "error", "message"])
        rows: list[dict[str, Any]] = table.to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError, RunError):
        # Superseded meanwhile, or broken, which `verify` tells.
        return []
    return rows

"""`pixelbeam verify`: prove from index and footers that every image is a row or a failure."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.progress import counted, stdout
from pipelines.proof import Checked, Wrong, check_variant
from transforms import index, storage
from transforms.errors import UsageError
from transforms.index import Index
from transforms.paths import absolute

EXIT_WRONG = 1


def main(output: str, deep: bool) -> int:
    """Check the output directory; prints what is wrong and returns 1, else 0.

    Raises:
        UsageError: There is no index at `output`, or no variant.
    """
    output = absolute(output)
    work = index.read(output)
    if work is None:
        raise UsageError(f"{output} holds no index (_index/CURRENT.json); give an output of `pixelbeam run`")
    directories = sorted({*present(output), *asked_for(output)})
    if not directories:
        raise UsageError(
            f"{output} holds no variant; let `pixelbeam run --output {output}` come to its end first"
        )
    console = stdout()
    wrong = [Wrong("_index", line) for line in index.check_parts(work)]
    if not wrong:
        for directory in directories:
            checked = check_variant(output, directory, work, deep)
            wrong += checked.wrong
            _print_variant(console, directory, work, checked)
    if wrong:
        _print_wrong(console, wrong)
    return EXIT_WRONG if wrong else 0


def present(output: str) -> list[str]:
    """Directory names of the variants that the output holds."""
    return [name.removeprefix("variant=") for name in storage.list_names(output, "variant=")]


def asked_for(output: str) -> Iterator[str]:
    """Directory names of the variants that any run was to do, also of one that died before its first file."""
    for name in storage.list_names(os.path.join(output, "_runs")):
        record = json.loads(storage.read(os.path.join(output, "_runs", name)))
        yield from (each["directory"] for each in record["variants"])


def _print_variant(console: Console, directory: str, work: Index, checked: Checked) -> None:
    footers = [part.footer for part in checked.parts.values()]
    rows = sum(footer.rows for footer in footers)
    failures = sum(footer.failures for footer in footers)
    verdict = f"{len(checked.wrong):,} wrong" if checked.wrong else "every image accounted for"
    weights = ", RANDOM WEIGHTS" if any(footer.random_weights for footer in footers) else ""
    line = f"{counted(rows, 'row')} + {counted(failures, 'failure')} of {counted(work.n_images, 'image')}"
    console.print(f"{directory}{weights}: {line}: {verdict}", highlight=False, markup=False, soft_wrap=True)
    for path in checked.rubbish:
        console.print(
            f"  no part of the dataset, swept by the next run: {path}", highlight=False, soft_wrap=True
        )


def _print_wrong(console: Console, wrong: list[Wrong]) -> None:
    table = Table(title="wrong")
    for column in ("where", "what"):
        table.add_column(column, overflow="fold")
    for each in wrong:
        table.add_row(escape(each.where), escape(each.what))
    console.print(table)

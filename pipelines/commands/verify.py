"""`pixelbeam verify`: prove from index and footers that every image is a row or a failure."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass

from rich.markup import escape
from rich.table import Table

from pipelines.directories import open_dataset, variants_of
from pipelines.progress import counted, stdout
from pipelines.proof import Checked, Wrong, check_variant
from pipelines.terminal import tracked
from transforms import index
from transforms.paths import absolute

EXIT_WRONG = 1


@dataclass(frozen=True)
class Variant:
    """What an output holds of a variant.

    Attributes:
        directory: As `variant=DIRECTORY` spells it.
        variant: TF Hub name; None where no rows file tells it.
        random_weights: Whether any row was made without trained weights, and means nothing.
        rows: Images that have one.
        failures: Images that are a failure.
        failures_by: How many for each `step: error`.
        rubbish: Files that are no part of the dataset, relative to the output directory; the next run sweeps them.
    """

    directory: str
    variant: str | None
    random_weights: bool
    rows: int
    failures: int
    failures_by: dict[str, int]
    rubbish: list[str]


@dataclass(frozen=True)
class Verified:
    """All that was verified.

    Attributes:
        output: The output directory.
        deep: Whether every row was read.
        images: In the index.
        units: Likewise.
        variants: Each that the output holds or that a run was to do; none where the index itself is wrong.
        wrong: What is not as promised.
    """

    output: str
    deep: bool
    images: int
    units: int
    variants: list[Variant]
    wrong: list[Wrong]


def main(output: str, deep: bool, as_json: bool = False) -> int:
    """Check the output directory; prints what it holds and what is wrong, and returns 1 where anything is, else 0.

    Raises:
        UsageError: There is no dataset at `output`, or it holds no variant.
    """
    output = absolute(output)
    work, directories = open_dataset(output), variants_of(output)
    wrong = [Wrong("_index", line) for line in index.check_parts(work)]
    found = []
    for directory in [] if wrong else tracked(directories, "verifying", "variants", len(directories)):
        checked = check_variant(output, directory, work, deep)
        wrong += checked.wrong
        found.append(_variant(directory, checked))
        if not as_json:
            _print_variant(found[-1], work.n_images, len(checked.wrong))
    if as_json:
        print(json.dumps(asdict(Verified(output, deep, work.n_images, work.n_units, found, wrong)), indent=1))
    elif wrong:
        _print_wrong(wrong)
    return EXIT_WRONG if wrong else 0


def _variant(directory: str, checked: Checked) -> Variant:
    reasons: Counter[str] = Counter()
    for footer in checked.footers:
        reasons.update(footer.failures_by)
    return Variant(
        directory=directory,
        variant=next((footer.variant for footer in checked.footers), None),
        random_weights=any(footer.random_weights for footer in checked.footers),
        rows=sum(footer.rows for footer in checked.footers),
        failures=sum(footer.failures for footer in checked.footers),
        failures_by=dict(reasons.most_common()),
        rubbish=checked.rubbish,
    )


def _print_variant(found: Variant, n_images: int, n_wrong: int) -> None:
    console = stdout()
    verdict = counted(n_wrong, "problem") if n_wrong else "every image accounted for"
    to_do = n_images - found.rows - found.failures
    if to_do > 0:
        verdict = f"not complete, {counted(to_do, 'image')} to do"
    weights = ", RANDOM WEIGHTS" if found.random_weights else ""
    line = (
        f"{counted(found.rows, 'row')} + {counted(found.failures, 'failure')} of {counted(n_images, 'image')}"
    )
    console.print(
        f"{found.directory}{weights}: {line}: {verdict}", highlight=False, markup=False, soft_wrap=True
    )
    for path in found.rubbish:
        console.print(
            f"  no part of the dataset, swept by the next run: {path}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _print_wrong(wrong: list[Wrong]) -> None:
    table = Table(title="wrong")
    for column in ("where", "what"):
        table.add_column(column, overflow="fold")
    for each in wrong:
        table.add_row(escape(each.where), escape(each.what))
    stdout().print(table)

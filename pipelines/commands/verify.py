"""`pixelbeam verify`: prove from index and footers that every image is a row or a failure."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.progress import counted, stdout
from transforms import index, storage
from transforms.errors import RunError, UsageError
from transforms.fingerprints import add_hash_sums
from transforms.index import Index
from transforms.records import Unit
from transforms.tables import (
    Footer,
    failures_directory,
    read_footer,
    rows_directory,
    rubbish,
    unit_and_fingerprint,
)

EXIT_WRONG = 1


@dataclass(frozen=True)
class Wrong:
    """One thing that is not as promised.

    Attributes:
        where: A file or directory, relative to the output directory.
        what: What is wrong with it and what to do, in one line.
    """

    where: str
    what: str


def main(output: str, deep: bool) -> int:
    """Check the output directory; prints what is wrong and returns 1, else 0.

    Raises:
        UsageError: There is no index at `output`, or no variant.
    """
    output = os.path.abspath(output)
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
        with storage.open_file(os.path.join(output, "_runs", name)) as file:
            yield from (each["directory"] for each in json.load(file)["variants"])


@dataclass
class Checked:
    """What a variant's files say.

    Attributes:
        footers: By file name.
        wrong: What is not as promised.
        rubbish: Files that are no part of the dataset, relative to the output directory.
    """

    footers: dict[str, Footer]
    wrong: list[Wrong]
    rubbish: list[str]


def check_variant(output: str, directory: str, work: Index, deep: bool) -> Checked:
    """Compare a variant's footers with the index; with `deep` also the rows themselves."""
    folder = rows_directory(directory)
    checked = Checked({}, [], [])
    rows_names = storage.list_names(os.path.join(output, folder))
    for name in rows_names:
        if name.startswith("part-") and name.endswith(".parquet"):
            _read(output, folder, name, checked)
    by_unit: dict[int, list[str]] = defaultdict(list)
    for name, footer in checked.footers.items():
        by_unit[footer.unit].append(name)
    missing = 0
    for unit in work.units():
        files = by_unit.pop(unit.number, [])
        missing += not files
        if len(files) == 1:
            footer = checked.footers[files[0]]
            path = os.path.join(output, folder, files[0])
            problems = list(_check_footer(output, path, footer, unit))
            if deep and not problems:
                problems += _check_rows(output, path, footer, unit)
            checked.wrong += [Wrong(f"{folder}/{files[0]}", problem) for problem in problems]
        elif files:
            what = f"unit {unit.number} has {len(files)} rows files: {', '.join(files)}; run the same command again"
            checked.wrong.append(Wrong(folder, what))
    if missing:
        what = f"{missing:,} of {counted(work.n_units, 'unit')} not done; run the same command again"
        checked.wrong.append(Wrong(folder, what))
    checked.wrong += [
        Wrong(f"{folder}/{name}", "belongs to no unit of the index")
        for files in by_unit.values()
        for name in files
    ]
    checked.wrong += _check_settings(folder, checked.footers)
    committed = {
        owner: footer for name, footer in checked.footers.items() if (owner := unit_and_fingerprint(name))
    }
    failures_names = storage.list_names(os.path.join(output, failures_directory(directory)))
    checked.rubbish = rubbish(committed, rows_names, failures_names, directory)
    return checked


def _read(output: str, folder: str, name: str, checked: Checked) -> None:
    try:
        checked.footers[name] = read_footer(os.path.join(output, folder, name))
    except RunError as error:
        checked.wrong.append(Wrong(f"{folder}/{name}", str(error)))


def _check_footer(output: str, path: str, footer: Footer, unit: Unit) -> Iterator[str]:
    """What a unit's footer says against the index."""
    if (count := _row_count(path)) != footer.rows:
        yield f"it has {count} rows, its footer says {footer.rows}"
    if footer.members != unit.members:
        yield "was made from other versions of its images; run again"
    if footer.rows + footer.failures != unit.n_images:
        yield f"{footer.rows} rows + {footer.failures} failures, but the unit has {unit.n_images} images"
    elif add_hash_sums(footer.rows_hash_sum, footer.failures_hash_sum) != unit.uri_hash_sum:
        yield "its images are not those of the unit"
    if footer.failures_file is not None:
        failures = os.path.join(output, footer.failures_file)
        if not storage.exists(failures):
            yield f"its failures file {footer.failures_file} is missing; delete the rows file, run again"
        elif (count := _row_count(failures)) != footer.failures:
            yield f"its failures file has {'no' if count is None else count} rows, not {footer.failures}"
    elif footer.failures:
        yield f"it names no file for its {footer.failures} failures"


def _row_count(path: str) -> int | None:
    """Rows of a Parquet file; None where it is none."""
    try:
        with storage.open_file(path) as file:
            return int(pq.read_metadata(file).num_rows)
    except pa.ArrowInvalid:
        return None


def _check_rows(output: str, path: str, footer: Footer, unit: Unit) -> Iterator[str]:
    """What the rows and failures of a unit say, whose footer is in order."""
    with storage.open_file(path) as file:
        rows = pq.ParquetFile(file).read()
    done = rows.column("uri").to_pylist()
    if footer.failures_file:
        with storage.open_file(os.path.join(output, footer.failures_file)) as file:
            done += pq.ParquetFile(file).read(columns=["uri"]).column("uri").to_pylist()
    if sorted(done) != sorted(ref.uri for ref in index.members(unit)):
        yield "its uris are not those of the unit, each once"
    if set(rows.column("fingerprint").to_pylist()) - {footer.fingerprint}:
        yield "some of its rows have another fingerprint"
    for column in ("logits", "features"):
        if column in rows.column_names:
            values = pc.list_flatten(rows.column(column))
            if not pc.all(pc.is_finite(values), min_count=0).as_py():
                yield f"its {column} hold NaN or infinite values"


def _check_settings(folder: str, footers: dict[str, Footer]) -> Iterator[Wrong]:
    """A variant's files must all be made with the same settings."""
    counts = Counter(json.dumps(footer.settings, sort_keys=True) for footer in footers.values())
    if len(counts) > 1:
        most_common = counts.most_common(1)[0][0]
        for name, footer in footers.items():
            if json.dumps(footer.settings, sort_keys=True) != most_common:
                yield Wrong(
                    f"{folder}/{name}", "was made with other settings than most; run again with --replace"
                )


def _print_variant(console: Console, directory: str, work: Index, checked: Checked) -> None:
    footers = checked.footers.values()
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

"""The proof that every image of an index is a row or a failure of a variant, from footers or from all rows."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.progress import counted
from pipelines.terminal import tracked
from transforms import index, storage
from transforms.commit import failed_uris
from transforms.errors import RunError
from transforms.fetching import fetch
from transforms.fingerprints import add_hash_sums
from transforms.footers import Footer, read_footer_and_rows, united
from transforms.images import MAX_BYTES
from transforms.index import Index
from transforms.metadata import read_metadata
from transforms.records import Unit
from transforms.tables import failures_directory, rounds, rows_directory, rubbish

FILES_AT_ONCE = 64
SAMPLED_IN_A_UNIT = 2
"""Images that are fetched again and compared with their rows' sha256."""
DEEP_AT_ONCE = 4
"""Rows files that are held whole."""
ROWS_NAME = re.compile(r"part-.*\.parquet$")


@dataclass(frozen=True)
class Wrong:
    """One thing that is not as promised.

    Attributes:
        where: A file or directory, relative to the output directory.
        what: What is wrong with it and what to do, in one line.
    """

    where: str
    what: str


@dataclass
class Checked:
    """What a variant's files say.

    Attributes:
        parts: Rows files by name.
        footers: What the rows files of each unit say together.
        wrong: What is not as promised.
        rubbish: Files that are no part of the dataset, relative to the output directory.
    """

    parts: dict[str, Part]
    footers: list[Footer]
    wrong: list[Wrong]
    rubbish: list[str]


@dataclass(frozen=True)
class Part:
    """A rows file, as far as its metadata tells.

    Attributes:
        footer: What it says of itself.
        n_rows: Rows in it.
        n_failures: Rows in its failures file; None where there is no such file, or it is none of Parquet.
    """

    footer: Footer
    n_rows: int
    n_failures: int | None


def check_variant(output: str, directory: str, work: Index, deep: bool) -> Checked:
    """Compare a variant's footers with the index; with `deep` also the rows themselves."""
    folder = rows_directory(directory)
    rows_names = storage.list_names(os.path.join(output, folder))
    checked = _read_parts(output, folder, [name for name in rows_names if ROWS_NAME.match(name)])
    whole = _check_units(checked, folder, work)
    checked.wrong += _check_settings(folder, checked.parts)
    if deep:
        checked.wrong += _check_deeply(output, folder, checked.parts, whole)
    committed = {
        owner: united([checked.parts[name].footer for name in names])
        for owner, names in rounds(checked.parts).items()
    }
    checked.footers = list(committed.values())
    failures_names = storage.list_names(os.path.join(output, failures_directory(directory)))
    checked.rubbish = rubbish(committed, rows_names, failures_names, directory)
    return checked


def _check_units(checked: Checked, folder: str, work: Index) -> list[tuple[list[str], Unit]]:
    """Add what is wrong with the files of each unit; gives those that are in order, with their unit."""
    by_unit: dict[int, list[list[str]]] = defaultdict(list)
    for names in rounds(checked.parts).values():
        by_unit[checked.parts[names[0]].footer.unit].append(names)
    missing, whole = 0, []
    for unit in work.units():
        found = by_unit.pop(unit.number, [])
        missing += not found
        if len(found) == 1:
            names = found[0]
            problems = list(_check_rounds([checked.parts[name] for name in names], unit))
            checked.wrong += [Wrong(f"{folder}/{names[-1]}", problem) for problem in problems]
            whole += [] if problems else [(names, unit)]
        elif found:
            files = [name for names in found for name in names]
            what = f"unit {unit.number} has {len(files)} rows files: {', '.join(files)}; run `pixelbeam run` again"
            checked.wrong.append(Wrong(folder, what))
    if missing:
        what = f"{missing:,} of {counted(work.n_units, 'unit')} not done; run the same `pixelbeam run` again"
        checked.wrong.append(Wrong(folder, what))
    strangers = (name for found in by_unit.values() for names in found for name in names)
    checked.wrong += [Wrong(f"{folder}/{name}", "belongs to no unit of the index") for name in strangers]
    return whole


def _read_parts(output: str, folder: str, names: list[str]) -> Checked:
    """The rows files' metadata, many at a time."""
    checked = Checked({}, [], [], [])
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        read = tracked(pool.map(partial(_read_part, output, folder), names), folder, "footers", len(names))
        for name, part in zip(names, read, strict=True):
            if isinstance(part, Wrong):
                checked.wrong.append(part)
            else:
                checked.parts[name] = part
    return checked


def _read_part(output: str, folder: str, name: str) -> Part | Wrong:
    path = os.path.join(output, folder, name)
    try:
        footer, n_rows = read_footer_and_rows(path)
    except RunError as error:
        return Wrong(f"{folder}/{name}", str(error))
    n_failures = _row_count(os.path.join(output, footer.failures_file)) if footer.failures_file else 0
    return Part(footer, n_rows, n_failures)


def _row_count(path: str) -> int | None:
    try:
        return int(read_metadata(path).num_rows)
    except (FileNotFoundError, pa.ArrowInvalid):
        return None


def _check_rounds(parts: list[Part], unit: Unit) -> Iterator[str]:
    """What the footers of a unit's rounds say against the index."""
    for number, part in enumerate(parts):
        if part.n_rows != part.footer.rows:
            yield f"it has {part.n_rows} rows, its footer says {part.footer.rows}"
        if part.footer.round != number:
            yield f"round {number} is missing; delete the rows files of unit {unit.number}, run again"
    footer, n_failures = united([part.footer for part in parts]), parts[-1].n_failures
    if footer.members != unit.members:
        yield "was made from other versions of its images; run again"
    if footer.rows + footer.failures != unit.n_images:
        yield f"{footer.rows} rows + {footer.failures} failures, but the unit has {unit.n_images} images"
    elif add_hash_sums(footer.rows_hash_sum, footer.failures_hash_sum) != unit.uri_hash_sum:
        yield "its images are not those of the unit"
    if footer.failures and footer.failures_file is None:
        yield f"it names no file for its {footer.failures} failures"
    elif n_failures is None:
        yield f"its failures file {footer.failures_file} is missing or broken; delete the rows file, run again"
    elif n_failures != footer.failures:
        yield f"its failures file has {n_failures} rows, not {footer.failures}"


def _check_deeply(
    output: str, folder: str, parts: dict[str, Part], whole: list[tuple[list[str], Unit]]
) -> Iterator[Wrong]:
    """What the rows and failures of units say, whose footers are in order."""

    def problems(names: list[str], unit: Unit) -> list[str]:
        paths = [os.path.join(output, folder, name) for name in names]
        return list(_check_rows(output, paths, parts[names[-1]].footer, unit))

    with ThreadPoolExecutor(DEEP_AT_ONCE) as pool:
        read = tracked(pool.map(lambda each: problems(*each), whole), folder, "units", len(whole))
        for (names, _), found in zip(whole, read, strict=True):
            yield from (Wrong(f"{folder}/{names[-1]}", problem) for problem in found)


def _check_rows(output: str, paths: list[str], footer: Footer, unit: Unit) -> Iterator[str]:
    """What the rows and failures of a unit say, whose footers are in order."""
    rows = pa.concat_tables(pq.read_table(pa.BufferReader(storage.read(path))) for path in paths)
    done = [*rows.column("uri").to_pylist(), *failed_uris(output, footer)]
    refs = {ref.uri: ref for ref in index.members(unit)}
    if sorted(done) != sorted(refs):
        yield "its uris are not those of the unit, each once"
    if set(rows.column("fingerprint").to_pylist()) - {footer.fingerprint}:
        yield "some of its rows have another fingerprint"
    for column in ("logits", "features"):
        if column in rows.column_names:
            values = pc.list_flatten(rows.column(column))
            if not pc.all(pc.is_finite(values), min_count=0).as_py():
                yield f"its {column} hold NaN or infinite values"
    for row in rows.select(["uri", "sha256"]).slice(0, SAMPLED_IN_A_UNIT).to_pylist():
        content = fetch(refs[row["uri"]], MAX_BYTES).content if row["uri"] in refs else b""
        # What changed or went since is no fault of the rows.
        if isinstance(content, bytes) and hashlib.sha256(content).hexdigest() != row["sha256"]:
            yield f"{row['uri']} has another sha256 than its row"


def _check_settings(folder: str, parts: dict[str, Part]) -> Iterator[Wrong]:
    """A variant's files must all be made with the same settings."""
    settings = {name: json.dumps(part.footer.settings, sort_keys=True) for name, part in parts.items()}
    usual = Counter(settings.values()).most_common(1)
    for name, its in settings.items():
        if its != usual[0][0]:
            yield Wrong(
                f"{folder}/{name}", "was made with other settings than most; run again with --replace"
            )

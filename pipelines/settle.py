"""Before and after the pipeline: what an output directory holds of a variant, and what does not belong."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from pipelines.terminal import tracked
from transforms import index, storage
from transforms.errors import RunError, UsageError
from transforms.fingerprints import VariantRun
from transforms.footers import Footer, read_footer, united
from transforms.index import Index
from transforms.tables import failures_directory, rounds, rows_directory, rubbish, unit_and_fingerprint

FOOTERS_AT_ONCE = 16


def read_footers(paths: list[str]) -> list[Footer]:
    """Footers of rows files, many at a time, in order."""
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        return list(tracked(pool.map(read_footer, paths), "summing up", "files", len(paths)))


def read_rounds(folder: str, names: list[list[str]]) -> list[Footer]:
    """What the rounds of each unit say together."""
    found = iter(read_footers([os.path.join(folder, name) for its in names for name in its]))
    return [united([next(found) for _ in its]) for its in names]


def refuse_other_settings(output: str, runs: tuple[VariantRun, ...]) -> None:
    """Raise UsageError where the output holds rows of a variant that were made with other settings.

    Only files whose name is not this run's are opened, so that a run that is gone on with looks at none.
    """
    work = index.read(output)
    units = list(work.units()) if work else []
    for run in runs:
        wanted = {(unit.number, run.fingerprint(unit)) for unit in units}
        folder = os.path.join(output, rows_directory(run.variant.directory))
        others = [
            name for name in storage.list_names(folder, "part-") if unit_and_fingerprint(name) not in wanted
        ]
        for footer in read_footers([os.path.join(folder, name) for name in others]):
            if footer.settings != run.settings:
                raise UsageError(
                    f"{output} holds {run.variant.name} made with {_difference(footer, run)}; "
                    "give --replace to do it anew, or another --output"
                )


def settle(output: str, runs: tuple[VariantRun, ...], work: Index) -> dict[str, list[Footer]]:
    """After the pipeline: every unit's footer for each variant, and nothing beside them.

    Raises:
        RunError: A unit is not committed.
    """
    units = list(work.units())
    footers: dict[str, list[Footer]] = {}
    for run in runs:
        directory = run.variant.directory
        folder = os.path.join(output, rows_directory(directory))
        rows_names = storage.list_names(folder)
        by_owner = rounds(rows_names)
        owners = [(unit.number, run.fingerprint(unit)) for unit in units]
        missing = sum(owner not in by_owner for owner in owners)
        if missing:
            raise RunError(
                f"{missing:,} of {len(units):,} units of {run.variant.name} are not done; "
                "run the same `pixelbeam run` again"
            )
        current = dict(zip(owners, read_rounds(folder, [by_owner[owner] for owner in owners]), strict=True))
        footers[run.variant.name] = list(current.values())
        failures_names = storage.list_names(os.path.join(output, failures_directory(directory)))
        for path in rubbish(current, rows_names, failures_names, directory):
            storage.delete(os.path.join(output, path))
    return footers


def _difference(footer: Footer, run: VariantRun) -> str:
    keys = sorted(
        key for key in footer.settings | run.settings if footer.settings.get(key) != run.settings.get(key)
    )
    return ", ".join(
        f"{key} {_short(footer.settings.get(key))}, not {_short(run.settings.get(key))}" for key in keys
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:12]}…"

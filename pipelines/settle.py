"""Before and after the pipeline: what an output directory holds of a variant, and what does not belong."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from transforms import index, storage
from transforms.errors import RunError, UsageError
from transforms.fingerprints import VariantRun
from transforms.index import Index
from transforms.tables import (
    Footer,
    failures_directory,
    read_footer,
    rows_directory,
    rows_path,
    rubbish,
    unit_and_fingerprint,
)

FOOTERS_AT_ONCE = 16


def read_footers(paths: list[str]) -> list[Footer]:
    """Footers of rows files, many at a time, in order."""
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        return list(pool.map(read_footer, paths))


def refuse_other_settings(output: str, runs: tuple[VariantRun, ...]) -> None:
    """Raise UsageError where the output holds rows of a variant that were made with other settings.

    Only files whose name is not this run's are opened, so that a run that is gone on with looks at none.
    """
    work = index.read(output)
    units = list(work.units()) if work else []
    for run in runs:
        wanted = {os.path.basename(rows_path(run, run.target(unit))) for unit in units}
        folder = os.path.join(output, rows_directory(run.variant.directory))
        others = [name for name in storage.list_names(folder, "part-") if name not in wanted]
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
        rows_names = storage.list_names(os.path.join(output, rows_directory(directory)))
        paths = [rows_path(run, run.target(unit)) for unit in units]
        missing = {os.path.basename(path) for path in paths} - set(rows_names)
        if missing:
            raise RunError(
                f"{len(missing):,} of {len(units):,} units of {run.variant.name} are not done; "
                "run the same command again"
            )
        found = read_footers([os.path.join(output, path) for path in paths])
        footers[run.variant.name] = found
        current = {
            owner: footer
            for path, footer in zip(paths, found, strict=True)
            if (owner := unit_and_fingerprint(path))
        }
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

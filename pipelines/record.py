"""The record of a run: what was asked for and with what, kept beside the output."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from dataclasses import asdict
from typing import Any

from pipelines.config import RunConfig
from transforms import storage
from transforms.commit import package_versions
from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.index import Index


def record_run(config: RunConfig, runs: tuple[VariantRun, ...], work: Index) -> str:
    """Write `_runs/RUN.json`; returns the run's name, its start in UTC."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        while True:
            run_id = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
            file.seek(0)
            file.write(json.dumps(_fields(run_id, config, runs, work), indent=1).encode())
            file.truncate()
            file.flush()
            if storage.commit(file.name, os.path.join(config.output, "_runs", f"{run_id}.json")):
                return run_id
            # Another run on this output started within the same second.
            time.sleep(1)


def record_names(output: str) -> list[str]:
    """Names of the records of an output's runs, the oldest first; what else lies there is none of ours."""
    names = storage.list_names(os.path.join(output, "_runs"))
    return [name for name in names if name.endswith("Z.json") and not name.startswith(".")]


def read_record(output: str, name: str) -> dict[str, Any]:
    """A record as it was written.

    Raises:
        RunError: It is broken.
    """
    path = os.path.join(output, "_runs", name)
    try:
        record: dict[str, Any] = json.loads(storage.read(path))
    except ValueError as error:
        raise RunError(f"{path} is no record of a run ({error}); delete it") from error
    return record


def read_last_run(output: str) -> tuple[str, RunConfig] | None:
    """Name and configuration of the run that was begun last; None where there was none."""
    names = record_names(output)
    if not names:
        return None
    record = read_record(output, names[-1])
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record["configuration"].items()
    }
    return record["run"], RunConfig(**fields)


def _fields(run_id: str, config: RunConfig, runs: tuple[VariantRun, ...], work: Index) -> dict[str, object]:
    return {
        "run": run_id,
        "configuration": asdict(config),
        "index": work.snapshot,
        "images": work.n_images,
        "units": work.n_units,
        "variants": [
            {
                "variant": run.variant.name,
                "directory": run.variant.directory,
                "handle": run.variant.handle,
                "module": run.module_path,
                "random_weights": run.random_weights,
                "settings": run.settings,
            }
            for run in runs
        ],
        "python": platform.python_version(),
        "packages": package_versions(),
    }

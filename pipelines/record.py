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


def read_last_run(output: str) -> tuple[str, RunConfig] | None:
    """Name and configuration of the run that was begun last; None where there was none."""
    names = storage.list_names(os.path.join(output, "_runs"))
    if not names:
        return None
    record = json.loads(storage.read(os.path.join(output, "_runs", names[-1])))
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

"""`pixelbeam watch`: come back to the last run of an output: follow its job to its end, then sum up what it did."""

from __future__ import annotations

import sys

from pipelines import dataflow, jobs, model_dir
from pipelines.directories import open_dataset
from pipelines.record import read_last_run
from pipelines.run import Begun, finish
from transforms.errors import UsageError
from transforms.paths import absolute


def main(output: str) -> int:
    """Show the last run; returns its exit code.

    Raises:
        UsageError: There was no run.
        RunError: It has not done all.
        KeyboardInterrupt: Ctrl-C, which leaves the job to itself.
    """
    output = absolute(output)
    work, last = open_dataset(output), read_last_run(output)
    if last is None:
        raise UsageError(f"no run was begun on {output}, it was only listed; begin one with `pixelbeam run`")
    run_id, config = last
    job = jobs.read(output, run_id)
    if job is not None:
        jobs.follow(job, work.n_images, len(config.variants))
    elif dataflow.is_asked_for(config):
        print(
            "the launcher of a template submitted the job, so that only its rows are known here; its state: "
            "gcloud dataflow jobs list",
            file=sys.stderr,
        )
    return finish(Begun(config, model_dir.resolve_variants(config), work, run_id))

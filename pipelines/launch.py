"""Starting the pipeline where it is to run, and waiting for it."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlparse

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.worker import sdk_worker

from pipelines import progress
from pipelines.config import RunConfig
from pipelines.quiet import stderr_aside
from pipelines.supervise import EXIT_WORKER_DIED
from transforms import attempts, devices, tally
from transforms.errors import RunError, UsageError

WORKER_DIED = "Worker subprocess exited with return code"
"""FnApiRunner's words in `multi_processing`."""


class WorkersDied(RunError):
    """Workers died over what they were at, whose markers have to stay."""


def is_here(config: RunConfig) -> bool:
    """Whether the run is in this process, as it is where no runner is named."""
    return PipelineOptions(list(config.beam_options)).view_as(StandardOptions).runner is None


def new_pipeline(config: RunConfig) -> beam.Pipeline:
    """An empty pipeline for the runner that was asked for.

    Raises:
        UsageError: Its options do not fit together, or name a file that is not there.
    """
    options = beam_options(config)
    _check_jar(options)
    try:
        return beam.Pipeline(options=options)
    except ValueError as error:
        raise UsageError(f"{' '.join(str(error).split())}; correct Beam's options") from error


def _check_jar(options: PipelineOptions) -> None:
    given = options.get_all_options(drop_default=True)
    for name in ("flink_job_server_jar", "spark_job_server_jar"):
        jar = given.get(name)
        if jar and not urlparse(jar).scheme and not os.path.exists(jar):
            raise UsageError(f"--{name} {jar}: no such file; download it (docs/engines.md names it)")


def beam_options(config: RunConfig) -> PipelineOptions:
    """Beam's options; without a runner, this process with as many threads as keep its device busy."""
    options = list(config.beam_options)
    if is_here(config):
        options = [
            "--runner=FnApiRunner",
            "--direct_running_mode=multi_threading",
            f"--direct_num_workers={devices.harness_threads()}",
            *options,
        ]
    return PipelineOptions(options)


def launch_and_show(pipeline: beam.Pipeline, config: RunConfig, run_id: str, n_images: int) -> None:
    """Run the pipeline to its end and show how it goes; an end in order leaves no markers of units begun."""
    counts = tally.of_run(config.output, run_id)
    in_order = True
    try:
        with (
            stderr_aside() as terminal,
            progress.Live(counts.snapshot, n_images, len(config.variants), terminal),
        ):
            launch(pipeline)
    except WorkersDied:
        in_order = False
        raise
    finally:
        if in_order:
            # In an outage what stopped the run is what counts.
            with suppress(RunError):
                attempts.forget(config.output, run_id)


def launch(pipeline: beam.Pipeline) -> None:
    """Run the pipeline to its end; raises RunError with the one line that matters where it fails."""
    # A worker in this process prints and logs each error that the runner raises; of two workers one does so too late.
    vars(sdk_worker)["print"] = lambda *_, **__: None
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    try:
        with no_longer_than_its_workers():
            pipeline.run().wait_until_finish()
    except RuntimeError as error:
        raise RunError(reason_of(str(error))) from error
    except OSError as error:
        if not _is_of_dask(error):
            raise
        raise RunError(f"{error}; look at --dask_client_address, then run the same command again") from error
    except grpc.FutureTimeoutError as error:
        raise RunError(
            "the job service does not answer; look at --job_endpoint, then run the same command again"
        ) from error
    except _killed_on_dask() as error:
        raise WorkersDied(
            f"{str(error).rstrip('.')}; what was committed stays; run the same command again"
        ) from error


@contextmanager
def no_longer_than_its_workers() -> Iterator[None]:
    """End this process with `EXIT_WORKER_DIED` if a worker process of the runner dies during the block.

    FnApiRunner would wait for its answer forever: it raises the death in a thread where nobody hears of it. No
    exception here could tell more, and the markers of what the worker was at have to stay.
    """
    usual = threading.excepthook

    def end(raised: threading.ExceptHookArgs) -> None:
        if str(raised.exc_value).startswith(WORKER_DIED):
            os._exit(EXIT_WORKER_DIED)
        usual(raised)

    threading.excepthook = end
    try:
        yield
    finally:
        threading.excepthook = usual


def _is_of_dask(error: OSError) -> bool:
    """Whether it says that Dask's scheduler does not answer: the system's own errors have a number."""
    return "distributed" in sys.modules and error.errno is None


def _killed_on_dask() -> tuple[type[Exception], ...]:
    """What Dask raises when several workers died over the same task; it is loaded where it is the runner."""
    distributed = sys.modules.get("distributed")
    return (distributed.KilledWorker,) if distributed else ()


def reason_of(text: str) -> str:
    """One line for a failed pipeline, our own error's text; for a surprise its whole traceback comes first.

    Args:
        text: Of the runner's error: runners hand over a worker's error as the text of its traceback.
    """
    text = text.split(" [while running", maxsplit=1)[0].strip()
    ours = re.search(r"^transforms\.errors\.RunError: (.*)", text, re.M)
    if ours:
        return ours.group(1)
    return f"{text}\nthe pipeline failed, what was committed stays; run the same command again"

"""Servers that come with other packages, each in a process group that ends with this process at the latest.

As a program: run a module as `python -m` would, and end the group when stdin is closed.
"""

from __future__ import annotations

import logging
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from distributed import Client

START_SECONDS = 120


@contextmanager
def serve(folder: Path, module: str, *arguments: object, **variables: str) -> Iterator[Path]:
    """What the module writes to stdout and stderr, while it runs.

    Args:
        folder: For the log.
        module: What `python -m` would run.
        arguments: For it.
        variables: Of its environment, beside ours.
    """
    log = folder / f"{module}-{len(list(folder.iterdir()))}.log"
    # Beam's worker pool starts whatever is called `python`.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "tests.servers", module, *map(str, arguments)],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "PATH": path, **variables},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield log
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(log: Path, words: str) -> str:
    """What the group of a regular expression matches, once it is in the log."""
    deadline = time.monotonic() + START_SECONDS
    while not (found := re.search(words, log.read_text(errors="replace"))):
        assert time.monotonic() < deadline, log.read_text(errors="replace")
        time.sleep(0.05)
    return found[1]


@contextmanager
def job_service(folder: Path) -> Iterator[str]:
    """Beam's job service in Python, which runs the jobs that PortableRunner sends: its address."""
    with serve(folder, "apache_beam.runners.portability.local_job_service_main") as log:
        yield "localhost:" + wait_for(log, r"Listening for beam jobs on port (\d+)")


@contextmanager
def worker_pool(folder: Path) -> Iterator[str]:
    """A service that starts a worker process whenever a runner asks for one: its address."""
    with serve(folder, "apache_beam.runners.worker.worker_pool_main", "--service_port=0") as log:
        yield wait_for(log, r"Listening for workers at (\S+)")


@dataclass(frozen=True)
class DaskCluster:
    """A scheduler and workers.

    Attributes:
        address: Of the scheduler.
        client: Of this process.
    """

    address: str
    client: Client

    def worker_pids(self) -> list[int]:
        """The processes that work, in the order of the workers' names; one that died has a successor."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        names = {address: worker["name"] for address, worker in workers.items()}
        pids = self.client.run(os.getpid, on_error="ignore")
        return [pids[address] for address in sorted(pids, key=lambda address: str(names.get(address)))]


@contextmanager
def dask_cluster(folder: Path, workers: int, allowed_failures: int = 3) -> Iterator[DaskCluster]:
    """Dask's scheduler and workers, each in a process beside the nanny that starts it anew when it dies.

    Args:
        folder: For what they write.
        workers: How many, of one thread each.
        allowed_failures: Workers that may die over a task before it fails; 3 is Dask's default.
    """
    here = ("--host", "127.0.0.1")
    with ExitStack() as servers:
        log = servers.enter_context(
            serve(
                folder,
                "distributed.cli.dask_scheduler",
                *(*here, "--port", 0, "--dashboard-address", "127.0.0.1:0"),
                DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=str(allowed_failures),
            )
        )
        address = wait_for(log, r"Scheduler at: +(\S+)")
        for number in range(workers):
            name = f"worker-{number}"
            words = ("--name", name, "--local-directory", folder / name, "--nthreads", 1, "--no-dashboard")
            servers.enter_context(serve(folder, "distributed.cli.dask_worker", address, *here, *words))
        client = servers.enter_context(Client(address))
        client.wait_for_workers(workers, timeout=START_SECONDS)
        yield DaskCluster(address, client)


def main() -> None:
    """Run the module that the first argument names with the others."""

    def end_with_stdin() -> None:
        sys.stdin.read()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end_with_stdin, daemon=True).start()
    logging.basicConfig(level=logging.INFO)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

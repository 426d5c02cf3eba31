"""What the workers of a Dataflow job are: the machine, its GPU, their number and how much each does at once."""

from __future__ import annotations

import re
from dataclasses import dataclass

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, WorkerOptions

from pipelines import estimate
from pipelines.config import RunConfig
from pipelines.estimate import Accelerator
from pipelines.listing import UNIT_SECONDS
from transforms.errors import UsageError
from transforms.variants import find

CPU_MACHINE = ("n2-standard-8", 8)
GPU_THREADS = 2
"""Of one process: one prepares while the other's batch is scored."""
MAX_CPU_THREADS = 8
UNITS_A_WORKER = 6
"""Half an hour of work, against some minutes until a worker has started."""
MOST_GPU_WORKERS = 16
MOST_CPU_WORKERS = 100

_SERVICE_OPTION = re.compile(r"worker_accelerator=.*type:(?P<type>[^;]+);count:(?P<count>\d+)")


@dataclass(frozen=True)
class Workers:
    """What each worker is, as far as it is known before the job is made.

    Attributes:
        machine: Machine type.
        vcpus: Of that type, as far as its name says.
        gpus: GPUs on it.
        accelerator: The GPU, where it is one whose rates are known.
        share_gpu: Whether several processes share one GPU, each with models of its own.
        images_per_second: What each does, at most.
    """

    machine: str
    vcpus: int
    gpus: int
    accelerator: Accelerator | None
    share_gpu: bool
    images_per_second: float

    @property
    def threads(self) -> int:
        """Of the runner in each process."""
        if self.share_gpu:
            return 1
        return GPU_THREADS if self.gpus else min(max(2, self.vcpus), MAX_CPU_THREADS)

    @property
    def unit_images(self) -> float:
        """Images that one does in the time that a unit should take."""
        return UNIT_SECONDS * self.images_per_second

    def count(self, n_units: int) -> int:
        """Workers for so many units."""
        return max(1, min(-(-n_units // UNITS_A_WORKER), MOST_GPU_WORKERS if self.gpus else MOST_CPU_WORKERS))


def workers_of(config: RunConfig) -> Workers:
    """The workers of a job: as the user says, else the smallest machine whose vCPUs keep the GPU busy.

    Raises:
        UsageError: No accelerator of that name is known.
    """
    options = PipelineOptions(list(config.beam_options))
    service = options.view_as(GoogleCloudOptions).dataflow_service_options or []
    given = next(filter(None, map(_SERVICE_OPTION.search, service)), None)
    gpus = int(given["count"]) if given else int(config.accelerator is not None)
    name = given["type"] if given else config.accelerator
    accelerator = estimate.accelerators().get(name or "")
    if config.accelerator and accelerator is None:
        known = ", ".join(sorted(estimate.accelerators()))
        raise UsageError(
            f"--accelerator {config.accelerator} is not known, {known} are; for another give Dataflow's own "
            "--dataflow_service_options=worker_accelerator=... and --worker_machine_type"
        )
    on_gpu = _rate_on_gpu(config, accelerator)
    machine, vcpus = _machine(options, accelerator, on_gpu)
    on_cpu = estimate.together(estimate.rate_on_cpu(find(spec), vcpus) for spec in config.variants)
    share_gpu = config.mps or any("use_nvidia_mps" in option for option in service)
    return Workers(
        machine, vcpus, gpus, accelerator, share_gpu, min(on_gpu, vcpus / estimate.DECODE_SECONDS) or on_cpu
    )


def _rate_on_gpu(config: RunConfig, accelerator: Accelerator | None) -> float:
    """Images a second with all variants; 0.0 where there is no GPU that is known."""
    if accelerator is None:
        return 0.0
    return estimate.together(
        estimate.rate(find(spec), accelerator, config.precision) for spec in config.variants
    )


def _machine(
    options: PipelineOptions, accelerator: Accelerator | None, images_per_second: float
) -> tuple[str, int]:
    """A machine type and its vCPUs."""
    given = options.view_as(WorkerOptions).machine_type
    if given:
        last = given.rpartition("-")[2]
        return given, int(last) if last.isdigit() else CPU_MACHINE[1]
    if accelerator is None:
        return CPU_MACHINE
    needed = images_per_second * estimate.DECODE_SECONDS
    return next((each for each in accelerator.machines if each[1] >= needed), accelerator.machines[-1])

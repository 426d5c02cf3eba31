"""What a Dataflow job needs, filled in beside what the user gave, and what cannot work, told before it is tried."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
    WorkerOptions,
)

from pipelines.config import RunConfig
from pipelines.workers import workers_of
from transforms.errors import UsageError
from transforms.index import Index, members, units_of
from transforms.paths import is_remote
from transforms.variants import find

IMAGE_VARIABLE = "PIXELBEAM_IMAGE"
GPU_DISK_GB = 100
"""The image with CUDA's libraries, packed and unpacked, takes a third of it."""
CPU_DISK_GB = 50
ONE_PROCESS = "no_use_multiple_sdk_containers"

# The driver's series: CUDA 12 needs 525 or later, and what Dataflow installs by itself may be older.
_DRIVER = "install-nvidia-driver:5xx"


def is_asked_for(config: RunConfig) -> bool:
    """Whether the run is a Dataflow job."""
    runner = _options(config).view_as(StandardOptions).runner or ""
    return runner.rpartition(".")[2].lower() in ("dataflow", "dataflowrunner")


def check(config: RunConfig) -> None:
    """Raise UsageError for a job that cannot work; nothing is read."""
    if is_asked_for(config):
        google = _options(config).view_as(GoogleCloudOptions)
        for name in ("project", "region", "temp_location"):
            # Without a place Beam would make a bucket.
            if not getattr(google, name):
                raise UsageError(
                    f"--{name} is missing; a job needs --project, --region and --temp_location gs://..."
                )
        _check_gpus(config)
        _check_places(config)
        if not _image(config):
            raise UsageError(
                "no image for the workers; build one (deploy/README.md) and give its name as --sdk_container_image, "
                f"or in ${IMAGE_VARIABLE}"
            )
        return
    for given, option in ((config.accelerator, "--accelerator"), (config.mps, "--mps")):
        if given:
            raise UsageError(f"{option} is for Dataflow; add --runner=DataflowRunner, or leave it out")


def _check_gpus(config: RunConfig) -> None:
    google = _options(config).view_as(GoogleCloudOptions)
    service = google.dataflow_service_options or []
    own = [option for option in service if "worker_accelerator" in option]
    each = workers_of(config)
    if config.accelerator and own:
        raise UsageError(f"--accelerator and --dataflow_service_options={own[0]}; give one of them")
    if config.mps and own:
        raise UsageError("--mps goes with --accelerator; to your own worker_accelerator add ;use_nvidia_mps")
    if each.gpus and google.flexrs_goal:
        raise UsageError("--flexrs_goal, but FlexRS has no GPUs; leave out either it or the accelerator")
    if config.require_gpu and not each.gpus:
        raise UsageError("--require-gpu, but the workers have none; give --accelerator, such as nvidia-l4")
    if not each.share_gpu:
        return
    if each.gpus != 1:
        raise UsageError(
            f"MPS shares one GPU among processes, the workers have {each.gpus}; give --accelerator"
        )
    if "enable_prime" in [*service, *_experiments(config)]:
        raise UsageError("MPS, but Dataflow Prime does not know it; leave out enable_prime")
    if ONE_PROCESS in _experiments(config):
        raise UsageError(f"MPS shares a GPU among processes; leave out --experiments={ONE_PROCESS}")


def _check_places(config: RunConfig) -> None:
    pull = f"pixelbeam pull --variant {' '.join(config.variants)} --model-dir gs://BUCKET/models"
    places = [
        ("--input", place, "gcloud storage cp --recursive FOLDER gs://BUCKET/") for place in config.inputs
    ]
    places += [("--output", config.output, "gs://BUCKET/FOLDER"), ("--model-dir", config.model_dir, pull)]
    for option, place, remedy in places:
        if not is_remote(place):
            raise UsageError(
                f"{option} {place} is on this machine, where no worker can read it; give a place in a bucket: {remedy}"
            )


def check_index(work: Index) -> None:
    """Raise UsageError where images are on this machine, as those that an earlier run listed may be."""
    for part in work.part_paths():
        uri = members(next(units_of(part)))[0].uri
        if not is_remote(uri):
            raise UsageError(f"{uri} is on this machine, where no worker can read it; give another --output")


def filled_in(config: RunConfig, n_units: int, run_id: str) -> RunConfig:
    """The configuration with all of Beam's options that the job needs, shown; what the user gave stays, and wins.

    Resources are asked for the whole job, never for one transform, which would keep stages from being fused.
    """
    given = _options(config).get_all_options(drop_default=True)
    added = [
        f"--{name}={value}" for name, value in _usual(config, n_units, run_id).items() if name not in given
    ]
    labels = {"pixelbeam_run": run_id.lower(), "pixelbeam_accelerator": config.accelerator or "none"}
    own = {label.partition("=")[0] for label in given.get("labels") or ()}
    added += [f"--labels={key}={value}" for key, value in labels.items() if key not in own]
    if config.accelerator:
        mps = ";use_nvidia_mps" if config.mps else ""
        option = f"worker_accelerator=type:{config.accelerator};count:1;{_DRIVER}{mps}"
        added.append(f"--dataflow_service_options={option}")
    if not workers_of(config).share_gpu and ONE_PROCESS not in _experiments(config):
        # One process, and so one model, a worker.
        added.append(f"--experiments={ONE_PROCESS}")
    print(f"filled in: {' '.join(added)}", file=sys.stderr)
    return replace(config, beam_options=(*config.beam_options, *added))


def _usual(config: RunConfig, n_units: int, run_id: str) -> dict[str, str | int | None]:
    """Options that take one value, by the names of their attributes."""
    each = workers_of(config)
    given = _options(config).view_as(WorkerOptions)
    count = each.count(n_units)
    weights_gb = sum(find(spec).parameters_millions or 0.0 for spec in config.variants) * 4e-3
    return {
        "job_name": f"pixelbeam-{run_id.lower()}",
        "sdk_container_image": _image(config),
        "machine_type": each.machine,
        "disk_size_gb": (GPU_DISK_GB if each.gpus else CPU_DISK_GB) + math.ceil(2 * weights_gb),
        "num_workers": min(count, given.max_num_workers or count),
        "max_num_workers": max(count, given.num_workers or 0),
        "number_of_worker_harness_threads": each.threads,
    }


def _image(config: RunConfig) -> str | None:
    return (
        _options(config).view_as(WorkerOptions).sdk_container_image or os.environ.get(IMAGE_VARIABLE) or None
    )


def _experiments(config: RunConfig) -> list[str]:
    return _options(config).view_as(DebugOptions).experiments or []


def _options(config: RunConfig) -> PipelineOptions:
    return PipelineOptions(list(config.beam_options))

"""What this process may use of its machine: cores, memory, GPUs. TensorFlow's settings hold for the whole process."""

from __future__ import annotations

import os
from functools import cache
from typing import Literal

import tensorflow as tf

from transforms.errors import RunError

Kind = Literal["cpu", "gpu"]

MAX_CPU_SLOTS = 8


def kind() -> Kind:
    """Where models run in this process: on the first GPU that TensorFlow sees, else on the CPU."""
    return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"


def require_gpu() -> None:
    """Raise RunError where TensorFlow sees no GPU."""
    if kind() != "gpu":
        raise RunError(
            "--require-gpu, but TensorFlow sees no GPU on this machine; install its driver and "
            "tensorflow[and-cuda], or leave the option out"
        )


@cache
def configure() -> None:
    """Share the device out, once a process and before TensorFlow's first operation.

    A GPU's memory is taken as it is needed, so that several processes can share it. On a CPU each slot runs a batch
    of its own on its share of the cores: one thread an operation has nothing to wait for, while an operation that is
    cut up for all cores ends with the last of them, and finds them taken by the decoders. Where TensorFlow was in use
    before it is left as it was, and `slots` says 1.
    """
    try:
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        if kind() == "cpu":
            tf.config.threading.set_intra_op_parallelism_threads(cores() // _cpu_slots())
    except RuntimeError:
        # TensorFlow's way to say that it has begun.
        return


def slots() -> int:
    """Batches that run at once: one on a GPU, on a CPU as many as `configure` could make room for."""
    configure()
    threads_an_operation: int = tf.config.threading.get_intra_op_parallelism_threads()
    if kind() == "gpu" or threads_an_operation == 0:
        return 1
    return max(1, cores() // threads_an_operation)


def harness_threads() -> int:
    """Threads of the runner that keep `slots` busy: on a GPU, two, of which one prepares while the other scores."""
    return max(2, slots())


def decode_threads() -> int:
    """Threads of a process that decode: a call of TensorFlow decodes on several cores, other formats on one.

    A thread for each core would spend on waiting for the interpreter's lock what it gains.
    """
    return max(1, cores() // 2)


def set_precision(precision: str) -> None:
    """Tell TensorFlow how exactly to compute: `exact`, float32 throughout, or `fast`, 16 bits where it can.

    TensorFlow reads it at each call, so that one process runs one precision.
    """
    fast = precision == "fast"
    tf.config.experimental.enable_tensor_float_32_execution(fast)
    tf.config.optimizer.set_experimental_options(
        {
            "auto_mixed_precision": fast and kind() == "gpu",
            "auto_mixed_precision_onednn_bfloat16": fast and kind() == "cpu",
        }
    )


def memory_bytes() -> int:
    """Memory of the device that models run on: the first GPU's, else this machine's or, if less, this container's."""
    if kind() == "gpu":
        return _gpu_memory_bytes()
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(physical, _container_limit_bytes() or physical)


def cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_slots() -> int:
    # Each slot holds a batch and what the model makes of it.
    return min(cores(), MAX_CPU_SLOTS)


def _gpu_memory_bytes() -> int:
    from tensorflow.python.client import device_lib

    limits = (
        device.memory_limit for device in device_lib.list_local_devices() if device.device_type == "GPU"
    )
    return int(next(limits))


def _container_limit_bytes() -> int | None:
    """The memory limit of this process's control group, version 2; None where there is none."""
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            limit = file.read().strip()
    except OSError:
        return None
    return None if limit == "max" else int(limit)

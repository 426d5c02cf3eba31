"""TensorFlow's settings of the process, in processes of their own where they can be made only once."""

from __future__ import annotations

import subprocess
import sys

import pytest
import tensorflow as tf

from transforms import devices
from transforms.errors import RunError


def in_a_process(code: str) -> list[str]:
    """What a fresh interpreter prints, in words."""
    command = [sys.executable, "-c", "from transforms import devices\nimport tensorflow as tf\n" + code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize(("cores", "slots", "threads"), [(1, 1, 1), (2, 2, 1), (8, 8, 1), (32, 8, 4)])
def test_a_cpu_is_shared_out_among_slots(cores: int, slots: int, threads: int) -> None:
    printed = in_a_process(
        f"devices.cores = lambda: {cores}\n"
        "print(devices.slots(), tf.config.threading.get_intra_op_parallelism_threads(), devices.harness_threads())"
    )
    assert printed == [str(slots), str(threads), str(max(2, slots))]


def test_where_tensorflow_was_in_use_before_there_is_one_slot() -> None:
    assert in_a_process("tf.constant(1.0)\nprint(devices.slots(), devices.harness_threads())") == ["1", "2"]


@pytest.mark.parametrize(("precision", "fast"), [("exact", False), ("fast", True)])
def test_the_precision_holds_for_the_process(precision: str, fast: bool) -> None:
    devices.set_precision(precision)
    options = tf.config.optimizer.get_experimental_options()
    assert tf.config.experimental.tensor_float_32_execution_enabled() is fast
    assert options.get("auto_mixed_precision_onednn_bfloat16", False) is fast
    assert not options.get("auto_mixed_precision", False)
    devices.set_precision("exact")


def test_a_gpu_runs_float16_and_its_memory_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"/{kind}:0"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: grown.append((gpu, on)))
    devices.configure.cache_clear()
    assert (devices.slots(), devices.harness_threads(), grown) == (1, 2, [("/GPU:0", True)])
    devices.set_precision("fast")
    options = tf.config.optimizer.get_experimental_options()
    assert options["auto_mixed_precision"]
    assert not options.get("auto_mixed_precision_onednn_bfloat16", False)
    devices.set_precision("exact")
    devices.require_gpu()
    devices.configure.cache_clear()


def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(RunError, match=r"--require-gpu, but TensorFlow sees no GPU"):
        devices.require_gpu()


def test_memory_is_the_machine_s_or_the_container_s(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = devices.memory_bytes()
    assert machine > 1 << 30
    monkeypatch.setattr(devices, "_container_limit_bytes", lambda: 1 << 28)
    assert devices.memory_bytes() == 1 << 28

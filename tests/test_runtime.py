"""One load a process, slots, batches that are halved, images that are found guilty; with real modules that fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipelines import model_dir
from pipelines.config import RunConfig
from tests import touchy_modules as touchy
from transforms import comparison, devices, graph_files, graphs, modules, runtime
from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.probe import probe
from transforms.records import FloatArray
from transforms.runtime import Model, Models, load_models

GOOD = (touchy.BLUE, touchy.GREY)


@pytest.fixture(scope="module")
def touchy_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., VariantRun]:
    """Makes a run of the touchy module, with a limit to its batches or without."""

    def make(most_images: int | None = None) -> VariantRun:
        folder = tmp_path_factory.mktemp("touchy")
        config = RunConfig(("x",), "x", (touchy.variant_toml(folder, most_images),), str(folder / "models"))
        return model_dir.resolve_variants(config)[0]

    return make


@pytest.fixture(scope="module")
def plain_touchy(touchy_run: Callable[..., VariantRun]) -> VariantRun:
    return touchy_run()


def pixels(*colours: tuple[int, int, int]) -> FloatArray:
    """A batch of images of one colour each, float32 `[n, 32, 32, 3]`."""
    of_one = np.asarray(colours, np.float32)[:, None, None] / np.float32(255)
    return np.ascontiguousarray(np.broadcast_to(of_one, (len(colours), touchy.SIZE, touchy.SIZE, 3)))


def calls_of(models: Models, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that go to the device from now on."""
    sizes: list[int] = []
    call = models._call
    monkeypatch.setattr(models, "_call", lambda name, batch: sizes.append(len(batch)) or call(name, batch))
    return sizes


def test_a_process_loads_a_module_once_whatever_the_threads(
    tiny_run: VariantRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, loads = [], []
    read, load = graph_files.read, modules.load
    monkeypatch.setattr(graph_files, "read", lambda *arguments: reads.append(arguments) or read(*arguments))
    monkeypatch.setattr(modules, "load", lambda *arguments: loads.append(arguments) or load(*arguments))
    monkeypatch.setattr(runtime, "_cache", {})
    threads = [threading.Thread(target=load_models, args=((tiny_run,),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(reads), len(loads)) == (1, 0)


def test_a_run_has_its_precision_whatever_ran_before_in_its_process(tiny_run: VariantRun) -> None:
    def options() -> tuple[bool, bool]:
        in_16_bits = tf.config.optimizer.get_experimental_options()["auto_mixed_precision_onednn_bfloat16"]
        return tf.config.experimental.tensor_float_32_execution_enabled(), in_16_bits

    load_models((tiny_run,))
    devices.set_precision("fast")
    assert options() == (True, True)
    load_models((tiny_run,))
    assert options() == (False, False)


def test_without_a_kept_graph_the_module_is_loaded_once_and_optimised(
    tiny_run: VariantRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loads = []
    load = modules.load
    monkeypatch.setattr(modules, "load", lambda *arguments: loads.append(arguments) or load(*arguments))
    monkeypatch.setattr(runtime, "_cache", {})
    models = load_models((replace(tiny_run, graph_path=str(tmp_path / "none.graph")),))
    assert len(loads) == 1
    assert models.facts(tiny_run.variant.name)["graph"] == "frozen"


def test_models_are_kept_by_module_and_precision(
    tiny_run: VariantRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_cache", {})
    first = load_models((tiny_run,))
    assert load_models((tiny_run,)) is first
    assert load_models((replace(tiny_run, module_sha256="0" * 64),)) is not first
    fast = load_models((replace(tiny_run, precision="fast"),))
    assert fast is not first
    assert min(fast.facts(tiny_run.variant.name)["cosine_to_exact"].values()) >= comparison.LEAST_COSINE
    devices.set_precision("exact")


def test_fast_takes_bytes_and_exact_takes_floats(
    tiny_run: VariantRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_cache", {})
    images = probe(tiny_run.variant, 3)
    exact = load_models((tiny_run,)).score(tiny_run.variant.name, images.astype(np.float32) / 255)
    fast = load_models((replace(tiny_run, precision="fast"),)).score(tiny_run.variant.name, images)
    devices.set_precision("exact")
    for name, values in exact.outputs.items():
        np.testing.assert_allclose(fast.outputs[name], values, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("slots", [1, 3])
def test_as_many_batches_as_slots_are_on_the_device(slots: int) -> None:
    lock, running, most = threading.Lock(), [], []

    def function(_: object) -> dict[str, object]:
        with lock:
            running.append(1)
            most.append(len(running))
        time.sleep(0.05)
        with lock:
            running.pop()
        return {"features": np.zeros((1, 2))}

    models = Models({"v": Model(function, {}, 0, 0)}, slots)
    threads = [threading.Thread(target=models.score, args=("v", np.zeros((1, 2, 2, 3)))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == slots


def test_a_batch_too_large_for_the_memory_is_halved_and_the_size_remembered(
    touchy_run: Callable[..., VariantRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = touchy_run(most_images=4)
    models = load_models((run,))
    sizes = calls_of(models, monkeypatch)
    colours = [(40, 40, level) for level in range(60, 160, 10)]
    scores = models.score(run.variant.name, pixels(*colours))
    assert sizes == [10, 5, 2, 2, 1, 2, 2, 1]
    assert (scores.failed, scores.failed_calls) == ({}, 0)
    one_by_one = [models.score(run.variant.name, pixels(colour)).outputs for colour in colours]
    for name, values in scores.outputs.items():
        np.testing.assert_allclose(values, np.concatenate([each[name] for each in one_by_one]), rtol=1e-5)
    sizes.clear()
    models.score(run.variant.name, pixels(*colours))
    assert sizes == [2, 2, 2, 2, 2]


def test_memory_too_small_for_one_image_is_one_line(touchy_run: Callable[..., VariantRun]) -> None:
    models = load_models((touchy_run(),))
    model = models._models[touchy.NAME]
    small = Models({touchy.NAME: replace(model, function=_out_of_memory)}, 1)
    with pytest.raises(
        RunError, match=r"^the CPU's memory does not suffice for one image of tests/touchy/1; "
    ):
        small.score(touchy.NAME, pixels(touchy.BLUE, touchy.GREY))


def _out_of_memory(_: object) -> dict[str, object]:
    raise graphs.tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


@pytest.mark.parametrize("guilty", [{0}, {6}, {3, 4}, {0, 1, 2, 3, 4, 5, 6}])
def test_a_batch_that_raises_is_halved_until_the_guilty_images_stand_alone(
    plain_touchy: VariantRun, guilty: set[int]
) -> None:
    models = load_models((plain_touchy,))
    colours = [touchy.RAISES if index in guilty else GOOD[index % 2] for index in range(7)]
    scores = models.score(touchy.NAME, pixels(*colours))
    assert set(scores.failed) == guilty
    assert all(
        error == "model_error" and touchy.MESSAGE in message for error, message in scores.failed.values()
    )
    good = [colour for index, colour in enumerate(colours) if index not in guilty]
    expected = models.score(touchy.NAME, pixels(*good)).outputs if good else {}
    assert set(scores.outputs) == set(expected)
    for name, values in scores.outputs.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5)
    assert scores.failed_calls >= len(guilty)


def test_nan_is_a_failure_of_its_image_alone(
    plain_touchy: VariantRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = load_models((plain_touchy,))
    sizes = calls_of(models, monkeypatch)
    scores = models.score(touchy.NAME, pixels(touchy.BLUE, touchy.NAN, touchy.GREY))
    assert scores.failed == {1: ("not_finite", "the model gave NaN or infinity")}
    assert (scores.failed_calls, sizes) == (0, [3])
    expected = models.score(touchy.NAME, pixels(touchy.BLUE, touchy.GREY)).outputs
    np.testing.assert_allclose(scores.outputs["features"], expected["features"], rtol=1e-5)


def test_the_batch_size_follows_the_memory_and_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "memory_bytes", lambda: 24 << 30)
    assert runtime.batch_size(20 << 20, 5 << 20, slots=2) == 16
    assert runtime.batch_size(260 << 20, 70 << 20, slots=2) == 4
    assert runtime.batch_size(260 << 20, 70 << 20, slots=8) == 1
    assert runtime.batch_size(1 << 40, 1 << 30, slots=1) == 1
    monkeypatch.setattr(devices, "kind", lambda: "gpu")
    assert runtime.batch_size(20 << 20, 5 << 20, slots=1) == 128
    assert runtime.batch_size(260 << 20, 70 << 20, slots=1) == 16


def test_the_meter_counts_each_slot_s_calls() -> None:
    meter = runtime._Meter(2)
    with meter:
        time.sleep(0.05)
    half_busy = meter.busy_percent()
    assert 0 < half_busy <= 50
    time.sleep(0.01)
    assert meter.busy_percent() == 0

"""The handler: one load a process, one forward pass a batch, never encoded, one fused stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam import coders
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import fn_runner

from pipelines.config import RunConfig
from pipelines.run import build
from tests import tiny
from tests.records import failure, info, refs, unit
from transforms import modules, runtime
from transforms.fingerprints import VariantRun
from transforms.infer import EfficientNetHandler, score
from transforms.records import PixelBatch, ScoreBatch, StepSeconds
from transforms.write import StopRule


def pixel_batch(
    run: VariantRun, count: int, failed: int = 0, number: int = 0, last: bool = True
) -> PixelBatch:
    images = refs(count + failed)
    pixels = np.random.default_rng(number).random((count, tiny.SIZE, tiny.SIZE, 3), np.float32)
    return PixelBatch(
        target=run.target(unit(images)),
        number=number,
        last=last,
        images=tuple(map(info, images[:count])),
        pixels=pixels,
        failures=tuple(map(failure, images[count:])),
        seconds=StepSeconds(fetch=1.0, decode=2.0),
        started=1000.0,
    )


def test_scores_are_the_module_s_and_the_rest_is_carried_along(tiny_run: VariantRun) -> None:
    batch = pixel_batch(tiny_run, 3, failed=2)
    scores = score(batch, runtime.load_models((tiny_run,)))
    published = tiny.direct(tiny_run.module_path, batch.pixels)
    powers = np.exp(scores.logits)
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), published, rtol=1e-5)
    assert scores.features.shape == (3, tiny.FEATURES)
    assert (scores.images, scores.failures, scores.last) == (batch.images, batch.failures, True)
    assert scores.seconds.model > 0
    assert replace(scores.seconds, model=0.0) == batch.seconds


def test_a_batch_without_images_needs_no_model(tiny_run: VariantRun) -> None:
    scores = score(pixel_batch(tiny_run, 0, failed=2), models=None)
    assert (scores.logits, scores.features, len(scores.failures)) == (None, None, 2)


def test_a_process_loads_a_model_once(tiny_run: VariantRun, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = modules.load
    monkeypatch.setattr(modules, "load", lambda *arguments: loads.append(arguments) or load(*arguments))
    monkeypatch.setattr(runtime, "_cache", {})
    handlers = [EfficientNetHandler((tiny_run,)) for _ in range(4)]
    threads = [threading.Thread(target=handler.load_model) for handler in handlers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


ORDER: list[str] = []


def make_batches(run: VariantRun) -> Iterator[PixelBatch]:
    for number in range(3):
        ORDER.append(f"made {number}")
        yield pixel_batch(run, 2, number=number, last=number == 2)


def note(scores: ScoreBatch) -> None:
    ORDER.append(f"scored {scores.number}")


def test_models_are_kept_by_module_and_precision(
    tiny_run: VariantRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_cache", {})
    first = runtime.load_models((tiny_run,))
    assert runtime.load_models((tiny_run,)) is first
    assert runtime.load_models((replace(tiny_run, module_sha256="0" * 64),)) is not first
    assert runtime.load_models((replace(tiny_run, precision="fast"),)) is not first


@pytest.mark.parametrize(("precision", "fast"), [("exact", False), ("fast", True)])
def test_the_precision_is_set_before_the_first_call(tiny_run: VariantRun, precision: str, fast: bool) -> None:
    runtime.set_precision((replace(tiny_run, precision=precision),))
    assert tf.config.experimental.tensor_float_32_execution_enabled() is fast
    options = tf.config.optimizer.get_experimental_options()
    assert options.get("auto_mixed_precision_onednn_bfloat16", False) is fast
    runtime.set_precision((tiny_run,))


def test_one_batch_at_a_time_is_on_the_device() -> None:
    running, most = [], []

    def function(_: object) -> dict[str, object]:
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()
        return {}

    models = runtime.Models({"v": modules.Module("", function, None, None, None, None)})
    threads = [threading.Thread(target=models.score, args=("v", np.zeros((1, 2, 2, 3)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_batches_stay_in_order_and_are_not_held_back(tiny_run: VariantRun) -> None:
    ORDER.clear()
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        made = pipeline | beam.Create([tiny_run]) | beam.FlatMap(make_batches).with_output_types(PixelBatch)
        _ = made | RunInference(EfficientNetHandler((tiny_run,))) | beam.Map(note)
    assert ORDER == ["made 0", "scored 0", "made 1", "scored 1", "made 2", "scored 2"]


@pytest.mark.parametrize("record", [PixelBatch, ScoreBatch])
def test_a_batch_refuses_to_be_encoded_and_knows_its_bytes(tiny_run: VariantRun, record: type) -> None:
    batch = pixel_batch(tiny_run, 3)
    if record is ScoreBatch:
        batch = score(batch, runtime.load_models((tiny_run,)))
    coder = coders.registry.get_coder(record)
    with pytest.raises(RuntimeError, match="not fused"):
        coder.encode(batch)
    expected = {PixelBatch: 3 * 32 * 32 * 3 * 4, ScoreBatch: 3 * (tiny.CLASSES + tiny.FEATURES) * 4}
    assert coder.estimate_size(batch) == expected[record]


def test_beam_is_told_the_true_size_of_a_batch(tiny_run: VariantRun) -> None:
    handler = EfficientNetHandler((tiny_run,))
    assert handler.get_num_bytes(pixel_batch(tiny_run, 3)) == 3 * 32 * 32 * 3 * 4
    assert handler.should_skip_batching()


def stage_of_prepare(run: VariantRun) -> set[str]:
    """Which of the transforms with pixels a runner fuses into the stage of Prepare."""
    pipeline = beam.Pipeline(runner="FnApiRunner")
    config = RunConfig(inputs=("x",), output="out", variants=("x",), model_dir="x")
    build(pipeline, ["part"], config, (run,), "run", StopRule(1, 0.1))
    runner = fn_runner.FnApiRunner()
    _, stages = runner.create_stages(
        pipeline.to_runner_api(default_environment=runner.default_environment(PipelineOptions()))
    )
    labels = [{transform.unique_name.split("/")[0] for transform in stage.transforms} for stage in stages]
    (stage,) = (each for each in labels if "Prepare" in each)
    return stage & {"Prepare", "RunInference", "WriteUnits"}


def test_from_prepare_to_write_is_one_fused_stage(tiny_run: VariantRun) -> None:
    assert stage_of_prepare(tiny_run) == {"Prepare", "RunInference", "WriteUnits"}


def test_resource_hints_on_one_transform_would_be_noticed(
    tiny_run: VariantRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pipelines.run.RunInference", lambda handler: RunInference(handler).with_resource_hints(min_ram="1GB")
    )
    assert stage_of_prepare(tiny_run) == {"Prepare"}

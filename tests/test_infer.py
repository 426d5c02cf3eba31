"""The handler: one load a process, one forward pass a batch, never encoded, one fused stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import apache_beam as beam
import numpy as np
import pytest
from apache_beam import coders
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import fn_runner

from pipelines.config import RunConfig
from pipelines.run import Begun, build
from tests import tiny
from tests.records import failure, info, refs, unit
from transforms import runtime
from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.index import Index, Part
from transforms.infer import MAX_FAILED_CALLS, EfficientNetHandler, score
from transforms.records import Failure, PixelBatch, ScoreBatch, StepSeconds
from transforms.runtime import Scores


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


class FailingModels:
    """Stands for a runtime whose model raises as often as it is told, for the first image of each batch."""

    def __init__(self, failed_calls: int) -> None:
        self.failed_calls = failed_calls

    def score(self, variant: str, pixels: np.ndarray) -> Scores:
        outputs = {"features": np.ones((len(pixels) - 1, tiny.FEATURES), np.float32)}
        return Scores(outputs, {0: ("model_error", "too red")}, self.failed_calls)

    def facts(self, variant: str) -> dict[str, str]:
        return {"graph": "folded"}

    def busy_percent(self) -> int:
        return 50

    def take_load_report(self) -> list[tuple[float, int]]:
        return []


def test_images_that_the_model_fails_on_are_failures(tiny_run: VariantRun) -> None:
    batch = pixel_batch(tiny_run, 3, failed=1)
    scores = score(batch, FailingModels(1))
    assert scores.images == batch.images[1:]
    assert scores.failures == (
        *batch.failures,
        Failure(batch.images[0].ref, "infer", "model_error", "too red"),
    )
    assert len(scores.features) == len(scores.images)
    assert (scores.model, scores.failed_calls) == ({"graph": "folded"}, 1)


def test_a_unit_in_which_the_model_raises_again_and_again_is_not_done(tiny_run: VariantRun) -> None:
    handler, models = EfficientNetHandler((tiny_run,)), FailingModels(MAX_FAILED_CALLS // 2)
    for number in (0, 1):
        list(handler.run_inference(pixel_batch(tiny_run, 3, number=number, last=False), models))
    with pytest.raises(RunError, match=r"raised 96 times in unit 0, which is left for later; .*: too red$"):
        list(handler.run_inference(pixel_batch(tiny_run, 3, number=2), models))


def test_the_model_s_failures_are_counted_for_each_unit_anew(tiny_run: VariantRun) -> None:
    handler, models = EfficientNetHandler((tiny_run,)), FailingModels(MAX_FAILED_CALLS)
    for _ in range(3):
        assert len(list(handler.run_inference(pixel_batch(tiny_run, 3), models))) == 1


def test_what_is_done_already_needs_no_model(tiny_run: VariantRun) -> None:
    done = score(pixel_batch(tiny_run, 0, failed=2), models=None)
    batch = replace(pixel_batch(tiny_run, 0), done=done)
    assert list(EfficientNetHandler((tiny_run,)).run_inference(batch, None)) == [done]


def test_a_worker_without_the_gpu_that_was_asked_for_refuses_to_start(tiny_run: VariantRun) -> None:
    with pytest.raises(RunError, match="TensorFlow sees no GPU"):
        EfficientNetHandler((tiny_run,), require_gpu=True).load_model()


ORDER: list[str] = []


def make_batches(run: VariantRun) -> Iterator[PixelBatch]:
    for number in range(3):
        ORDER.append(f"made {number}")
        yield pixel_batch(run, 2, number=number, last=number == 2)


def note(scores: ScoreBatch) -> None:
    ORDER.append(f"scored {scores.number}")


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
    work = Index("out/_index", "snapshot", (), (Part("part", "", 0, 1, 1),))
    build(pipeline, Begun(config, (run,), work, "run"))
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

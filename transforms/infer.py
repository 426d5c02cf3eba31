"""The model handler for Beam's RunInference: ready batches in, scores out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from apache_beam import coders
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler

from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.records import Failure, FloatArray, ModelFacts, PixelBatch, ScoreBatch, StepSeconds

METRICS = "pixelbeam"
"""Namespace of our metrics in Beam's."""

MAX_FAILED_CALLS = 64
"""Calls to a model that may raise in one unit: some ten guilty images, found among 32 by halving."""


class NeverEncoded(coders.Coder):
    """A coder that refuses: the element must stay in the process that made it.

    `estimate_size` tells Beam's sampling the bytes without encoding them. Encoding happens only where a runner
    did not fuse the stages, and that would send every pixel over the network: better to stop.
    """

    def encode(self, value: PixelBatch | ScoreBatch) -> bytes:
        raise RuntimeError(
            f"not fused: a {type(value).__name__} is about to leave its process; set resource hints on the "
            "whole pipeline, never on one transform"
        )

    def decode(self, encoded: bytes) -> Any:
        raise RuntimeError("not fused: nothing was ever encoded")

    def estimate_size(self, value: PixelBatch | ScoreBatch) -> int:
        return batch_bytes(value)

    def is_deterministic(self) -> bool:
        return True


def batch_bytes(batch: PixelBatch | ScoreBatch) -> int:
    """Bytes of a batch's arrays."""
    arrays = [batch.pixels] if isinstance(batch, PixelBatch) else [batch.logits, batch.features]
    return sum(array.nbytes for array in arrays if array is not None)


coders.registry.register_coder(PixelBatch, NeverEncoded)
coders.registry.register_coder(ScoreBatch, NeverEncoded)


class EfficientNetHandler(ModelHandler[PixelBatch, ScoreBatch, Any]):
    """One handler for all variants; the batch says which one it is for.

    Args:
        runs: The variants.
        require_gpu: Refuse to start in a process that sees no GPU.
    """

    def __init__(self, runs: tuple[VariantRun, ...], require_gpu: bool = False) -> None:
        super().__init__()
        self._runs = runs
        self._require_gpu = require_gpu
        self._failed_calls: Counter[str] = Counter()

    def load_model(self) -> Any:
        # TensorFlow loads where the model does, so that building a pipeline stays quick.
        from transforms import devices
        from transforms.runtime import load_models

        if self._require_gpu:
            devices.require_gpu()
        return load_models(self._runs)

    def run_inference(
        self, batch: PixelBatch, model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[ScoreBatch]:
        """The scores of one batch, which is Beam's element itself since `should_skip_batching`.

        Raises:
            RunError: The model raises again and again: it is the device that fails, and not the images.
        """
        if batch.done:
            yield batch.done
            return
        scores = score(batch, model)
        self._check_device(scores)
        if batch.last:
            Metrics.distribution(METRICS, "device_busy_percent").update(model.busy_percent())
        for load_seconds, weights_bytes in model.take_load_report():
            Metrics.distribution(METRICS, "model_load_milliseconds").update(round(1000 * load_seconds))
            Metrics.distribution(METRICS, "model_bytes").update(weights_bytes)
        yield scores

    def _check_device(self, scores: ScoreBatch) -> None:
        target = scores.target
        if scores.number == 0:
            self._failed_calls.pop(target.variant, None)
        self._failed_calls[target.variant] += scores.failed_calls
        if self._failed_calls[target.variant] > MAX_FAILED_CALLS:
            reasons = (failure.message for failure in scores.failures if failure.step == "infer")
            reason = next(reasons, "no image alone makes it raise")
            raise RunError(
                f"{target.variant} raised {self._failed_calls[target.variant]} times in unit {target.unit.number}, "
                f"which is left for later; mend the module or the device, then run the same command again: {reason}"
            )

    def should_skip_batching(self) -> bool:
        # Beam's batching would hold each batch back until the next one came.
        return True

    def get_num_bytes(self, batch: PixelBatch) -> int:
        return batch_bytes(batch)

    def get_metrics_namespace(self) -> str:
        return METRICS


def score(batch: PixelBatch, models: Any) -> ScoreBatch:
    """One forward pass over a batch; a batch without images costs nothing."""
    if not batch.images:
        return scored(batch, {}, {})
    started = time.perf_counter()
    scores = models.score(batch.target.variant, batch.pixels)
    return scored(
        replace(batch, seconds=batch.seconds + StepSeconds(model=time.perf_counter() - started)),
        scores.outputs,
        scores.failed,
        model=models.facts(batch.target.variant),
        failed_calls=scores.failed_calls,
    )


def scored(
    batch: PixelBatch,
    outputs: Mapping[str, FloatArray],
    failed: Mapping[int, tuple[str, str]],
    model: ModelFacts | None = None,
    failed_calls: int = 0,
) -> ScoreBatch:
    """What is known of a batch after the model: the images that failed there are failures now."""
    failures = [Failure(batch.images[index].ref, "infer", *failed[index]) for index in sorted(failed)]
    return ScoreBatch(
        target=batch.target,
        number=batch.number,
        last=batch.last,
        images=tuple(info for index, info in enumerate(batch.images) if index not in failed),
        logits=outputs.get("logits"),
        features=outputs.get("features"),
        failures=(*batch.failures, *failures),
        seconds=batch.seconds,
        started=batch.started,
        model=model or {},
        failed_calls=failed_calls,
    )

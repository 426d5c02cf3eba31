"""The model handler for Beam's RunInference: ready batches in, scores out."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from apache_beam import coders
from apache_beam.ml.inference.base import ModelHandler

from transforms.fingerprints import VariantRun
from transforms.records import PixelBatch, ScoreBatch, StepSeconds


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
    """

    def __init__(self, runs: tuple[VariantRun, ...]) -> None:
        super().__init__()
        self._runs = runs

    def load_model(self) -> Any:
        # TensorFlow loads where the model does, so that building a pipeline stays quick.
        from transforms.runtime import load_models

        return load_models(self._runs)

    def run_inference(
        self, batch: PixelBatch, model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[ScoreBatch]:
        """The scores of one batch, which is Beam's element itself since `should_skip_batching`."""
        yield score(batch, model)

    def should_skip_batching(self) -> bool:
        # Beam's batching would hold each batch back until the next one came.
        return True

    def get_num_bytes(self, batch: PixelBatch) -> int:
        return batch_bytes(batch)

    def get_metrics_namespace(self) -> str:
        return "pixelbeam"


def score(batch: PixelBatch, models: Any) -> ScoreBatch:
    """One forward pass over a batch; a batch without images costs nothing."""
    started = time.perf_counter()
    outputs = models.score(batch.target.variant, batch.pixels) if batch.images else {}
    return ScoreBatch(
        target=batch.target,
        number=batch.number,
        last=batch.last,
        images=batch.images,
        logits=outputs.get("logits"),
        features=outputs.get("features"),
        failures=batch.failures,
        seconds=batch.seconds + StepSeconds(model=time.perf_counter() - started),
        started=batch.started,
        receipt=batch.receipt,
    )

"""The models of one process: loaded once, whatever the number of threads, and run one at a time."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from transforms import modules
from transforms.fingerprints import VariantRun
from transforms.records import FloatArray


class Models:
    """A process's models, one a variant, behind one semaphore for the device."""

    def __init__(self, loaded: Mapping[str, modules.Module]) -> None:
        self._modules = dict(loaded)
        self._device = threading.BoundedSemaphore(1)

    def score(self, variant: str, pixels: FloatArray) -> dict[str, FloatArray]:
        """One forward pass.

        Args:
            variant: TF Hub name.
            pixels: float32 `[n, size, size, 3]`, RGB in [0, 1], n at least 1.

        Returns:
            `logits` `[n, n_classes]` and `features` `[n, n_features]`, float32, those that the module has.
        """
        with self._device:
            outputs = self._modules[variant].function(tf.constant(pixels))
            return {name: np.asarray(values) for name, values in outputs.items()}


_lock = threading.Lock()
_cache: dict[tuple[tuple[str, str, str], ...], Models] = {}


def load_models(runs: tuple[VariantRun, ...]) -> Models:
    """This process's models of `runs`; loaded by the first caller and kept for good.

    Beam's own cache drops a model when every DoFn of a failed bundle is gone, so that the retry would load it
    again.
    """
    key = tuple((run.variant.name, run.module_sha256, run.precision) for run in runs)
    with _lock:
        if key not in _cache:
            set_precision(runs)
            _cache[key] = Models(
                {run.variant.name: modules.load(run.module_path, run.variant) for run in runs}
            )
        return _cache[key]


def set_precision(runs: tuple[VariantRun, ...]) -> None:
    """Tell TensorFlow how exactly to compute; it holds for the whole process."""
    fast = any(run.precision == "fast" for run in runs)
    tf.config.experimental.enable_tensor_float_32_execution(fast)
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": fast})

"""The models of one process: loaded once, run one batch a slot, cut where a batch is too much or spoilt."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from transforms import comparison, devices, graph_files, graphs, model_cache, modules
from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.prepared import empty_batch
from transforms.records import FloatArray, ModelFacts, PixelArray
from transforms.saved_models import first_line
from transforms.watchdog import watched

CALL_SECONDS = 600.0
"""A call to the device that takes longer hangs: the slowest honest one takes a minute."""

# The most that pays: a larger batch is no faster, and waits longer for its images.
LARGEST_BATCH = {"cpu": 16, "gpu": 128}
# Of the device's memory, so much is for what the models make of a batch: the rest of a CPU's is the pipeline's.
MEMORY_SHARE = {"cpu": 0.25, "gpu": 0.5}
# EfficientNet holds about so many tensors of the largest one's size at its widest point.
TENSORS_AT_ONCE = 6


@dataclass(frozen=True, eq=False)
class Model:
    """One module, ready to run.

    Attributes:
        function: A batch as in `PixelBatch` to `logits` and `features`, those that the variant gives.
        facts: How the module is run, in plain JSON types.
        weights_bytes: Of its constants.
        activation_bytes: Of the largest tensor that one image makes.
    """

    function: Callable[[Any], Mapping[str, Any]]
    facts: ModelFacts
    weights_bytes: int
    activation_bytes: int


@dataclass(frozen=True, eq=False)
class Scores:
    """What the model said of a batch.

    Attributes:
        outputs: `logits` `[n, n_classes]` and `features` `[n, n_features]`, float32, of the n images that have
            scores, in their order; those outputs that the variant gives, and none where no image has scores.
        failed: Index in the batch of each other image, and its error and message as in `Failure`.
        failed_calls: How often the model raised for a batch or a part of it.
    """

    outputs: dict[str, FloatArray]
    failed: dict[int, tuple[str, str]]
    failed_calls: int = 0


class Models:
    """A process's models, one a variant, behind one semaphore for the device.

    Args:
        models: By variant.
        slots: Batches that run at once.
        load_seconds: What loading them took.
    """

    def __init__(self, models: Mapping[str, Model], slots: int, load_seconds: float = 0.0) -> None:
        self._models = dict(models)
        self._device = threading.BoundedSemaphore(slots)
        self._largest: dict[str, int] = {}
        self._meter = _Meter(slots)
        weights_bytes = sum(model.weights_bytes for model in models.values())
        activation_bytes = max(model.activation_bytes for model in models.values())
        self.batch_size = batch_size(weights_bytes, activation_bytes, slots)
        self._load_report = [(load_seconds, weights_bytes)]

    def facts(self, variant: str) -> ModelFacts:
        """How the variant's module is run, in plain JSON types."""
        return self._models[variant].facts

    def busy_percent(self) -> int:
        """Which part of the time since the last call of this the device was busy, 0 to 100."""
        return self._meter.busy_percent()

    def take_load_report(self) -> list[tuple[float, int]]:
        """Seconds of loading and bytes of weights, for the first who asks; nothing for everybody after."""
        report, self._load_report = self._load_report, []
        return report

    def score(self, variant: str, pixels: FloatArray | PixelArray) -> Scores:
        """One forward pass, or several where the batch has to be cut.

        A batch for which the device's memory does not suffice is halved, and the size is remembered. One for which
        the model raises is halved until the guilty image stands alone. NaN and infinities are failures too.

        Args:
            variant: TF Hub name.
            pixels: As in `PixelBatch`, n at least 1.

        Raises:
            RunError: The device's memory does not suffice for one image.
        """
        work = _Work(len(pixels))
        self._score(variant, pixels, 0, work)
        return work.scores()

    def _score(self, variant: str, pixels: FloatArray | PixelArray, offset: int, work: _Work) -> None:
        """Score the images of `pixels`, which begin at `offset` of the batch, into `work`."""
        count = len(pixels)
        largest = self._largest.get(variant, count)
        if count > largest:
            for start in range(0, count, largest):
                self._score(variant, pixels[start : start + largest], offset + start, work)
            return
        try:
            work.add(offset, self._call(variant, pixels))
        except tf.errors.ResourceExhaustedError as error:
            if count == 1:
                raise RunError(
                    f"the {devices.kind().upper()}'s memory does not suffice for one image of {variant}; take a "
                    f"smaller variant or more memory: {first_line(error)[:200]}"
                ) from error
            self._largest[variant] = min(self._largest.get(variant, count), count // 2)
            self._score(variant, pixels, offset, work)
        except tf.errors.OpError as error:
            work.failed_calls += 1
            if count == 1:
                work.failed[offset] = ("model_error", first_line(error)[:200])
                return
            half = count // 2
            self._score(variant, pixels[:half], offset, work)
            self._score(variant, pixels[half:], offset + half, work)

    def _call(self, variant: str, pixels: FloatArray | PixelArray) -> dict[str, FloatArray]:
        with self._device, watched(CALL_SECONDS, f"a call to the model {variant}"), self._meter:
            outputs = self._models[variant].function(tf.constant(pixels))
            return {name: np.asarray(values) for name, values in outputs.items()}


@dataclass(eq=False)
class _Work:
    """The parts of one batch, as they are scored, from the front to the back."""

    n_images: int
    parts: list[dict[str, FloatArray]] = field(default_factory=list)
    failed: dict[int, tuple[str, str]] = field(default_factory=dict)
    failed_calls: int = 0

    def add(self, offset: int, outputs: dict[str, FloatArray]) -> None:
        """Take the outputs of a part; rows with NaN or infinities are failures."""
        finite = np.logical_and.reduce([np.isfinite(values).all(axis=1) for values in outputs.values()])
        for index in np.flatnonzero(~finite):
            self.failed[offset + int(index)] = ("not_finite", "the model gave NaN or infinity")
        self.parts.append(outputs if finite.all() else {name: v[finite] for name, v in outputs.items()})

    def scores(self) -> Scores:
        if len(self.failed) == self.n_images:
            return Scores({}, self.failed, self.failed_calls)
        names = self.parts[0]
        whole = len(self.parts) == 1
        outputs = self.parts[0] if whole else {n: np.concatenate([p[n] for p in self.parts]) for n in names}
        return Scores(outputs, self.failed, self.failed_calls)


class _Meter:
    """Measures how busy the device is; entered around each call, by several threads at once."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._lock = threading.Lock()
        self._running = 0
        self._busy_seconds = 0.0
        self._since = self._changed = time.perf_counter()

    def __enter__(self) -> None:
        self._step(1)

    def __exit__(self, *_: object) -> None:
        self._step(-1)

    def busy_percent(self) -> int:
        self._step(0)
        with self._lock:
            elapsed = (self._changed - self._since) * self._slots
            percent = round(100 * self._busy_seconds / elapsed) if elapsed > 0 else 0
            self._since, self._busy_seconds = self._changed, 0.0
            return percent

    def _step(self, change: int) -> None:
        with self._lock:
            now = time.perf_counter()
            self._busy_seconds += self._running * (now - self._changed)
            self._changed = now
            self._running += change


def batch_size(weights_bytes: int, activation_bytes: int, slots: int) -> int:
    """Images a batch: the largest power of two whose tensors fit into each slot's share of the device's memory."""
    kind = devices.kind()
    budget = (devices.memory_bytes() * MEMORY_SHARE[kind] - weights_bytes) / slots
    fitting = max(0, int(budget / max(1, TENSORS_AT_ONCE * activation_bytes)))
    return min(LARGEST_BATCH[kind], 1 << max(0, fitting.bit_length() - 1))


_lock = threading.Lock()
_cache: dict[tuple[tuple[str, str, str], ...], Models] = {}


def load_models(runs: tuple[VariantRun, ...]) -> Models:
    """This process's models of `runs`; loaded by the first caller and kept for good.

    Beam's own cache drops a model when every DoFn of a failed bundle is gone, so that the retry would load it
    again.

    Raises:
        RunError: A module is not there any more or is not the one that was pulled, or `fast` is too far from
            `exact`.
    """
    key = tuple((run.variant.name, run.module_sha256, run.precision) for run in runs)
    with _lock:
        if key not in _cache:
            started = time.perf_counter()
            devices.configure()
            models = {run.variant.name: _load(run) for run in runs}
            loaded = Models(models, devices.slots(), time.perf_counter() - started)
            _warm_up(loaded, runs)
            _cache[key] = loaded
        # Another run in this process may have left its own.
        devices.set_precision(runs[0].precision)
        return _cache[key]


def _load(run: VariantRun) -> Model:
    """The kept graph of the run's module; where there is none that fits, the module is loaded and optimised."""
    run = model_cache.at_hand(run)
    compared = comparison.check(run) if run.precision == "fast" else None
    devices.set_precision(run.precision)
    optimised = graph_files.read(run.graph_path, run.module_sha256)
    module = None
    if optimised is None or optimised.graph is None:
        module = modules.load(run.module_path, run.variant)
        optimised = optimised or graphs.optimise(module, run.variant, run.module_sha256)
    if module is not None and optimised.graph is None:
        function = graphs.loaded_function(module, run.variant, run.precision)
    else:
        function = graphs.function(optimised, run.variant, run.precision)
    facts = optimised.facts
    return Model(
        function=function,
        facts={
            "device": devices.kind(),
            "decode_threads": devices.decode_threads(),
            "graph": facts.form,
            "folded": facts.folded,
            "difference": facts.difference,
            "reason": facts.reason,
            "cosine_to_exact": compared.mean if compared else None,
        },
        weights_bytes=facts.weights_bytes,
        activation_bytes=facts.activation_bytes,
    )


def _warm_up(models: Models, runs: tuple[VariantRun, ...]) -> None:
    """Call each model once, so that no batch waits for TensorFlow to optimise its graph.

    A GPU chooses its kernels for the shape that will come, and may find its memory too small for it; on a CPU one
    image does as well, and costs the least.
    """
    for run in runs:
        count = models.batch_size if devices.kind() == "gpu" else 1
        batch = empty_batch(run, count)
        batch.fill(0)
        models.score(run.variant.name, batch)

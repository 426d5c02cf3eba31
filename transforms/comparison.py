"""How far a module's scores with precision `fast` are from those with `exact`, on this kind of device."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from transforms import devices, graph_files, graphs, modules
from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.probe import probe
from transforms.records import FloatArray
from transforms.variants import Variant

FORMAT = 1
"""Changes with what a kept file holds and with how it is measured, so that older ones are made anew."""
LEAST_COSINE = 0.99
"""Mean cosine below which `fast` is refused; bfloat16 gives .997 and more for EfficientNet with random weights."""
N_PROBES = 8


@dataclass(frozen=True)
class Comparison:
    """Cosines between the exact and the fast scores of the same probe images.

    Attributes:
        device: `cpu` or `gpu`, where both were computed.
        smallest: For each output the smallest over the images.
        mean: For each output the mean over the images.
    """

    device: str
    smallest: dict[str, float]
    mean: dict[str, float]


def check(run: VariantRun) -> Comparison:
    """The comparison of a variant for this process's kind of device, kept beside the graph, else made and kept.

    Raises:
        RunError: The fast scores are too far from the exact ones, or cannot be made.
    """
    path = kept_path(run.graph_path, devices.kind())
    comparison = _read(path, run.module_sha256)
    if comparison is None:
        comparison = compare(run.graph_path, run.module_path, run.variant, run.module_sha256)
        _keep(path, comparison, run.module_sha256)
    for output, cosine in comparison.mean.items():
        # A NaN is not under the limit, and no score.
        if not cosine >= LEAST_COSINE:
            raise RunError(
                f"{run.variant.name}: with --precision fast on this {comparison.device} its {output} have a mean cosine"
                f" of {cosine:.4f} with the exact ones, under {LEAST_COSINE}; use --precision exact"
            )
    return comparison


def kept_path(graph_path: str, device: str) -> str:
    """Where the comparison is kept, such as `NAME.fast-cpu.json` beside `NAME.graph`."""
    return f"{graph_path.removesuffix('.graph')}.fast-{device}.json"


def compare(graph_path: str, module_path: str, variant: Variant, module_sha256: str) -> Comparison:
    """Scores probe images exactly and fast in a process of its own, since either holds for a whole process.

    Raises:
        RunError: That process failed.
    """
    job = [graph_path, module_path, dataclasses.asdict(variant), module_sha256]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
    child = subprocess.run(
        [sys.executable, "-m", "transforms.comparison"],
        input=json.dumps(job),
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or [f"it ended with {child.returncode}"])[-1]
        raise RunError(
            f"{variant.name}: --precision fast could not be tried: {reason}; use --precision exact"
        )
    return Comparison(**json.loads(child.stdout))


def measure(graph_path: str, module_path: str, variant: Variant, module_sha256: str) -> Comparison:
    """`compare` in this process, which computes fast from then on."""
    devices.configure()
    pixels = probe(variant, N_PROBES)
    optimised = graph_files.read(graph_path, module_sha256)
    if optimised is None or optimised.graph is None:
        make = functools.partial(graphs.loaded_function, modules.load(module_path, variant), variant)
    else:
        make = functools.partial(graphs.function, optimised, variant)

    def scores(precision: str, batch: Any) -> dict[str, FloatArray]:
        devices.set_precision(precision)
        function = make(precision)
        return {name: np.asarray(values) for name, values in function(tf.constant(batch)).items()}

    exact = scores("exact", pixels.astype(np.float32) / 255)
    fast = scores("fast", pixels)
    cosines = {name: _cosines(exact[name], fast[name]) for name in exact}
    return Comparison(
        device=devices.kind(),
        smallest={name: float(values.min()) for name, values in cosines.items()},
        mean={name: float(values.mean()) for name, values in cosines.items()},
    )


def _cosines(one: FloatArray, other: FloatArray) -> FloatArray:
    """The cosine of each pair of rows of two arrays `[n, width]`; NaN where a row is not finite, 1 for two zeros."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    products = np.sum(one * other, axis=1, dtype=np.float64)
    both_zero = ~(one.any(axis=1) | other.any(axis=1))
    return np.where(both_zero, 1.0, products / np.maximum(norms, np.finfo(np.float32).tiny))


def _key(module_sha256: str) -> dict[str, object]:
    return {"format": FORMAT, "module": module_sha256, "tensorflow": tf.__version__}


def _read(path: str, module_sha256: str) -> Comparison | None:
    """What `_keep` wrote; None where it is missing, broken, or of another module, TensorFlow or format."""
    try:
        with open(path, encoding="utf-8") as file:
            kept = json.load(file)
        if kept.pop("key") != _key(module_sha256):
            return None
        comparison = Comparison(**kept)
        return comparison if _is_whole(comparison) else None
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


def _is_whole(comparison: Comparison) -> bool:
    return bool(comparison.mean) and all(isinstance(cosine, float) for cosine in comparison.mean.values())


def _keep(path: str, comparison: Comparison, module_sha256: str) -> None:
    """Writes the file in one step, where the directory can be written; else the next process compares again."""
    temporary = f"{path}.{uuid.uuid4().hex[:8]}"
    content = json.dumps({"key": _key(module_sha256), **dataclasses.asdict(comparison)}, indent=1)
    with suppress(OSError):
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(content)
            os.replace(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def _variant(fields: Mapping[str, Any]) -> Variant:
    """A variant after its way through JSON, which turns tuples into lists."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    return Variant(**values)


def main() -> None:
    """The child's side of `compare`: a job as JSON on stdin, the comparison as JSON on stdout."""
    with os.fdopen(os.dup(1), "w") as answer:
        # Whatever a library prints goes to stderr, where it cannot come between.
        os.dup2(2, 1)
        graph_path, module_path, variant, module_sha256 = json.load(sys.stdin)
        try:
            comparison = measure(graph_path, module_path, _variant(variant), module_sha256)
        except RunError as error:
            sys.exit(str(error))
        json.dump(dataclasses.asdict(comparison), answer)


if __name__ == "__main__":
    main()

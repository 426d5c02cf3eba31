"""`pixelbeam pull`: fetch modules once, check and keep them."""

from __future__ import annotations

import os
import time

from pipelines import model_dir
from transforms.modules import Description
from transforms.variants import Variant, find


def main(specs: tuple[str, ...], directory: str, random_weights: bool) -> int:
    """Bring each variant's module into `directory`; returns 0.

    Raises:
        UsageError: A variant is unknown.
        RunError: A module cannot be had, or is not what the catalogue promises.
    """
    directory = os.path.abspath(directory)
    for variant in [find(spec) for spec in specs]:
        started = time.perf_counter()
        description = pull(variant, directory, random_weights)
        print(
            _line(
                variant, description, model_dir.module_path(variant, directory), time.perf_counter() - started
            )
        )
    if not random_weights and not model_dir.fetch_class_names(directory):
        print("ImageNet's class names could not be fetched; give --class-names to `pixelbeam run`")
    return 0


def pull(variant: Variant, directory: str, random_weights: bool) -> Description:
    """The module's description; one that is there stays, but random weights give way to the published ones."""
    description = model_dir.kept(variant, directory)
    if description is not None and (random_weights or not description.random_weights):
        return description
    return model_dir.make(variant, directory) if random_weights else model_dir.fetch(variant, directory)


def _line(variant: Variant, description: Description, path: str, seconds: float) -> str:
    gives = [
        f"{width:,} {what}"
        for what, width in (("classes", description.n_classes), ("features", description.n_features))
        if width
    ]
    weights = "RANDOM WEIGHTS, " if description.random_weights else ""
    return f"{variant.name}: {weights}{', '.join(gives)}, {seconds:.1f} s, {path}"

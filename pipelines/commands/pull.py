"""`pixelbeam pull`: fetch modules once, check and keep them."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

from pipelines import model_dir
from transforms import graph_files
from transforms.modules import Description
from transforms.variants import Variant, find

AT_ONCE = 2


def main(specs: tuple[str, ...], directory: str, random_weights: bool) -> int:
    """Bring each variant's module into `directory`; returns 0.

    Raises:
        UsageError: A variant is unknown.
        RunError: A module cannot be had, or is not what the catalogue promises.
    """
    directory = os.path.abspath(directory)
    variants = [find(spec) for spec in specs]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for line in pool.map(lambda variant: _pulled(variant, directory, random_weights), variants):
            print(line, flush=True)
    if not random_weights and not model_dir.fetch_class_names(directory):
        print("ImageNet's class names could not be fetched; give --class-names to `pixelbeam run`")
    return 0


def pull(variant: Variant, directory: str, random_weights: bool) -> Description:
    """The module's description; one that is there stays, but random weights give way to the published ones."""
    description = model_dir.kept(variant, directory)
    if description is not None and (random_weights or not description.random_weights):
        return description
    return model_dir.make(variant, directory) if random_weights else model_dir.fetch(variant, directory)


def _pulled(variant: Variant, directory: str, random_weights: bool) -> str:
    """Pull a module and say in one line what came."""
    started = time.perf_counter()
    description = pull(variant, directory, random_weights)
    seconds = time.perf_counter() - started
    gives = [
        f"{width:,} {what}"
        for what, width in (("classes", description.n_classes), ("features", description.n_features))
        if width
    ]
    weights = "RANDOM WEIGHTS, " if description.random_weights else ""
    path = model_dir.module_path(variant, directory)
    graph = _graph(variant, directory, description)
    return f"{variant.name}: {weights}{', '.join(gives)}, {graph}, {seconds:.1f} s, {path}"


def _graph(variant: Variant, directory: str, description: Description) -> str:
    """What was done to the module's graph."""
    facts = graph_files.read_facts(model_dir.graph_path(variant, directory), variant, description.sha256)
    if facts is None or facts.form == "loaded":
        return f"as loaded ({facts.reason if facts else 'another process replaced its graph'})"
    reason = f" ({facts.reason})" if facts.reason else ""
    return f"{facts.folded} batch norms folded" if facts.form == "folded" else f"frozen{reason}"

"""`pixelbeam pull`: fetch modules once, check and keep them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from pipelines import model_dir
from pipelines.module_sources import Kept, fetch_class_names
from pipelines.terminal import tracked
from transforms.graphs import GraphFacts
from transforms.paths import absolute, from_here
from transforms.variants import Variant, find

AT_ONCE = 2


def main(specs: tuple[str, ...], directory: str, random_weights: bool) -> int:
    """Bring each variant's module into `directory`, a path or a URL; returns 0.

    Raises:
        UsageError: A variant is unknown.
        RunError: A module cannot be had, or is not what the catalogue promises.
    """
    directory = absolute(directory)
    variants = [find(spec) for spec in specs]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        pulled = pool.map(lambda variant: _pulled(variant, directory, random_weights), variants)
        for line in tracked(pulled, "pulling", "modules", len(variants)):
            print(line, flush=True)
    if not random_weights and not fetch_class_names(directory):
        print("ImageNet's class names could not be fetched; give --class-names to `pixelbeam run`")
    return 0


def pull(variant: Variant, directory: str, random_weights: bool) -> Kept:
    """The module; one that is there stays, but random weights give way to the published ones."""
    kept = model_dir.kept(variant, directory) or model_dir.adopt(variant, directory)
    if kept is not None and (random_weights or not kept.description.random_weights):
        return kept
    return model_dir.make(variant, directory) if random_weights else model_dir.fetch(variant, directory)


def _pulled(variant: Variant, directory: str, random_weights: bool) -> str:
    """Pull a module and say in one line what came."""
    started = time.perf_counter()
    kept = pull(variant, directory, random_weights)
    seconds = time.perf_counter() - started
    gives = [
        f"{width:,} {what}"
        for what, width in (
            ("classes", kept.description.n_classes),
            ("features", kept.description.n_features),
        )
        if width
    ]
    weights = "RANDOM WEIGHTS, " if kept.description.random_weights else ""
    return (
        f"{variant.name}: {weights}{', '.join(gives)}, {_graph(kept.facts)}, {seconds:.1f} s, "
        f"{from_here(kept.module_path)}"
    )


def _graph(facts: GraphFacts) -> str:
    """What was done to the module's graph."""
    if facts.form == "loaded":
        return f"as loaded ({facts.reason})"
    reason = f" ({facts.reason})" if facts.reason else ""
    return f"{facts.folded} batch norms folded" if facts.form == "folded" else f"frozen{reason}"

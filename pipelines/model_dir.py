"""Modules kept in a directory: fetched once, checked, described and optimised in files beside each."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable

from pipelines import model_bucket, module_sources
from pipelines.config import RunConfig
from pipelines.module_sources import LABELS_FILE, Kept
from pipelines.terminal import Line
from transforms import graph_files, graphs, modules, storage
from transforms.errors import RunError, UsageError
from transforms.fingerprints import VariantRun
from transforms.paths import is_remote
from transforms.variants import Variant, class_names, find

IMAGENET_WIDTHS = (1000, 1001)


def module_path(variant: Variant, model_dir: str) -> str:
    """Where a variant's module is: the user's own directory, or its place in the local `model_dir`."""
    return variant.handle if os.path.isdir(variant.handle) else os.path.join(model_dir, variant.directory)


def graph_path(variant: Variant, model_dir: str) -> str:
    """Where a variant's optimised graph is in the local `model_dir`, also that of the user's own module."""
    return os.path.join(model_dir, f"{variant.directory}.graph")


def kept(variant: Variant, model_dir: str) -> Kept | None:
    """The module that is there, in `model_dir` or where the user has it; None where it has to be pulled.

    A local module whose files are not those that were described is checked, described and optimised anew, and so is
    one whose graph is missing, broken or stale. Where all is well that takes reading the module and its graph, once
    each. A bucket is only read, and of it only the description.
    """
    if is_remote(model_dir):
        return model_bucket.look(variant, model_dir).kept
    path = module_path(variant, model_dir)
    if not os.path.isdir(path):
        return None
    description, sha256 = _read_description(variant, model_dir), modules.digest(path)
    facts = graph_files.read_facts(graph_path(variant, model_dir), variant, sha256)
    if description is None or description.sha256 != sha256 or facts is None:
        description, optimised = module_sources.describe(path, variant)
        _write(variant, model_dir, description, optimised)
        facts = optimised.facts
    return Kept(description, facts, path, graph_path(variant, model_dir))


def adopt(variant: Variant, model_dir: str) -> Kept | None:
    """Keep in a bucket what is there already or need not be fetched; None where it has to be.

    Raises:
        RunError: The bucket is not there or takes nothing, which is told before minutes go into a module.
    """
    if not is_remote(model_dir):
        return None
    storage.check_writable(model_dir)
    return model_bucket.adopt(variant, model_dir)


def fetch(variant: Variant, model_dir: str) -> Kept:
    """Fetch a variant's module from its handle, check it and keep it.

    Raises:
        RunError: It cannot be fetched, or is not what the catalogue promises.
    """
    return _keep(variant, model_dir, lambda path: module_sources.fetch(variant, path))


def make(variant: Variant, model_dir: str) -> Kept:
    """Make a variant's module with random weights and keep it, marked so."""
    from transforms import random_weights

    def write(path: str) -> None:
        with Line(f"making {variant.name} with random weights"):
            random_weights.write(variant, path)

    return _keep(variant, model_dir, write)


def _keep(variant: Variant, model_dir: str, write: Callable[[str], None]) -> Kept:
    if is_remote(model_dir):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, variant.directory)
            write(path)
            return model_bucket.keep(variant, model_dir, path)
    os.makedirs(model_dir, exist_ok=True)
    final = os.path.join(model_dir, variant.directory)
    with tempfile.TemporaryDirectory(dir=model_dir, prefix=".") as folder:
        path = os.path.join(folder, variant.directory)
        write(path)
        description, optimised = module_sources.describe(path, variant)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(path, final)
    _write(variant, model_dir, description, optimised)
    return Kept(description, optimised.facts, final, graph_path(variant, model_dir))


def _description_path(variant: Variant, model_dir: str) -> str:
    return os.path.join(model_dir, f"{variant.directory}.json")


def _read_description(variant: Variant, model_dir: str) -> modules.Description | None:
    try:
        with open(_description_path(variant, model_dir), encoding="utf-8") as file:
            return modules.Description.from_json(json.load(file))
    except (OSError, ValueError, TypeError):
        return None


def _write(
    variant: Variant, model_dir: str, description: modules.Description, optimised: graphs.Optimised
) -> None:
    os.makedirs(model_dir, exist_ok=True)
    path = _description_path(variant, model_dir)
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(description.to_json(), file, indent=1)
    os.replace(temporary, path)
    graph_files.keep(graph_path(variant, model_dir), optimised)


def resolve_variants(config: RunConfig) -> tuple[VariantRun, ...]:
    """The variants that a run names, their modules there and checked.

    A module that is missing is fetched into a local directory. A bucket is others' as well, and a run only reads it.

    Raises:
        UsageError: A variant is unknown or named twice, or the class names do not fit.
        RunError: A module cannot be had or is not what it should be.
    """
    return tuple(
        _variant_run(variant, _module(spec, variant, config.model_dir), config)
        for spec, variant in zip(config.variants, named(config), strict=True)
    )


def kept_variants(config: RunConfig) -> dict[str, VariantRun | None]:
    """The variants that a run names, as it would do them; None where the module would have to be pulled first.

    Raises:
        UsageError: A variant is unknown or named twice, or the class names do not fit.
    """
    found = {variant: kept(variant, config.model_dir) for variant in named(config)}
    return {
        variant.name: None if module is None else _variant_run(variant, module, config)
        for variant, module in found.items()
    }


def named(config: RunConfig) -> list[Variant]:
    """The variants that a run names; UsageError where one is unknown or named twice."""
    variants = [find(spec) for spec in config.variants]
    for variant in variants:
        if sum(other.directory == variant.directory for other in variants) > 1:
            raise UsageError(f"--variant names {variant.name} twice; name it once")
    return variants


def _module(spec: str, variant: Variant, model_dir: str) -> Kept:
    found = _in_bucket(spec, variant, model_dir) if is_remote(model_dir) else kept(variant, model_dir)
    if found is None:
        print(f"fetching {variant.name} from {variant.handle}", file=sys.stderr)
        found = fetch(variant, model_dir)
    return found


def _in_bucket(spec: str, variant: Variant, model_dir: str) -> Kept:
    found = model_bucket.look(variant, model_dir)
    if found.kept is None:
        raise RunError(
            f"{variant.name} cannot be taken from {model_dir}: {found.lack}; "
            f"run pixelbeam pull --variant {shlex.quote(spec)} --model-dir {shlex.quote(model_dir)}"
        )
    return found.kept


def _variant_run(variant: Variant, module: Kept, config: RunConfig) -> VariantRun:
    description = module.description
    return VariantRun(
        variant=variant,
        module_path=module.module_path,
        module_sha256=description.sha256,
        graph_path=module.graph_path,
        n_classes=description.n_classes,
        n_features=description.n_features,
        precision=config.precision,
        class_names=_names(description.n_classes, config),
        random_weights=description.random_weights,
        keep=config.keep,
        graph_sha256=module.graph_sha256,
    )


def _names(n_classes: int | None, config: RunConfig) -> tuple[str, ...] | None:
    """Class names of a classifier: the given file's, else ImageNet's where they were fetched and fit."""
    if n_classes is None:
        return None
    if config.class_names:
        return tuple(class_names(config.class_names, n_classes))
    labels = os.path.join(config.model_dir, LABELS_FILE)
    return (
        tuple(class_names(labels, n_classes))
        if n_classes in IMAGENET_WIDTHS and storage.exists(labels)
        else None
    )

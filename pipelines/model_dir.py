"""Modules kept in a directory: fetched once, checked, described and optimised in files beside each."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable

from pipelines.config import RunConfig
from transforms import graph_files, graphs, modules
from transforms.errors import RunError, UsageError
from transforms.fingerprints import VariantRun
from transforms.variants import Variant, class_names, find

IMAGENET_WIDTHS = (1000, 1001)
LABELS_FILE = "ImageNetLabels.txt"
LABELS_URL = "https://storage.googleapis.com/download.tensorflow.org/data/" + LABELS_FILE
NETWORK_TIMEOUT_SECONDS = 30.0

# Modules are pulled by several threads, but warnings and socket timeouts are settings of the whole process.
_one_at_a_time = threading.Lock()


def module_path(variant: Variant, model_dir: str) -> str:
    """Where a variant's module is: the user's own directory, or its place in `model_dir`."""
    return variant.handle if os.path.isdir(variant.handle) else os.path.join(model_dir, variant.directory)


def graph_path(variant: Variant, model_dir: str) -> str:
    """Where a variant's optimised graph is, also that of the user's own module."""
    return os.path.join(model_dir, f"{variant.directory}.graph")


def kept(variant: Variant, model_dir: str) -> modules.Description | None:
    """The description of a module that is there; None where it has to be fetched.

    A module whose files are not those that were described is checked, described and optimised anew, and so is one
    whose graph is missing, broken or stale. Where all is well that takes reading the module and its graph, once each.
    """
    path = module_path(variant, model_dir)
    if not os.path.isdir(path):
        return None
    description, sha256 = _read_description(variant, model_dir), modules.digest(path)
    graph = graph_files.read_facts(graph_path(variant, model_dir), variant, sha256)
    if description is None or description.sha256 != sha256 or graph is None:
        description, optimised = _describe(path, variant)
        _write(variant, model_dir, description, optimised)
    return description


def fetch(variant: Variant, model_dir: str) -> modules.Description:
    """Fetch a variant's module from its handle, check it and keep it.

    Raises:
        RunError: It cannot be fetched, or is not what the catalogue promises.
    """

    def download(path: str) -> None:
        with _one_at_a_time:
            source = _resolve(variant)
        shutil.copytree(source, path)

    return _keep(variant, model_dir, download)


def make(variant: Variant, model_dir: str) -> modules.Description:
    """Make a variant's module with random weights and keep it, marked so."""
    from transforms import random_weights

    return _keep(variant, model_dir, lambda path: random_weights.write(variant, path))


def fetch_class_names(model_dir: str) -> bool:
    """Fetch ImageNet's class names into `model_dir`; False where they cannot be had."""
    path = os.path.join(model_dir, LABELS_FILE)
    if not os.path.exists(path):
        try:
            with urllib.request.urlopen(LABELS_URL, timeout=NETWORK_TIMEOUT_SECONDS) as response:
                content = response.read()
        except (urllib.error.URLError, TimeoutError):
            return False
        os.makedirs(model_dir, exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    return True


def _keep(variant: Variant, model_dir: str, write: Callable[[str], None]) -> modules.Description:
    os.makedirs(model_dir, exist_ok=True)
    final = os.path.join(model_dir, variant.directory)
    with tempfile.TemporaryDirectory(dir=model_dir, prefix=".") as folder:
        path = os.path.join(folder, variant.directory)
        write(path)
        description, optimised = _describe(path, variant)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(path, final)
    _write(variant, model_dir, description, optimised)
    return description


def _describe(path: str, variant: Variant) -> tuple[modules.Description, graphs.Optimised]:
    """What the module in `path`, loaded once, is and can be made of."""
    with _one_at_a_time:
        module = modules.load(path, variant)
        description = modules.describe(module, variant)
        return description, graphs.optimise(module, variant, description.sha256)


def _resolve(variant: Variant) -> str:
    if "://" not in variant.handle:
        raise RunError(f"{variant.name}: no module at {variant.handle}; correct its handle")
    with warnings.catch_warnings():
        # tensorflow-hub 0.16.1 imports pkg_resources, whose warning nobody here can act on.
        warnings.simplefilter("ignore")
        import tensorflow_hub as hub

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT_SECONDS)
    try:
        return str(hub.resolve(variant.handle))
    except (OSError, ValueError, RuntimeError, EOFError, tarfile.TarError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"cannot fetch {variant.name} from {variant.handle}: {reason}; check the network, or put the module's "
            "files into --model-dir, or try without trained weights: pixelbeam pull --random-weights"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


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
    """The variants that a run names, their modules there and checked; a missing module is fetched.

    Raises:
        UsageError: A variant is unknown or named twice, or the class names do not fit.
        RunError: A module cannot be had or is not what it should be.
    """
    return tuple(_variant_run(variant, _description(variant, config), config) for variant in named(config))


def kept_variants(config: RunConfig) -> dict[str, VariantRun | None]:
    """The variants that a run names, as it would do them; None where the module would have to be fetched first.

    Raises:
        UsageError: A variant is unknown or named twice, or the class names do not fit.
    """
    descriptions = {variant: kept(variant, config.model_dir) for variant in named(config)}
    return {
        variant.name: None if description is None else _variant_run(variant, description, config)
        for variant, description in descriptions.items()
    }


def named(config: RunConfig) -> list[Variant]:
    """The variants that a run names; UsageError where one is unknown or named twice."""
    variants = [find(spec) for spec in config.variants]
    for variant in variants:
        if sum(other.directory == variant.directory for other in variants) > 1:
            raise UsageError(f"--variant names {variant.name} twice; name it once")
    return variants


def _description(variant: Variant, config: RunConfig) -> modules.Description:
    description = kept(variant, config.model_dir)
    if description is None:
        print(f"fetching {variant.name} from {variant.handle}", file=sys.stderr)
        description = fetch(variant, config.model_dir)
    return description


def _variant_run(variant: Variant, description: modules.Description, config: RunConfig) -> VariantRun:
    return VariantRun(
        variant=variant,
        module_path=module_path(variant, config.model_dir),
        module_sha256=description.sha256,
        graph_path=graph_path(variant, config.model_dir),
        n_classes=description.n_classes,
        n_features=description.n_features,
        precision=config.precision,
        class_names=_names(description.n_classes, config),
        random_weights=description.random_weights,
        keep=config.keep,
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
        if n_classes in IMAGENET_WIDTHS and os.path.exists(labels)
        else None
    )

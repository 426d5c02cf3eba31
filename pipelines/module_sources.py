"""Where modules come from, TF Hub or a store, and what is kept of each."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pipelines.terminal import Line
from transforms import graphs, modules, storage
from transforms.errors import RunError
from transforms.paths import is_remote
from transforms.variants import Variant

LABELS_FILE = "ImageNetLabels.txt"
LABELS_URL = "https://storage.googleapis.com/download.tensorflow.org/data/" + LABELS_FILE
NETWORK_TIMEOUT_SECONDS = 30.0
MB = 1e6

# Modules are pulled by several threads, but warnings and socket timeouts are settings of the whole process.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Kept:
    """A module that is there, checked, described and optimised.

    Attributes:
        description: What it is.
        facts: Of its graph.
        module_path: Directory of the SavedModel, a path or a URL.
        graph_path: File of its graph, a path or a URL.
        graph_sha256: Of that file where it lies in a store; a local one is checked where it is read.
    """

    description: modules.Description
    facts: graphs.GraphFacts
    module_path: str
    graph_path: str
    graph_sha256: str | None = None


def in_store(handle: str) -> bool:
    """Whether a handle is the URL of a SavedModel's directory in a bucket."""
    return is_remote(handle) and not handle.startswith(("http://", "https://", "file://"))


def fetch(variant: Variant, path: str) -> None:
    """Bring a variant's module from its handle into the new directory `path`.

    Raises:
        RunError: It cannot be fetched.
    """
    if not in_store(variant.handle):
        with _one_at_a_time:
            source = _resolve(variant)
        shutil.copytree(source, path)
    elif not download(variant, variant.handle, path):
        raise RunError(f"{variant.name}: no module at {variant.handle}; correct its handle")


def download(variant: Variant, url: str, path: str) -> bool:
    """Copy a module's directory from a store into the new directory `path`; False where there is none."""
    refs = storage.tree(url).values()
    if not refs:
        return False
    total = sum(ref.size or 0 for ref in refs) / MB
    with Line(f"fetching {variant.name}", "MB", total, lambda: _megabytes(path)):
        return storage.download_tree(url, path) > 0


def describe(path: str, variant: Variant) -> tuple[modules.Description, graphs.Optimised]:
    """What the module in `path`, loaded once, is and can be made of.

    Raises:
        RunError: It is not what the catalogue promises.
    """
    with _one_at_a_time, Line(f"checking and optimising {variant.name}"):
        module = modules.load(path, variant)
        description = modules.describe(module, variant)
        return description, graphs.optimise(module, variant, description.sha256)


def fetch_class_names(model_dir: str) -> bool:
    """Fetch ImageNet's class names into `model_dir`; False where they cannot be had."""
    path = os.path.join(model_dir, LABELS_FILE)
    if storage.exists(path):
        return True
    try:
        with urllib.request.urlopen(LABELS_URL, timeout=NETWORK_TIMEOUT_SECONDS) as response:
            content = response.read()
    except (urllib.error.URLError, TimeoutError):
        return False
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        storage.commit(file.name, path)
    return True


def _resolve(variant: Variant) -> str:
    if not is_remote(variant.handle):
        raise RunError(f"{variant.name}: no module at {variant.handle}; correct its handle")
    with warnings.catch_warnings():
        # tensorflow-hub 0.16.1 imports pkg_resources, whose warning nobody here can act on.
        warnings.simplefilter("ignore")
        import tensorflow_hub as hub

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT_SECONDS)
    try:
        with _local_hub_cache(), Line(f"fetching {variant.name}", "MB", None, hub_megabytes):
            return str(hub.resolve(variant.handle))
    except (OSError, ValueError, RuntimeError, EOFError, tarfile.TarError) as error:
        # Its text would put the reason in angle brackets.
        cause = error.reason if type(error) is urllib.error.URLError else error
        reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise RunError(
            f"cannot fetch {variant.name} from {variant.handle}: {reason}; check the network, or put the module's "
            "files into --model-dir, or try without trained weights by `pixelbeam pull` with these options and "
            "--random-weights"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def hub_megabytes() -> float:
    """What tensorflow-hub has unpacked so far of what it fetches; of how much it does not tell."""
    from tensorflow_hub import resolver

    folders = glob.glob(os.path.join(glob.escape(resolver.tfhub_cache_dir(use_temp=True)), "*.tmp"))
    return sum(map(_megabytes, folders))


def _megabytes(folder: str) -> float:
    """Of all files below a directory, which others may be at."""
    n_bytes = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                n_bytes += os.path.getsize(os.path.join(place, name))
    return n_bytes / MB


@contextmanager
def _local_hub_cache() -> Iterator[None]:
    """Keeps tensorflow-hub from unpacking into a bucket, where --model-dir is $TFHUB_CACHE_DIR and a URL."""
    cache = os.environ.get("TFHUB_CACHE_DIR", "")
    if not is_remote(cache):
        yield
        return
    del os.environ["TFHUB_CACHE_DIR"]
    try:
        yield
    finally:
        os.environ["TFHUB_CACHE_DIR"] = cache

"""What a worker needs of a module in a store: brought to this machine once, and checked by its hash."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import replace

import tensorflow as tf

from transforms import graph_files, modules, storage
from transforms.errors import RunError
from transforms.fingerprints import VariantRun


def at_hand(run: VariantRun) -> VariantRun:
    """The run with its graph, and its module where that runs as loaded, on this machine's disk.

    May be done by several processes at once: files appear whole, under names that are their hashes.

    Raises:
        RunError: A file is gone from the store, is not the one that was pulled, or was made by another TensorFlow.
    """
    if run.graph_sha256 is None:
        return run
    graph = _graph(run.graph_path, run.graph_sha256)
    made_by, here = graph_files.origin(graph), (tf.__version__, graph_files.FORMAT)
    if made_by != here:
        raise RunError(
            f"{run.graph_path}: made with TensorFlow {made_by[0]} in format {made_by[1]}, this process has TensorFlow "
            f"{here[0]} and format {here[1]}; install the same versions here and where `pixelbeam pull` runs"
        )
    facts = graph_files.read_facts(graph, run.variant, run.module_sha256)
    if facts is None or facts.form != "loaded":
        return replace(run, graph_path=graph)
    return replace(run, graph_path=graph, module_path=_module(run.module_path, run.module_sha256))


def _folder() -> str:
    path = os.path.join(tempfile.gettempdir(), f"pixelbeam-{os.getuid()}")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def _graph(url: str, sha256: str) -> str:
    """The graph's file on this machine."""
    path = os.path.join(_folder(), f"{sha256}.graph")
    if not (os.path.isfile(path) and graph_files.digest(path) == sha256):
        with tempfile.TemporaryDirectory(dir=_folder()) as scratch:
            new = os.path.join(scratch, "graph")
            try:
                storage.download(url, new)
            except FileNotFoundError:
                raise _gone(url) from None
            _check(url, graph_files.digest(new), sha256)
            os.replace(new, path)
    return path


def _module(url: str, sha256: str) -> str:
    """The module's directory on this machine."""
    path = os.path.join(_folder(), sha256)
    if not _holds(path, sha256):
        with tempfile.TemporaryDirectory(dir=_folder()) as scratch:
            new = os.path.join(scratch, "module")
            if not storage.download_tree(url, new):
                raise _gone(url)
            _check(url, modules.digest(new), sha256)
            if not _holds(path, sha256):
                # What sweeps temporary files may have taken some of them.
                with suppress(FileNotFoundError):
                    os.rename(path, os.path.join(scratch, "damaged"))
                with suppress(OSError):
                    # It is there again where another process was faster.
                    os.rename(new, path)
    return path


def _holds(path: str, sha256: str) -> bool:
    with suppress(RunError):
        return modules.digest(path) == sha256
    return False


def _check(url: str, found: str, expected: str) -> None:
    if found != expected:
        raise RunError(
            f"{url}: has the SHA-256 {found[:12]}..., what was pulled had {expected[:12]}...: it was changed or "
            "damaged; pull the module again, then run the same command again"
        )


def _gone(url: str) -> RunError:
    return RunError(f"{url}: is gone; pull the module again, then run the same command again")

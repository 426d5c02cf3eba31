"""Directories that a command is given, looked at before anything else is done."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from pipelines.record import read_record, record_names
from transforms import index, storage
from transforms.errors import UsageError
from transforms.index import Index
from transforms.paths import absolute, as_text, is_remote

VARIANT_PREFIX = "variant="


def check_output(output: str, inputs: Sequence[str] = ()) -> None:
    """Look whether there can be an output directory.

    Raises:
        UsageError: It is a file or below one, names nothing, is not UTF-8, or is one of the inputs.
        RunError: Its bucket is not there, or may not be read or written.
    """
    if is_remote(output) and output.rstrip("/").endswith(":"):
        raise UsageError(f"--output {output} names no bucket; give one, such as gs://BUCKET/FOLDER")
    _check_directory("--output", output)
    if is_remote(output) and storage.exists(absolute(output)):
        raise UsageError(f"--output {output} is a file; give a directory")
    if absolute(output) in map(absolute, inputs):
        raise UsageError(f"--output {output} is an --input too; give the dataset a directory of its own")
    storage.check_writable(absolute(output))


def check_model_dir(model_dir: str) -> None:
    """Raise UsageError where modules cannot be kept since it is a file or below one, names nothing or is not UTF-8."""
    _check_directory("--model-dir", model_dir)


def open_dataset(directory: str) -> Index:
    """The index of the dataset in a directory, an absolute path or a URL.

    Raises:
        UsageError: There is none; it says what is there, and where one is nearby.
    """
    work = index.read(directory)
    if work is None:
        around = next((place for place in _above(directory) if index.read(place) is not None), None)
        advice = f"did you mean {around}?" if around else "give the --output of `pixelbeam run`"
        raise UsageError(f"{directory} {_instead_of_dataset(directory)}; {advice}")
    return work


def variants_of(output: str) -> list[str]:
    """Directory names of the variants that a dataset holds, or that any run was to do; it may have died at once.

    Raises:
        UsageError: There is none.
    """
    held = {name.removeprefix(VARIANT_PREFIX) for name in storage.list_names(output, VARIANT_PREFIX)}
    asked_for = {
        variant["directory"]
        for name in record_names(output)
        for variant in read_record(output, name)["variants"]
    }
    if not held | asked_for:
        raise UsageError(f"{output} holds an index only; let `pixelbeam run --output {output}` begin first")
    return sorted(held | asked_for)


def _check_directory(option: str, directory: str) -> None:
    if not directory:
        raise UsageError(f"{option} must be a directory or a URL, got ''")
    if as_text(directory) != directory:
        raise UsageError(f"{option} {directory!r} is not UTF-8, and Arrow opens no other; give another name")
    path = absolute(directory)
    file = next((place for place in (path, *_above(path)) if os.path.isfile(place)), None)
    if file is not None:
        raise UsageError(f"{option} {directory}: {file} is a file; give a directory")


def _instead_of_dataset(directory: str) -> str:
    if storage.exists(directory):
        return "is a file"
    if not is_remote(directory) and not os.path.isdir(directory):
        return "is not there"
    return "holds no dataset (no _index/CURRENT.json)"


def _above(path: str) -> Iterator[str]:
    """The directories above a path, the nearest first; of a URL its bucket last."""
    *folders, _ = path.split("/")
    for end in range(len(folders), 2 if is_remote(path) else 1, -1):
        yield "/".join(folders[:end])

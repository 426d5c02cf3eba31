"""Listing the inputs into the output's index; knows neither Beam nor TensorFlow."""

from __future__ import annotations

import itertools

from pipelines import progress
from transforms import index, snapshots, storage
from transforms.containers import Layout
from transforms.errors import UsageError
from transforms.index import Index
from transforms.listing import Found, list_images
from transforms.members import KeptColumns
from transforms.paths import absolute, is_remote
from transforms.snapshots import UnitSize

MAX_IMAGES_PER_UNIT = 4096
MIN_IMAGES_PER_UNIT = 64
LEAST_UNITS = 16


def check_output(output: str) -> None:
    """Look whether there can be an output directory.

    Raises:
        UsageError: It is a file, or names nothing.
        RunError: Its bucket is not there, or may not be read or written.
    """
    if not output:
        raise UsageError("--output must be a directory or a URL, got ''")
    directory = absolute(output)
    if is_remote(output) and output.rstrip("/").endswith(":"):
        raise UsageError(f"--output {output} names no bucket; give one, such as gs://BUCKET/FOLDER")
    if storage.exists(directory):
        raise UsageError(f"--output {output} is a file; give a directory")
    if is_remote(directory):
        # The clients of stores take a second to import.
        from transforms import remote

        remote.check_writable(directory)


def unit_size(images_per_unit: int | None, most: int = MAX_IMAGES_PER_UNIT) -> UnitSize:
    """The size that was asked for; else at most `most`, in units enough for all threads to end together."""
    if images_per_unit is not None:
        return UnitSize(images_per_unit)
    return UnitSize(most, LEAST_UNITS, MIN_IMAGES_PER_UNIT)


def list_work(
    inputs: tuple[str, ...], output: str, layout: Layout, size: UnitSize, limit: int | None
) -> Index:
    """List the inputs, bring the output's index up to date, and say what changed."""
    current = index.read(output)
    if limit is not None and current is not None and current.n_images > limit:
        raise UsageError(
            f"--limit {limit}, but {output} has an index of {current.n_images:,} images already; "
            "leave --limit out, or give a new --output for the trial"
        )
    found = Found(KeptColumns(layout.keep))
    images = itertools.islice(list_images(inputs, found, layout), limit)
    work, changes = snapshots.update(output, progress.while_listing(images, found), size, found.kept.schema)
    progress.print_listing(work, changes, found)
    return work

"""Listing the inputs into the output's index; knows neither Beam nor TensorFlow."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from pipelines import progress
from transforms import index, snapshots, storage
from transforms.changes import Changes
from transforms.containers import Layout
from transforms.errors import UsageError
from transforms.index import Index
from transforms.listing import Found, list_images
from transforms.members import KeptColumns
from transforms.paths import absolute, is_remote
from transforms.records import ImageRef
from transforms.snapshots import UnitSize
from transforms.variants import Variant

MAX_IMAGES_PER_UNIT = 4096
MIN_IMAGES_PER_UNIT = 64
LEAST_UNITS = 16
UNIT_SECONDS = 300.0
# Measured with EfficientNet-B0 and B3: 160 and 36 images a second on two cores.
MULTIPLY_ADDS_PER_CORE_SECOND = 32e9


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


def default_unit(variants: Iterable[Variant]) -> int:
    """Images a unit: about five minutes of work for all variants on this machine's cores, at most 4096."""
    from transforms.devices import cores

    multiply_adds = sum(variant.multiply_adds_billions or 1.0 for variant in variants) * 1e9
    images = UNIT_SECONDS * cores() * MULTIPLY_ADDS_PER_CORE_SECOND / multiply_adds
    return max(MIN_IMAGES_PER_UNIT, min(MAX_IMAGES_PER_UNIT, int(images)))


def list_work(
    inputs: tuple[str, ...], output: str, layout: Layout, size: UnitSize, limit: int | None
) -> Index:
    """List the inputs, bring the output's index up to date, and say what changed."""
    images, found = _listed(inputs, output, layout, limit)
    work, changes = snapshots.update(output, images, size, found.kept.schema)
    progress.print_listing(work, changes, found)
    return work


def preview_work(
    inputs: tuple[str, ...], output: str, layout: Layout, size: UnitSize, limit: int | None, folder: str
) -> tuple[list[str], Changes]:
    """Paths of the parts that `list_work` would make current, the new ones in `folder`, and what it would change."""
    images, found = _listed(inputs, output, layout, limit)
    return snapshots.preview(output, images, size, found.kept.schema, folder)


def _listed(
    inputs: tuple[str, ...], output: str, layout: Layout, limit: int | None
) -> tuple[Iterator[ImageRef], Found]:
    current = index.read(output)
    if limit is not None and current is not None and current.n_images > limit:
        raise UsageError(
            f"--limit {limit}, but {output} has an index of {current.n_images:,} images already; "
            "leave --limit out, or give a new --output for the trial"
        )
    found = Found(KeptColumns(layout.keep))
    images = itertools.islice(list_images(inputs, found, layout), limit)
    return progress.while_listing(images, found), found

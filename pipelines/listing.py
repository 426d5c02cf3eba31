"""Listing the inputs into the output's index; knows neither Beam nor TensorFlow."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from pipelines import progress
from pipelines.terminal import Line
from transforms import index, snapshots
from transforms.changes import Changes
from transforms.containers import Layout
from transforms.errors import UsageError
from transforms.index import Index
from transforms.listing import Found, list_images
from transforms.members import KeptColumns
from transforms.records import ImageRef
from transforms.snapshots import UnitSize

MAX_IMAGES_PER_UNIT = 4096
MIN_IMAGES_PER_UNIT = 64
LEAST_UNITS = 16
UNIT_SECONDS = 300.0
"""That a unit should take on the device that the run is on."""


def unit_size(images_per_unit: int | None, usual: float = MAX_IMAGES_PER_UNIT) -> UnitSize:
    """The size that was asked for; else the usual one within limits, in units enough for all threads to end at once."""
    if images_per_unit is not None:
        return UnitSize(images_per_unit)
    most = max(MIN_IMAGES_PER_UNIT, min(MAX_IMAGES_PER_UNIT, int(usual)))
    return UnitSize(most, LEAST_UNITS, MIN_IMAGES_PER_UNIT)


def list_work(
    inputs: tuple[str, ...], output: str, layout: Layout, size: UnitSize, limit: int | None
) -> Index:
    """List the inputs, bring the output's index up to date, and say what changed."""
    return list_and_compare(inputs, output, layout, size, limit)[0]


def list_and_compare(
    inputs: tuple[str, ...], output: str, layout: Layout, size: UnitSize, limit: int | None
) -> tuple[Index, Changes, Found]:
    """Do as `list_work`; gives also what the listing changed and met."""
    images, found = _listed(inputs, output, layout, limit)
    with Line("listing", "images") as line:
        work, changes = snapshots.update(output, _counted(images, line), size, found.kept.schema)
    progress.print_listing(work, changes, found)
    return work, changes, found


def preview_work(
    inputs: tuple[str, ...], output: str, layout: Layout, size: UnitSize, limit: int | None, folder: str
) -> tuple[list[str], Changes]:
    """Paths of the parts that `list_work` would make current, the new ones in `folder`, and what it would change."""
    images, found = _listed(inputs, output, layout, limit)
    with Line("listing", "images") as line:
        return snapshots.preview(output, _counted(images, line), size, found.kept.schema, folder)


def _counted(images: Iterable[ImageRef], line: Line) -> Iterator[ImageRef]:
    """The images, counted as they come; what follows once all are listed takes a while, too."""
    for image in images:
        yield image
        line.done += 1
    line.what = "comparing with the index"


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
    return itertools.islice(list_images(inputs, found, layout), limit), found

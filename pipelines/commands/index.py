"""`pixelbeam index`: only list the images and cut them into units."""

from __future__ import annotations

import os

from pipelines.config import check_at_least_one
from pipelines.listing import check_output, list_work, unit_size
from transforms.containers import Layout
from transforms.paths import absolute


def main(
    inputs: tuple[str, ...], output: str, layout: Layout, images_per_unit: int | None, limit: int | None
) -> int:
    """Bring the output's index up to date; returns 0."""
    check_at_least_one("--images-per-unit", images_per_unit)
    check_at_least_one("--limit", limit)
    check_output(output)
    output = absolute(output)
    work = list_work(inputs, output, layout, unit_size(images_per_unit), limit)
    print(os.path.join(output, "_index", work.snapshot))
    return 0

"""`pixelbeam index`: only list the images and cut them into units."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

from pipelines.config import check_at_least_one
from pipelines.directories import check_output
from pipelines.listing import list_and_compare, unit_size
from transforms.containers import Layout
from transforms.paths import absolute


def main(
    inputs: tuple[str, ...],
    output: str,
    layout: Layout,
    images_per_unit: int | None,
    limit: int | None,
    as_json: bool,
) -> int:
    """Bring the output's index up to date; prints where it is or all that was listed, and returns 0."""
    check_at_least_one("--images-per-unit", images_per_unit)
    check_at_least_one("--limit", limit)
    check_output(output, inputs)
    output = absolute(output)
    work, changes, found = list_and_compare(inputs, output, layout, unit_size(images_per_unit), limit)
    place = os.path.join(output, "_index", work.snapshot)
    if as_json:
        listed = {
            "index": place,
            "images": work.n_images,
            "units": work.n_units,
            "changes": asdict(changes),
            "ignored": found.ignored,
        }
        print(json.dumps(listed, indent=1))
    else:
        print(place)
    return 0

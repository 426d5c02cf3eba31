"""`pixelbeam variants`: the catalogue."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.table import Table

from pipelines.progress import stdout
from transforms.variants import Variant, catalogue


def main(as_json: bool) -> int:
    """Print the catalogue as a table, or as JSON; returns 0."""
    if as_json:
        print(
            json.dumps(
                [{**asdict(variant), "directory": variant.directory} for variant in catalogue()], indent=1
            )
        )
        return 0
    table = Table(title="variants: both spellings of a name will do", show_lines=True)
    for column in ("variant", "format", "size", "resize", "gives", "params M", "mult-adds G", "top-1 %"):
        table.add_column(column, overflow="fold")
    for variant in catalogue():
        table.add_row(*_cells(variant))
    stdout().print(table)
    return 0


def _cells(variant: Variant) -> list[str]:
    widths = {"logits": variant.n_classes, "features": variant.n_features}
    gives = [f"{widths[output][0] if widths[output] else '?'} {output}" for output in variant.outputs]
    figures = (variant.parameters_millions, variant.multiply_adds_billions, variant.top1_percent)
    return [
        f"{variant.name}\n{variant.directory}",
        variant.format,
        f"{variant.size}{' fixed' if variant.fixed_size else ''}",
        variant.resize,
        ", ".join(gives),
        *("" if figure is None else f"{figure}" for figure in figures),
    ]

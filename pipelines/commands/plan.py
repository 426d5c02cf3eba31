"""`pixelbeam plan`: what a run would do, of which nothing is done."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass

from pipelines import model_dir
from pipelines.config import RunConfig
from pipelines.listing import default_unit, preview_work, unit_size
from pipelines.progress import counted
from transforms import index, storage
from transforms.changes import Changes
from transforms.containers import Layout
from transforms.errors import UsageError
from transforms.fingerprints import VariantRun
from transforms.paths import absolute
from transforms.records import Unit
from transforms.tables import rounds, rows_directory


@dataclass(frozen=True)
class Work:
    """What is to be done for a variant.

    Attributes:
        units: Units without a rows file, or with one of other images or settings.
        images: Images in them.
        is_pulled: Whether the module is kept; what is done already cannot be told without it.
    """

    units: int
    images: int
    is_pulled: bool


def main(config: RunConfig, as_json: bool) -> int:
    """Print what a run would do; returns 0. Without inputs the index is taken as it is."""
    output = absolute(config.output)
    runs = model_dir.kept_variants(config)
    with tempfile.TemporaryDirectory(prefix="pixelbeam-") as folder:
        parts, changes = _parts(config, output, folder)
        units = [unit for part in parts for unit in index.units_of(part)]
    work = {name: to_do(output, run, units) for name, run in runs.items()}
    n_images = sum(unit.n_images for unit in units)
    if as_json:
        document = {"images": n_images, "units": len(units), "changes": changes and asdict(changes)}
        print(
            json.dumps({**document, "variants": {name: asdict(its) for name, its in work.items()}}, indent=1)
        )
    else:
        _print(n_images, len(units), changes, work)
    return 0


def _parts(config: RunConfig, output: str, folder: str) -> tuple[list[str], Changes | None]:
    """Paths of the index's parts as a run would have them, and what it would change in it."""
    if config.inputs:
        layout = Layout(config.image_column, config.keep)
        size = unit_size(config.images_per_unit, default_unit(model_dir.named(config)))
        return preview_work(config.inputs, output, layout, size, config.limit, folder)
    current = index.read(output)
    if current is None:
        raise UsageError(f"{output} holds no index; name the images with --input")
    return current.part_paths(), None


def to_do(output: str, run: VariantRun | None, units: list[Unit]) -> Work:
    """The units that a run would do for a variant: all of them where its module is not known yet."""
    if run is None:
        missing = units
    else:
        folder = os.path.join(output, rows_directory(run.variant.directory))
        done = rounds(storage.list_names(folder, "part-"))
        missing = [unit for unit in units if (unit.number, run.fingerprint(unit)) not in done]
    return Work(len(missing), sum(unit.n_images for unit in missing), run is not None)


def _print(n_images: int, n_units: int, changes: Changes | None, work: dict[str, Work]) -> None:
    print(f"{counted(n_images, 'image')} in {counted(n_units, 'unit')}")
    if changes is not None:
        print(f"  new: {changes.new:,}")
        print(f"  changed: {changes.changed:,}")
        examples = (
            f" ({', '.join(changes.first_gone)}{', ...' if changes.gone > len(changes.first_gone) else ''})"
        )
        print(f"  deleted: {changes.gone:,}{examples if changes.gone else ''}")
        if changes.gone:
            print("    their rows stay")
        print(f"  listed twice: {changes.duplicates:,}")
    for name, its in work.items():
        print(f"{name}: {counted(its.images, 'image')} to do in {counted(its.units, 'unit')}")
        if not its.is_pulled:
            print("  its module is not pulled yet: what is done already cannot be told", file=sys.stderr)

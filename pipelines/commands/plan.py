"""`pixelbeam plan`: what a run would do and take, of which nothing is done but reading a few images."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass

from rich.table import Table

from pipelines import model_dir, sample
from pipelines.config import RunConfig
from pipelines.costs import Cost, cost_of
from pipelines.listing import preview_work, unit_size
from pipelines.progress import counted, stdout
from pipelines.run import usual_unit
from pipelines.sample import Sample
from transforms import index, storage
from transforms.changes import Changes
from transforms.containers import Layout
from transforms.errors import UsageError
from transforms.fingerprints import VariantRun
from transforms.paths import absolute
from transforms.records import Unit
from transforms.tables import rounds, rows_directory
from transforms.variants import Variant

BYTES_A_ROW = 250
"""Besides the vectors: uri, hash, size and what else is said of an image."""
COMPRESSED = 0.92
"""What zstd leaves of feature vectors and logits."""


@dataclass(frozen=True)
class Work:
    """What is to be done for a variant.

    Attributes:
        units: Units without a rows file, or with one of other images or settings.
        images: Images in them.
        is_pulled: Whether the module is kept; what is done already cannot be told without it.
        bytes_out: Of the rows, about.
    """

    units: int
    images: int
    is_pulled: bool
    bytes_out: float


@dataclass(frozen=True)
class Plan:
    """All that a plan says.

    Attributes:
        images: In the index, as a run would have it.
        units: Likewise.
        changes: What the listing would change in the index; None where nothing was listed.
        work: By variant.
        bytes_in: To be read, about: each image once; None where none could be read for a sample.
        sample: What was measured here; None likewise.
        costs: On each device.
    """

    images: int
    units: int
    changes: Changes | None
    work: dict[str, Work]
    bytes_in: float | None
    sample: Sample | None
    costs: list[Cost]


def main(config: RunConfig, hourly_prices: dict[str, float], as_json: bool) -> int:
    """Print what a run would do; returns 0. Without inputs the index is taken as it is."""
    made = make(config, hourly_prices)
    if as_json:
        print(json.dumps(asdict(made), indent=1))
    else:
        _print(made)
    return 0


def make(config: RunConfig, hourly_prices: dict[str, float]) -> Plan:
    """What a run would do and take."""
    output = absolute(config.output)
    variants, runs = model_dir.named(config), model_dir.kept_variants(config)
    with tempfile.TemporaryDirectory(prefix="pixelbeam-") as folder:
        parts, changes = _parts(config, output, folder)
        units = [unit for part in parts for unit in index.units_of(part)]
        missing = {variant: to_do(output, runs[variant.name], units) for variant in variants}
        once = {unit.number: unit for its in missing.values() for unit in its}
        measured = sample.measure(sample.choose(list(once.values())), variants) if once else None
    images = {variant: sum(unit.n_images for unit in its) for variant, its in missing.items()}
    work = {
        variant.name: Work(
            len(its),
            images[variant],
            runs[variant.name] is not None,
            images[variant] * row_bytes(variant, runs[variant.name]),
        )
        for variant, its in missing.items()
    }
    read = sum(unit.n_images for unit in once.values())
    return Plan(
        images=sum(unit.n_images for unit in units),
        units=len(units),
        changes=changes,
        work=work,
        bytes_in=read * measured.bytes_an_image if measured else None,
        sample=measured,
        costs=cost_of(config, images, measured, hourly_prices) if measured else [],
    )


def _parts(config: RunConfig, output: str, folder: str) -> tuple[list[str], Changes | None]:
    """Paths of the index's parts as a run would have them, and what it would change in it."""
    if config.inputs:
        layout = Layout(config.image_column, config.keep)
        size = unit_size(config.images_per_unit, usual_unit(config))
        return preview_work(config.inputs, output, layout, size, config.limit, folder)
    current = index.read(output)
    if current is None:
        raise UsageError(f"{output} holds no index; name the images with --input")
    return current.part_paths(), None


def to_do(output: str, run: VariantRun | None, units: list[Unit]) -> list[Unit]:
    """The units that a run would do for a variant: all of them where its module is not known yet."""
    if run is None:
        return units
    done = rounds(storage.list_names(os.path.join(output, rows_directory(run.variant.directory)), "part-"))
    return [unit for unit in units if (unit.number, run.fingerprint(unit)) not in done]


def row_bytes(variant: Variant, run: VariantRun | None) -> float:
    """Of a row in its file, about."""
    widths = (
        [run.n_classes or 0, run.n_features or 0]
        if run
        else [next(iter(its), 0) for its in (variant.n_classes, variant.n_features)]
    )
    return BYTES_A_ROW + 4 * sum(widths) * COMPRESSED


def _print(plan: Plan) -> None:
    print(f"{counted(plan.images, 'image')} in {counted(plan.units, 'unit')}")
    if plan.changes is not None:
        _print_changes(plan.changes)
    for name, its in plan.work.items():
        print(
            f"{name}: {counted(its.images, 'image')} to do in {counted(its.units, 'unit')}, "
            f"{_size(its.bytes_out)} of rows (a guess)"
        )
        if not its.is_pulled:
            print("  its module is not pulled yet: what is done already cannot be told", file=sys.stderr)
    if plan.sample is None or plan.bytes_in is None:
        print(
            "nothing to do" if not any(its.images for its in plan.work.values()) else "no image could be read"
        )
        return
    _print_sample(plan.sample, plan.bytes_in)
    _print_costs(plan.costs)


def _print_changes(changes: Changes) -> None:
    print(f"  new: {changes.new:,}")
    print(f"  changed: {changes.changed:,}")
    more = ", ..." if changes.gone > len(changes.first_gone) else ""
    named = f", whose rows stay ({', '.join(changes.first_gone)}{more})" if changes.gone else ""
    print(f"  deleted: {changes.gone:,}{named}")
    print(f"  listed twice: {changes.duplicates:,}")


def _print_sample(measured: Sample, bytes_in: float) -> None:
    bad = [f", {count:,} {reason}" for reason, count in measured.failures_by.items()]
    print(
        f"to read: {_size(bytes_in)}\n"
        f"measured here on {counted(measured.images, 'image')}: {_size(measured.bytes_an_image)} each, read at "
        f"{measured.fetched_per_second:,.0f} images/s, decoded and resized at {1 / measured.decode_seconds:,.0f} "
        f"images/s a core{''.join(bad)}"
    )


def _print_costs(costs: list[Cost]) -> None:
    console = stdout()
    table = Table(pad_edge=False, collapse_padding=True)
    with_price = any(cost.price is not None for cost in costs)
    for name in (
        "worker",
        "machine",
        "images/s",
        "bound by",
        "worker hours",
        *(["price"] if with_price else []),
    ):
        table.add_column(name, justify="left" if name in ("worker", "machine", "bound by") else "right")
    for cost in costs:
        price = [] if not with_price else ["–" if cost.price is None else _at_least_a_hundredth(cost.price)]
        rate, hours = f"{cost.images_per_second:,.0f}", _at_least_a_hundredth(cost.worker_hours)
        table.add_row(cost.worker, cost.machine, rate, cost.bound_by, hours, *price)
    console.print(table)
    print("not measured here: the models' rates; nor is a worker's start in it, 5 to 10 minutes each")
    for cost in costs:
        print(f"  {cost.worker}: {'scaled from ' if cost.guessed else ''}{cost.source}")


def _at_least_a_hundredth(value: float) -> str:
    return f"{value:,.2f}" if value >= 0.01 else "<0.01"


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:,.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.4g} TB"

"""The rows that are looked at: chosen at random from some row groups of some rows files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.report import sampling
from pipelines.report.parts import Part, Parts
from transforms.errors import RunError
from transforms.ordered import ordered_map
from transforms.records import FloatArray
from transforms.storage import open_file

GROUPS_AT_ONCE = 4
BATCH_ROWS = 256
"""That are held with all their values at a time."""


@dataclass(frozen=True)
class TopClass:
    """The most probable class of one image."""

    index: int
    name: str | None
    probability: float

    @property
    def label(self) -> str:
        """Its name, or its number where it has none."""
        return self.name or f"class {self.index}"


@dataclass(frozen=True)
class Image:
    """What a row says of its image, as far as it is shown.

    Attributes:
        uri: As in the row.
        version: Of the file when it was scored.
        sha256: Of its bytes.
        unit: Number of its unit.
        top: Its best class; None where the module is no classifier.
    """

    uri: str
    version: str | None
    sha256: str
    unit: int
    top: TopClass | None


@dataclass(frozen=True, eq=False)
class Rows:
    """Sampled rows of one variant.

    Attributes:
        images: One a row.
        features: float32 `[n, n_features]`; None where the module has none.
        files: Rows files that they are from.
        lost: Those that could not be read, or not whole, because they are gone or broken.
    """

    images: tuple[Image, ...]
    features: FloatArray | None
    files: int
    lost: int


@dataclass(frozen=True)
class _Group:
    part: Part
    number: int

    @property
    def n_rows(self) -> int:
        return self.part.rows_in_groups[self.number]

    @property
    def name(self) -> str:
        footer = self.part.footer
        return f"{footer.unit}.{footer.round}.{self.number}"


def read_rows(parts: Parts, on_read: Callable[[int], None]) -> Rows:
    """At most about `sampling.ROWS` rows from `sampling.ROW_GROUPS` row groups, each row as likely as any other.

    Only units that were made with the same settings are read: vectors of two modules are not comparable.

    Args:
        parts: The variant's files.
        on_read: Told how many rows were read so far.
    """
    files = [part for unit in parts.alike for part in unit.parts]
    groups = [_Group(part, number) for part in files for number in range(len(part.rows_in_groups))]
    chosen = sampling.pick(groups, sampling.ROW_GROUPS, lambda group: group.name)
    share = min(1.0, sampling.ROWS / max(1, sum(group.n_rows for group in chosen)))
    images: list[Image] = []
    features: list[FloatArray] = []
    read_from, lost = set(), set()
    with ThreadPoolExecutor(GROUPS_AT_ONCE) as pool:
        for group, found in ordered_map(
            pool, lambda each: _read_or_none(each, share), chosen, GROUPS_AT_ONCE
        ):
            if found is None:
                lost.add(group.part.path)
                continue
            images += found[0]
            features += [] if found[1] is None else [found[1]]
            read_from.add(group.part.path)
            on_read(len(images))
    values = np.concatenate(features) if features else None
    return Rows(named_apart(images), values, len(read_from), len(lost))


def named_apart(images: Sequence[Image]) -> tuple[Image, ...]:
    """The images, their best classes with the number in the name where two have the same: ImageNet has two cranes."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for image in images:
        if image.top:
            numbers[image.top.label].add(image.top.index)
    shared = {label for label, its in numbers.items() if len(its) > 1}
    return tuple(
        replace(image, top=replace(image.top, name=f"{image.top.label} ({image.top.index})"))
        if image.top and image.top.label in shared
        else image
        for image in images
    )


def _read_or_none(group: _Group, share: float) -> tuple[_Group, tuple[list[Image], FloatArray | None] | None]:
    """The chosen rows of a row group and their features; None where it cannot be read."""
    try:
        table = pa.concat_tables(_read(group, share))
        has_features = "features" in table.column_names and table.num_rows
        values = _matrix(table.column("features")) if has_features else None
        return group, (list(_images(table, group.part.footer.unit)), values)
    except (OSError, pa.ArrowException, UnicodeDecodeError, RunError):
        # Replaced meanwhile, or broken, which `verify` tells.
        return group, None


def _read(group: _Group, share: float) -> Iterator[pa.Table]:
    """The chosen rows of a row group; the names are read first, so that no more than a batch is ever held whole."""
    with open_file(group.part.path) as file:
        parquet = pq.ParquetFile(file)
        names = parquet.read_row_group(group.number, columns=["uri"]).column("uri").to_pylist()
        wanted = sampling.pick(
            range(len(names)), sampling.part_of(len(names), share, group.name), names.__getitem__
        )
        columns = [
            name
            for name in ("uri", "version", "sha256", "top_classes", "features")
            if name in parquet.schema_arrow.names
        ]
        first = 0
        yield parquet.schema_arrow.empty_table().select(columns)
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group.number], columns=columns):
            its = [place - first for place in wanted if first <= place < first + batch.num_rows]
            yield pa.Table.from_batches([batch]).select(columns).take(pa.array(its, pa.int64()))
            first += batch.num_rows


def _images(table: pa.Table, unit: int) -> Iterator[Image]:
    tops: Sequence[TopClass | None] = [None] * table.num_rows
    if "top_classes" in table.column_names:
        best = pc.list_element(table.column("top_classes"), 0).to_pylist() if table.num_rows else []
        tops = [TopClass(each["index"], each["name"], each["probability"]) for each in best]
    columns = (table.column(name).to_pylist() for name in ("uri", "version", "sha256"))
    for uri, version, sha256, top in zip(*columns, tops, strict=True):
        yield Image(uri, version, sha256, unit, top)


def _matrix(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    values = pc.list_flatten(column).to_numpy()
    return np.asarray(values, np.float32).reshape(len(column), -1)

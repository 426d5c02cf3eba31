"""What lies in the output directory: schemas, file names, and records as Arrow."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.fingerprints import VariantRun
from transforms.footers import Footer
from transforms.records import Failure, FloatArray, ImageInfo, ScoreBatch, Target

TOP_CLASSES = 5
ROWS_PER_GROUP = 2048
ROWS_NAME = re.compile(r"part-\d{6,}-[0-9a-f]{12}(\.r(?P<round>\d+))?\.parquet")
PART_NAME = re.compile(r"\.?part-(?P<unit>\d{6,})-(?P<fingerprint>[0-9a-f]{12})[.-]")

TOP_CLASS_TYPE = pa.struct([("index", pa.int32()), ("name", pa.string()), ("probability", pa.float32())])
IMAGE_FIELDS = (
    pa.field("uri", pa.string(), nullable=False),
    pa.field("size", pa.int64()),
    pa.field("version", pa.string()),
)
FAILURES_SCHEMA = pa.schema(
    [
        *IMAGE_FIELDS,
        pa.field("step", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
)


def rows_directory(directory: str) -> str:
    """Where a variant's rows files lie, relative to the output directory."""
    return f"variant={directory}"


def failures_directory(directory: str) -> str:
    """Where a variant's failures files lie, relative to the output directory."""
    return f"_failures/variant={directory}"


def rows_path(run: VariantRun, target: Target) -> str:
    """A target's rows file, relative to the output directory."""
    round_suffix = f".r{target.round}" if target.round else ""
    name = f"part-{target.unit.number:06d}-{target.fingerprint}{round_suffix}.parquet"
    return f"{rows_directory(run.variant.directory)}/{name}"


def failures_path(run: VariantRun, target: Target, attempt: str) -> str:
    """One attempt's failures file, relative to the output directory."""
    name = f"part-{target.unit.number:06d}-{target.fingerprint}-{attempt}.parquet"
    return f"{failures_directory(run.variant.directory)}/{name}"


def unit_and_fingerprint(name: str) -> tuple[int, str] | None:
    """What a file's name says it belongs to, unfinished files included; None for other names."""
    match = PART_NAME.match(os.path.basename(name))
    return (int(match["unit"]), match["fingerprint"]) if match else None


def rounds(names: Iterable[str]) -> dict[tuple[int, str], list[str]]:
    """Names of rows files by unit and fingerprint, each with those of its rounds in order; other names are left out."""
    found: dict[tuple[int, str], list[tuple[int, str]]] = defaultdict(list)
    for name in names:
        match, owner = ROWS_NAME.fullmatch(name), unit_and_fingerprint(name)
        if match and owner:
            found[owner].append((int(match["round"] or 0), name))
    return {owner: [name for _, name in sorted(its)] for owner, its in found.items()}


def rubbish(
    committed: dict[tuple[int, str], Footer],
    rows_names: Sequence[str],
    failures_names: Sequence[str],
    directory: str,
) -> list[str]:
    """Files of units that are committed, but not part of the commit: superseded, unfinished or never named.

    Where a unit is committed every other file of that unit is rubbish, whoever wrote it: another attempt that
    is still going on will lose the race for the rows file.

    Args:
        committed: By unit and fingerprint what their rounds say together.
        rows_names: Names in the variant's rows directory.
        failures_names: Names in the variant's failures directory.
        directory: The variant's directory name.

    Returns:
        Paths relative to the output directory, rows files first.
    """
    units = {unit for unit, _ in committed}
    keep = {name for owner, its in rounds(rows_names).items() if owner in committed for name in its}
    keep |= {os.path.basename(footer.failures_file) for footer in committed.values() if footer.failures_file}
    folders = ((rows_directory(directory), rows_names), (failures_directory(directory), failures_names))
    return [
        f"{folder}/{name}"
        for folder, names in folders
        for name in names
        if name not in keep and (owner := unit_and_fingerprint(name)) and owner[0] in units
    ]


def rows_schema(run: VariantRun, kept: pa.Schema) -> pa.Schema:
    """The columns of a variant's rows files; the last ones are those that are kept from the sources."""
    fields = [
        *IMAGE_FIELDS,
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("orientation", pa.int8(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
    ]
    if run.n_classes is not None:
        fields.append(pa.field("logits", pa.list_(pa.float32(), run.n_classes), nullable=False))
        fields.append(pa.field("top_classes", pa.list_(TOP_CLASS_TYPE), nullable=False))
    if run.n_features is not None:
        fields.append(pa.field("features", pa.list_(pa.float32(), run.n_features), nullable=False))
    return pa.schema([*fields, *kept])


def rows_table(batch: ScoreBatch, run: VariantRun, kept: pa.Schema) -> pa.Table:
    """A batch's rows under `rows_schema`."""
    columns = _image_columns(batch.images)
    columns.append(pa.array([batch.target.fingerprint] * len(batch.images), pa.string()))
    if batch.logits is not None:
        columns.append(_vectors(batch.logits))
        columns.append(top_classes(batch.logits, run.variant.activation, run.class_names))
    if batch.features is not None:
        columns.append(_vectors(batch.features))
    for number, its_type in enumerate(kept.types):
        columns.append(pa.array([info.ref.kept[number] for info in batch.images], its_type))
    return pa.table(columns, schema=rows_schema(run, kept))


def _image_columns(infos: Sequence[ImageInfo]) -> list[Any]:
    return [
        pa.array([info.ref.uri for info in infos], pa.string()),
        pa.array([info.ref.size for info in infos], pa.int64()),
        pa.array([info.ref.version for info in infos], pa.string()),
        pa.array([info.sha256 for info in infos], pa.string()),
        pa.array([info.width for info in infos], pa.int32()),
        pa.array([info.height for info in infos], pa.int32()),
        pa.array([info.orientation for info in infos], pa.int8()),
    ]


def _vectors(values: FloatArray) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), pa.float32()), values.shape[1])


def top_classes(logits: FloatArray, activation: str, names: tuple[str, ...] | None) -> Any:
    """The most probable classes of each row, best first, as `list<struct<index, name, probability>>`.

    Args:
        logits: float32 `[n, n_classes]`.
        activation: `softmax` for one class an image, `sigmoid` for independent classes.
        names: One a class, or None, which leaves `name` null.
    """
    n_rows, n_classes = logits.shape
    count = min(TOP_CLASSES, n_classes)
    best = np.sort(np.argpartition(-logits, count - 1, axis=1)[:, :count], axis=1)
    ranks = np.argsort(-np.take_along_axis(logits, best, axis=1), axis=1, kind="stable")
    order = np.take_along_axis(best, ranks, axis=1)
    chosen = np.take_along_axis(probabilities(logits, activation), order, axis=1)
    indices = order.reshape(-1)
    labels = [names[index] for index in indices] if names else [None] * len(indices)
    entries = pa.StructArray.from_arrays(
        [
            pa.array(indices, pa.int32()),
            pa.array(labels, pa.string()),
            pa.array(chosen.reshape(-1), pa.float32()),
        ],
        fields=list(TOP_CLASS_TYPE),
    )
    offsets: npt.NDArray[np.int32] = np.arange(0, (n_rows + 1) * count, count, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), entries)


def probabilities(logits: FloatArray, activation: str) -> FloatArray:
    """Softmax over the last axis, or the elementwise sigmoid; float32 of `logits`' shape."""
    if activation == "sigmoid":
        return np.asarray(1.0 / (1.0 + np.exp(-logits.astype(np.float64))), np.float32)
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def failures_table(failures: Sequence[Failure]) -> pa.Table:
    """Failures under `FAILURES_SCHEMA`."""
    rows = [
        {
            "uri": failure.ref.uri,
            "size": failure.ref.size,
            "version": failure.ref.version,
            "step": failure.step,
            "error": failure.error,
            "message": failure.message,
            "attempts": failure.attempts,
        }
        for failure in failures
    ]
    return pa.Table.from_pylist(rows, schema=FAILURES_SCHEMA)

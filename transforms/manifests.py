"""Manifests: files that name images, one a line or a row."""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.errors import UsageError
from transforms.paths import is_remote
from transforms.storage import open_stream

_Line = tuple[str, tuple[Any, ...]]
"""What is named, or nothing, and the kept values."""


def is_manifest(path: str) -> bool:
    """Whether the name is that of a manifest."""
    return _extension(path) in _READERS


def read_manifest(path: str, keep: Sequence[str] = ()) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The paths and URLs that a manifest names, each with its values of the columns `keep`.

    Relative paths begin at the manifest's folder; blank lines are passed over.

    Args:
        path: `.txt` with one a line; `.csv` or `.parquet` with a column `uri`.
        keep: Columns of a `.csv` or `.parquet`; a `.txt` has none.

    Raises:
        UsageError: It cannot be read, or has no such column.
    """
    folder = os.path.dirname(path)
    try:
        for name, kept in _READERS[_extension(path)](path, keep):
            if name:
                check_name(name)
                yield name if is_remote(name) else os.path.join(folder, name), kept
    except (OSError, csv.Error, pa.ArrowInvalid) as error:
        raise UsageError(f"manifest {path} cannot be read: {error}; mend it or name another") from error


def kept_types(path: str, keep: Sequence[str]) -> pa.Schema:
    """The Arrow types of the columns `keep`: those of a `.parquet`, strings of a `.csv`, null of a `.txt`.

    Raises:
        UsageError: It has no such column.
    """
    if _extension(path) != ".parquet":
        its_type = pa.string() if _extension(path) == ".csv" else pa.null()
        return pa.schema([(name, its_type) for name in keep])
    with open_stream(path) as file:
        schema = pq.ParquetFile(file).schema_arrow
    _check_columns(path, schema.names, keep)
    return pa.schema([schema.field(name) for name in keep])


def check_name(name: str) -> None:
    """Raise UsageError for what can be neither a path nor a URL."""
    if not name:
        raise UsageError("cannot read '': give a path or a URL")
    if "\0" in name:
        raise UsageError(f"{name[:40]!r} holds a NUL, which no path does; write the manifest as UTF-8 text")


def _extension(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _open_text(path: str, newline: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        open_stream(path), encoding="utf-8-sig", errors="surrogateescape", newline=newline
    )


def _text_lines(path: str, keep: Sequence[str]) -> Iterator[_Line]:
    with _open_text(path, newline="\n") as file:
        for line in file:
            yield line.rstrip("\r\n"), (None,) * len(keep)


def _csv_rows(path: str, keep: Sequence[str]) -> Iterator[_Line]:
    with _open_text(path, newline="") as file:
        rows = csv.DictReader(file)
        _check_columns(path, rows.fieldnames or (), ("uri", *keep))
        for row in rows:
            yield row["uri"] or "", tuple(row[name] for name in keep)


def _parquet_rows(path: str, keep: Sequence[str]) -> Iterator[_Line]:
    with open_stream(path) as file:
        table = pq.ParquetFile(file)
        _check_columns(path, table.schema_arrow.names, ("uri", *keep))
        if not pa.types.is_string(table.schema_arrow.field("uri").type):
            raise UsageError(f"manifest {path}: column 'uri' holds no strings; write it as strings")
        for batch in table.iter_batches(columns=["uri", *keep]):
            uris, *kept = (batch.column(name).to_pylist() for name in ("uri", *keep))
            values = zip(*kept, strict=True) if kept else itertools.repeat(())
            yield from zip((uri or "" for uri in uris), values, strict=False)


_READERS: dict[str, Callable[[str, Sequence[str]], Iterator[_Line]]] = {
    ".txt": _text_lines,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}


def _check_columns(path: str, columns: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in columns:
            raise UsageError(
                f"manifest {path} has no column {name!r}, only {', '.join(columns) or 'none'}; name it so"
            )

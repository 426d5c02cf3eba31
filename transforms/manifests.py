"""Manifests: files that name images, one a line or a row."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.errors import UsageError
from transforms.paths import is_remote
from transforms.storage import open_file

BUFFER_BYTES = 8 << 20
"""Read at a time; of a remote file, in one request."""


def is_manifest(path: str) -> bool:
    """Whether the name is that of a manifest."""
    return _extension(path) in _READERS


def read_manifest(path: str) -> Iterator[str]:
    """The paths and URLs that a manifest names; relative ones begin at its folder, blank lines are passed over.

    Args:
        path: `.txt` with one a line; `.csv` or `.parquet` with a column `uri`.

    Raises:
        UsageError: It cannot be read, or has no such column.
    """
    folder = os.path.dirname(path)
    try:
        for name in filter(None, _READERS[_extension(path)](path)):
            check_name(name)
            yield name if is_remote(name) else os.path.join(folder, name)
    except (OSError, csv.Error, pa.ArrowInvalid) as error:
        raise UsageError(f"manifest {path} cannot be read: {error}") from error


def check_name(name: str) -> None:
    """Raise UsageError for what can be neither a path nor a URL."""
    if not name:
        raise UsageError("cannot read '': give a path or a URL")
    if "\0" in name:
        raise UsageError(f"{name[:40]!r} holds a NUL, which no path does; write the manifest as UTF-8 text")


def _extension(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _open_text(path: str, newline: str) -> io.TextIOWrapper:
    file = open_file(path)
    buffered = io.BufferedReader(file, BUFFER_BYTES) if isinstance(file, io.RawIOBase) else file
    return io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _text_lines(path: str) -> Iterator[str]:
    with _open_text(path, newline="\n") as file:
        for line in file:
            yield line.rstrip("\r\n")


def _csv_uris(path: str) -> Iterator[str]:
    with _open_text(path, newline="") as file:
        rows = csv.DictReader(file)
        _check_uri_column(path, rows.fieldnames or ())
        for row in rows:
            yield row["uri"] or ""


def _parquet_uris(path: str) -> Iterator[str]:
    with open_file(path) as file:
        table = pq.ParquetFile(file)
        _check_uri_column(path, table.schema_arrow.names)
        if not pa.types.is_string(table.schema_arrow.field("uri").type):
            raise UsageError(f"manifest {path}: column 'uri' holds no strings; write it as strings")
        for batch in table.iter_batches(columns=["uri"]):
            yield from (uri or "" for uri in batch.column(0).to_pylist())


_READERS: dict[str, Callable[[str], Iterator[str]]] = {
    ".txt": _text_lines,
    ".csv": _csv_uris,
    ".parquet": _parquet_uris,
}


def _check_uri_column(path: str, columns: Sequence[str]) -> None:
    if "uri" not in columns:
        raise UsageError(
            f"manifest {path} has no column 'uri', only {', '.join(columns) or 'none'}; name it so"
        )

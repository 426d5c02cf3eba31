"""Patterns to images: directories, globs, manifests and single files."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.errors import RunError, UsageError
from transforms.records import ImageRef
from transforms.storage import open_file, reference

IMAGE_EXTENSIONS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".gif", ".bmp", ".webp"),
    *(".tif", ".tiff", ".avif", ".heic", ".heif", ".ppm"),
}


@dataclass
class ListingCounts:
    """What a listing met, filled in as it is drawn.

    Attributes:
        listed: Images given out.
        ignored: Hidden files, and files of a directory without an image's extension.
    """

    listed: int = 0
    ignored: int = 0


def list_images(patterns: Sequence[str], counts: ListingCounts) -> Iterator[ImageRef]:
    """The images that the patterns name, in a stable order, lazily; one that two patterns name comes twice.

    Args:
        patterns: Directories (searched recursively for files with an image's extension), globs and single
            files (taken whatever their names), manifests (`.txt` with a path a line, `.csv` or `.parquet` with
            a column `uri`; relative paths start at the manifest).
        counts: Filled in on the way.

    Raises:
        UsageError: A pattern names nothing, or a manifest cannot be read.
        RunError: A folder cannot be listed.
    """
    for pattern in patterns:
        before = counts.listed
        for path in _paths(pattern, counts):
            counts.listed += 1
            yield reference(_as_uri(path))
        if counts.listed == before:
            raise UsageError(f"no images in {pattern!r}: {_why_empty(pattern, counts)}")


def check_patterns(patterns: Sequence[str]) -> None:
    """Raise UsageError for a pattern that cannot name anything; looks at names only, lists nothing."""
    for pattern in patterns:
        _paths(pattern, ListingCounts())


def _paths(pattern: str, counts: ListingCounts) -> Iterator[str]:
    _check_local(pattern)
    path = os.path.abspath(pattern)
    if os.path.isdir(path):
        return _directory(path, counts)
    if os.path.isfile(path):
        manifest = MANIFESTS.get(os.path.splitext(path)[1].lower())
        return _manifest(path, manifest) if manifest else iter([path])
    if glob.has_magic(pattern):
        absolute = os.path.join(glob.escape(os.getcwd()), pattern)
        return (name for name in sorted(glob.iglob(absolute, recursive=True)) if os.path.isfile(name))
    raise UsageError(f"no such file or directory: {pattern!r}; check --input")


def _check_local(name: str) -> None:
    if not name or "://" in name:
        raise UsageError(f"cannot read {name!r}: inputs are local files so far; give a path")
    if "\0" in name:
        raise UsageError(f"{name[:40]!r} holds a NUL, which no path does; write the manifest as UTF-8 text")


def _directory(root: str, counts: ListingCounts) -> Iterator[str]:
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_cannot_list):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in IMAGE_EXTENSIONS:
                counts.ignored += 1
            else:
                yield os.path.join(folder, name)


def _cannot_list(error: OSError) -> None:
    # Left alone, os.walk would pass over the folder and every image in it.
    raise RunError(f"cannot list {error.filename}: {error.strerror}; mend it or name other inputs") from error


def _manifest(path: str, read: Callable[[str], Iterator[str]]) -> Iterator[str]:
    folder = os.path.dirname(path)
    try:
        for line in filter(None, read(path)):
            _check_local(line)
            yield os.path.join(folder, line)
    except (OSError, csv.Error, pa.ArrowInvalid) as error:
        raise UsageError(f"manifest {path} cannot be read: {error}") from error


def _text_lines(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for line in file:
            yield line.rstrip("\r\n")


def _csv_uris(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
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


MANIFESTS: dict[str, Callable[[str], Iterator[str]]] = {
    ".txt": _text_lines,
    ".csv": _csv_uris,
    ".parquet": _parquet_uris,
}


def _check_uri_column(path: str, columns: Sequence[str]) -> None:
    if "uri" not in columns:
        raise UsageError(
            f"manifest {path} has no column 'uri', only {', '.join(columns) or 'none'}; name it so"
        )


def _as_uri(path: str) -> str:
    """The path as text; bytes that are not UTF-8 are spelt out, since Parquet's strings cannot hold them."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _why_empty(pattern: str, counts: ListingCounts) -> str:
    if os.path.isdir(pattern):
        return f"{counts.ignored} other files were ignored; give a glob to take files whatever their names"
    return "the manifest is empty" if os.path.isfile(pattern) else "the glob matches no file"

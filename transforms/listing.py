"""Patterns to images: directories, globs, manifests and single files, on local disks and in stores."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transforms import storage
from transforms.errors import RunError, UsageError
from transforms.manifests import check_name, is_manifest, read_manifest
from transforms.paths import is_remote
from transforms.records import ImageRef

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
    """The images that the patterns name, lazily; one that two patterns name comes twice.

    The order is the same each time, but for what is in stores, which are listed in many places at once.

    Args:
        patterns: Directories (searched recursively for files with an image's extension), globs and single
            files (taken whatever their names), manifests (`.txt` with a path a line, `.csv` or `.parquet` with
            a column `uri`; relative paths start at the manifest); each a local path or a URL.
        counts: Filled in on the way.

    Raises:
        UsageError: A pattern names nothing, or a manifest cannot be read.
        RunError: A folder or a bucket cannot be listed.
    """
    for pattern in patterns:
        before = counts.listed
        for ref in _images(pattern, counts):
            counts.listed += 1
            yield ref
        if counts.listed == before:
            raise UsageError(f"no images in {pattern!r}: {_why_empty(pattern, counts)}")


def check_patterns(patterns: Sequence[str]) -> None:
    """Raise UsageError for a pattern that cannot name anything; looks at names only, lists nothing."""
    for pattern in patterns:
        check_name(pattern)
        if not is_remote(pattern):
            _local_images(pattern, ListingCounts())


def _images(pattern: str, counts: ListingCounts) -> Iterator[ImageRef]:
    check_name(pattern)
    return _remote_images(pattern, counts) if is_remote(pattern) else _local_images(pattern, counts)


def _local_images(pattern: str, counts: ListingCounts) -> Iterator[ImageRef]:
    path = os.path.abspath(pattern)
    if os.path.isdir(path):
        return storage.references(_directory(path, counts))
    if os.path.isfile(path):
        return storage.references(read_manifest(path) if is_manifest(path) else [path])
    if glob.has_magic(pattern):
        absolute = os.path.join(glob.escape(os.getcwd()), pattern)
        names = sorted(glob.iglob(absolute, recursive=True))
        return storage.references(name for name in names if os.path.isfile(name))
    raise UsageError(f"no such file or directory: {pattern!r}; check --input")


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
            if _is_image(name):
                yield os.path.join(folder, name)
            else:
                counts.ignored += 1


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def _cannot_list(error: OSError) -> None:
    # Left alone, os.walk would pass over the folder and every image in it.
    raise RunError(f"cannot list {error.filename}: {error.strerror}; mend it or name other inputs") from error


def _remote_images(pattern: str, counts: ListingCounts) -> Iterator[ImageRef]:
    file = None if pattern.endswith("/") else storage.reference(pattern)
    if file is not None and file.version is not None:
        yield from storage.references(read_manifest(pattern)) if is_manifest(pattern) else [file]
    elif glob.has_magic(pattern):
        yield from storage.list_glob(pattern)
    else:
        yield from _remote_directory(pattern.rstrip("/") + "/", counts)


def _remote_directory(root: str, counts: ListingCounts) -> Iterator[ImageRef]:
    for ref in storage.list_tree(root):
        *folders, name = ref.uri[len(root) :].split("/")
        if _is_image(name) and not any(folder.startswith(".") for folder in folders):
            yield ref
        # What ends in a slash is no file but stands for a folder.
        elif name:
            counts.ignored += 1


def _why_empty(pattern: str, counts: ListingCounts) -> str:
    if is_manifest(pattern):
        return "the manifest is empty"
    if glob.has_magic(pattern):
        return "the glob matches no file"
    if not counts.ignored:
        return "there is nothing"
    return f"{counts.ignored} other files were ignored; give a glob to take files whatever their names"

"""Patterns to images: directories, globs, manifests and single files, on local disks and in stores."""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transforms import storage
from transforms.containers import Layout
from transforms.errors import RunError, UsageError
from transforms.manifests import check_name, is_manifest, kept_types, read_manifest
from transforms.members import KeptColumns, is_container, with_members
from transforms.paths import is_remote, without_file_scheme
from transforms.records import ImageRef

IMAGE_EXTENSIONS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".gif", ".bmp", ".webp"),
    *(".tif", ".tiff", ".avif", ".heic", ".heif", ".ppm"),
}

USUAL_LAYOUT = Layout()


@dataclass
class Found:
    """What a listing met, filled in as it is drawn.

    Attributes:
        kept: The columns that images carry along.
        listed: Images given out.
        ignored: Hidden files, and files of a directory without an image's extension.
    """

    kept: KeptColumns = field(default_factory=lambda: KeptColumns(()), compare=False)
    listed: int = 0
    ignored: int = 0


def list_images(patterns: Sequence[str], found: Found, layout: Layout = USUAL_LAYOUT) -> Iterator[ImageRef]:
    """The images that the patterns name, lazily; one that two patterns name comes twice.

    The order is the same each time, but for what is in stores, which are listed in many places at once.

    Args:
        patterns: Directories (searched recursively for files with an image's extension), globs and single
            files (taken whatever their names), manifests (`.txt` with a path a line, `.csv` or `.parquet` with
            a column `uri`; relative paths start at the manifest); each a local path or a URL, of which
            `file://` becomes the path. A container that is named, globbed or in a manifest stands for its images.
        found: Filled in on the way.
        layout: How to look at containers, and what to keep.

    Raises:
        UsageError: A pattern names nothing, or a manifest or a container is not what it should be.
        RunError: A folder, a bucket or a container cannot be read.
    """
    nothing_kept = (None,) * len(layout.keep)
    for pattern in map(without_file_scheme, patterns):
        before = found.listed
        refs = _files(pattern, layout, found)
        for ref in with_members(refs, layout, found.kept):
            found.listed += 1
            yield ref if ref.kept or not nothing_kept else replace(ref, kept=nothing_kept)
        if found.listed == before:
            raise UsageError(f"no images in {pattern!r}: {_why_empty(pattern, found)}")


def check_patterns(patterns: Sequence[str]) -> None:
    """Raise UsageError for a pattern that cannot name anything; looks at names only, lists nothing."""
    for pattern in map(without_file_scheme, patterns):
        check_name(pattern)
        if not is_remote(pattern):
            _local_files(pattern, USUAL_LAYOUT, Found())


def _files(pattern: str, layout: Layout, found: Found) -> Iterator[ImageRef]:
    check_name(pattern)
    files = _remote_files if is_remote(pattern) else _local_files
    return files(pattern, layout, found)


def _local_files(pattern: str, layout: Layout, found: Found) -> Iterator[ImageRef]:
    path = os.path.abspath(pattern)
    if os.path.isdir(path):
        return storage.references(_directory(path, found))
    if os.path.isfile(path):
        return _file(storage.reference(path), layout, found)
    if glob.has_magic(pattern):
        absolute = os.path.join(glob.escape(os.getcwd()), pattern)
        names = sorted(glob.iglob(absolute, recursive=True))
        return storage.references(name for name in names if os.path.isfile(name))
    raise UsageError(f"no such file or directory: {pattern!r}; check --input")


def _file(file: ImageRef, layout: Layout, found: Found) -> Iterator[ImageRef]:
    """A file that was named: it stands for what it lists if it is a manifest, else for itself."""
    if not is_manifest(file.uri) or is_container(file.uri, layout):
        yield file
        return
    found.kept.add(file.uri, kept_types(file.uri, layout.keep))
    values: deque[tuple[Any, ...]] = deque()

    def names() -> Iterator[str]:
        for name, kept in read_manifest(file.uri, layout.keep):
            values.append(kept)
            yield without_file_scheme(name)

    for ref in storage.references(names()):
        yield replace(ref, kept=values.popleft())


def _directory(root: str, found: Found) -> Iterator[str]:
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
                found.ignored += 1


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def _cannot_list(error: OSError) -> None:
    # Left alone, os.walk would pass over the folder and every image in it.
    raise RunError(f"cannot list {error.filename}: {error.strerror}; mend it or name other inputs") from error


def _remote_files(pattern: str, layout: Layout, found: Found) -> Iterator[ImageRef]:
    file = None if pattern.endswith("/") else storage.reference(pattern)
    if file is not None and file.version is not None:
        yield from _file(file, layout, found)
    elif glob.has_magic(pattern):
        yield from storage.list_glob(pattern)
    else:
        yield from _remote_directory(pattern.rstrip("/") + "/", found)


def _remote_directory(root: str, found: Found) -> Iterator[ImageRef]:
    for ref in storage.list_tree(root):
        *folders, name = ref.uri[len(root) :].split("/")
        if _is_image(name) and not any(folder.startswith(".") for folder in folders):
            yield ref
        # What ends in a slash is no file but stands for a folder.
        elif name:
            found.ignored += 1


def _why_empty(pattern: str, found: Found) -> str:
    if is_manifest(pattern):
        return "the manifest is empty"
    if glob.has_magic(pattern):
        return "the glob matches no file"
    if not found.ignored:
        return "there is nothing"
    return f"no file's name is an image's (ignored: {found.ignored:,}); give a glob to take files whatever their names"

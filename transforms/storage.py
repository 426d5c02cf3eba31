"""Files wherever they are; every other module names a path or a URL and knows no more of where it lies.

A path without a scheme is on a local disk. There, and on Google Cloud Storage and S3, a commit is atomic and the first
one wins; on other stores the last one does, which is as good, since all that may write a file write the same.
"""

from __future__ import annotations

import io
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import BinaryIO

from transforms import local_files
from transforms.errors import UsageError
from transforms.paths import as_text, is_remote
from transforms.records import ImageRef

STREAM_BYTES = 8 << 20


def _where(path: str) -> ModuleType:
    if not is_remote(path):
        return local_files
    # The clients of stores take a second to import.
    from transforms import remote

    return remote


def reference(uri: str) -> ImageRef:
    """The image at `uri` as it is now; size and version are None where there is no such file."""
    return ImageRef(uri, *_where(uri).info(uri))


def references(paths: Iterable[str]) -> Iterator[ImageRef]:
    """The image at each path or URL as it is now, in order, lazily; those in stores are asked for many at a time."""
    for remote, run in itertools.groupby(paths, key=is_remote):
        if remote:
            yield from _where("://").references(run)
        else:
            yield from (reference(as_text(path)) for path in run)


def bucket_regions(url: str) -> tuple[str, ...]:
    """Where a bucket of Google Cloud Storage lies: a region, two of them, or the name of a multi-region.

    Raises:
        UsageError: There is no such bucket.
        RunError: That may not be asked.
    """
    from transforms import remote

    return remote.regions(url)


def list_tree(url: str) -> Iterator[ImageRef]:
    """All files whose URL begins with `url`, in no order.

    Raises:
        UsageError: There is no such bucket.
        RunError: It cannot be listed.
    """
    return itertools.chain.from_iterable(_where(url).list_tree(url))


def list_glob(pattern: str) -> Iterator[ImageRef]:
    """All files whose URL matches a glob (`*` in a folder, `**/` across folders), in no order.

    Raises:
        UsageError: There is no such bucket.
        RunError: It cannot be listed.
    """
    return itertools.chain.from_iterable(_where(pattern).list_glob(pattern))


def open_file(path: str) -> BinaryIO:
    """The file opened for reading, seekable; of a remote one each read is one request."""
    file: BinaryIO = _where(path).open_file(path)
    return file


def open_stream(path: str) -> BinaryIO:
    """The file opened for reading from front to back, seekable; of a remote one `STREAM_BYTES` are a request."""
    file = open_file(path)
    return io.BufferedReader(file, STREAM_BYTES) if isinstance(file, io.RawIOBase) else file


def download(path: str, local_path: str) -> None:
    """Copy a file to a local disk, a part at a time; FileNotFoundError where there is none."""
    with open_stream(path) as source, open(local_path, "wb") as target:
        shutil.copyfileobj(source, target, STREAM_BYTES)


def download_tree(url: str, folder: str) -> int:
    """Copy all files below a URL into a new local directory; returns how many, 0 where there is no such directory."""
    names = tree(url)
    for name in names:
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        download(f"{url}/{name}", path)
    return len(names)


def tree(url: str) -> dict[str, ImageRef]:
    """All files below a URL by their relative names, sorted; none where there is no such directory."""
    try:
        refs = {ref.uri.removeprefix(f"{url}/"): ref for ref in list_tree(f"{url}/")}
    except UsageError:
        # Stores that have directories say so where there is none.
        return {}
    # Consoles make an object for a folder, whose name ends like one.
    return {name: refs[name] for name in sorted(refs) if name and not name.endswith("/")}


def read_tail(path: str, n_bytes: int) -> bytes:
    """The last bytes of a file, or all of a smaller one, in one request."""
    content: bytes = _where(path).read_tail(path, n_bytes)
    return content


def read(path: str) -> bytes:
    """A file's content; FileNotFoundError where there is none."""
    content = read_versioned(path)[0]
    if content is None:
        raise FileNotFoundError(path)
    return content


def exists(path: str) -> bool:
    """Whether there is a file at `path`."""
    return bool(_where(path).exists(path))


def list_names(directory: str, prefix: str = "") -> list[str]:
    """Names in `directory` that start with `prefix`, sorted; none where there is no such directory."""
    names: list[str] = _where(directory).list_names(directory, prefix)
    return names


def check_writable(directory: str) -> None:
    """Raise RunError where a store's bucket is not there or takes nothing, as far as it tells without a write."""
    if is_remote(directory):
        _where(directory).check_writable(directory)


def create(path: str) -> None:
    """Make an empty file, and its directories; nothing happens where it is there already."""
    _where(path).create(path)


def delete(path: str) -> None:
    """Remove a file; nothing happens where there is none."""
    _where(path).delete(path)


def delete_directory(path: str) -> None:
    """Remove a directory and all below it; nothing happens where there is none."""
    _where(path).delete_directory(path)


def commit(local_path: str, destination: str) -> bool:
    """Make `destination` appear at once, whole, with the content of `local_path`.

    May run twice, in two processes at once: it is one and the same file that both wanted to write.

    Returns:
        False where `destination` was there already; it is left as it was.
    """
    return bool(_where(destination).commit(local_path, destination))


def read_versioned(path: str) -> tuple[bytes | None, str | None]:
    """A small file's content and a token for `swap`; (None, None) where there is no such file."""
    content, token = _where(path).read_versioned(path)
    return content, token


def swap(path: str, content: bytes, token: str | None) -> bool:
    """Replace a small file, if it is still the one that `read_versioned` gave `token` for.

    Returns:
        False where another process replaced it in between; it is left as it was.
    """
    return bool(_where(path).swap(path, content, token))

"""Reading and committing files; every other module names a path and knows no more of where it lies."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

from transforms.errors import BadImage
from transforms.ordered import ordered_map
from transforms.records import ImageRef

READ_THREADS = 4
READ_AHEAD_IMAGES = 16


@dataclass(frozen=True, eq=False)
class Fetched:
    """One image's bytes, or why there are none.

    Attributes:
        ref: The image as listed.
        content: The bytes, or the reason.
        seconds: How long the read took.
    """

    ref: ImageRef
    content: bytes | BadImage
    seconds: float


def version_of(status: os.stat_result) -> str:
    """A local file's version: its size in bytes and its modification time in nanoseconds."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def reference(uri: str) -> ImageRef:
    """The image at `uri` as it is now; size and version are None where there is no such file."""
    try:
        status = os.stat(uri)
    except OSError:
        return ImageRef(uri, None, None)
    return ImageRef(uri, status.st_size, version_of(status))


def fetch_many(refs: Iterable[ImageRef], max_bytes: int) -> Iterator[Fetched]:
    """Each image's bytes in the order of `refs`, read a few ahead; an image over `max_bytes` is not read."""
    return ordered_map(_readers(), lambda ref: fetch(ref, max_bytes), refs, READ_AHEAD_IMAGES)


def fetch(ref: ImageRef, max_bytes: int) -> Fetched:
    """One image's bytes; a file that is not as it was listed is refused."""
    started = time.perf_counter()
    content: bytes | BadImage
    try:
        content = _read_as_listed(ref, max_bytes)
    except BadImage as reason:
        content = reason
    return Fetched(ref, content, time.perf_counter() - started)


def _read_as_listed(ref: ImageRef, max_bytes: int) -> bytes:
    if ref.size is not None and ref.size > max_bytes:
        raise BadImage("too_many_bytes", f"{ref.size:,} bytes; the limit is {max_bytes:,}")
    try:
        with open(ref.uri, "rb") as file:
            status = os.fstat(file.fileno())
            if ref.version is not None and version_of(status) != ref.version:
                raise BadImage("changed", "changed since listing; run again to do it as it is now")
            content = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise BadImage("not_found", "no such file") from None
    except PermissionError:
        raise BadImage("permission_denied", "no permission to read it") from None
    except IsADirectoryError:
        raise BadImage("not_a_file", "it is a directory") from None
    except OSError as error:
        raise BadImage("unreadable", error.strerror or type(error).__name__) from error
    if len(content) > max_bytes:
        raise BadImage("too_many_bytes", f"more than the limit of {max_bytes:,} bytes")
    if ref.size is not None and len(content) != ref.size:
        raise BadImage("changed", f"{len(content):,} bytes came, {ref.size:,} were listed")
    return content


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READ_THREADS, thread_name_prefix="fetch")


def open_file(path: str) -> BinaryIO:
    """The file opened for reading, seekable."""
    return open(path, "rb")


def exists(path: str) -> bool:
    """Whether there is a file at `path`."""
    return os.path.isfile(path)


def list_names(directory: str, prefix: str = "") -> list[str]:
    """Names in `directory` that start with `prefix`, sorted; none where there is no such directory."""
    try:
        return sorted(name for name in os.listdir(directory) if name.startswith(prefix))
    except FileNotFoundError:
        return []


def delete(path: str) -> None:
    """Remove a file or a directory and all below it; nothing happens where there is none."""
    if os.path.isdir(path):
        shutil.rmtree(path)
        return
    try:
        os.remove(path)
    except FileNotFoundError:
        return


def commit(local_path: str, destination: str) -> bool:
    """Make `destination` appear at once, whole, with the content of `local_path`.

    May run twice, in two processes at once: the first wins, and it is one and the same file that both
    wanted to write.

    Returns:
        False where `destination` was there already; it is left as it was.
    """
    directory, name = os.path.split(destination)
    os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, f".{name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(local_path, "rb") as source, open(temporary, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        os.link(temporary, destination)
    except FileExistsError:
        return False
    finally:
        delete(temporary)
    return True


def read_versioned(path: str) -> tuple[bytes | None, str | None]:
    """A small file's content and a token for `swap`; (None, None) where there is no such file."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return None, None
    return content, hashlib.sha256(content).hexdigest()


def swap(path: str, content: bytes, token: str | None) -> bool:
    """Replace a small file, if it is still the one that `read_versioned` gave `token` for.

    Returns:
        False where another process replaced it in between; it is left as it was.
    """
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if read_versioned(path)[1] != token:
            return False
        temporary = os.path.join(directory, f".{name}.{uuid.uuid4().hex[:8]}")
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        return True
    finally:
        os.close(lock)

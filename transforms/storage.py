"""Reading and committing files; every other module names a path and knows no more of where it lies."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import BinaryIO

from transforms.errors import BadImage
from transforms.ordered import in_chunks, ordered_map
from transforms.records import ImageRef

READ_THREADS = 4
READ_AHEAD_IMAGES = 16
READ_TOGETHER = 8
"""To hand a task to another thread and to wait for it takes longer than to read a small file."""

ATTEMPTS = 3
FIRST_WAIT_SECONDS = 0.2
PASSING_ERROR = "unreadable"
"""What a disk or a network file system says when it may do better a moment later."""


@dataclass(frozen=True, eq=False)
class Fetched:
    """One image's bytes, or why there are none.

    Attributes:
        ref: The image as listed.
        content: The bytes, or the reason.
        seconds: How long the reads took, waits included.
        attempts: How often it was tried.
    """

    ref: ImageRef
    content: bytes | BadImage
    seconds: float
    attempts: int


def version_of(status: os.stat_result) -> str:
    """A local file's version: its size in bytes and its modification time in nanoseconds."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def reference(uri: str) -> ImageRef:
    """The image at `uri` as it is now; size and version are None where there is no such file."""
    try:
        status = os.stat(uri)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return ImageRef(uri, None, None)
    return ImageRef(uri, status.st_size, version_of(status))


def fetch_many(refs: Iterable[ImageRef], max_bytes: int) -> Iterator[Fetched]:
    """Each image's bytes in the order of `refs`, read a few ahead; an image over `max_bytes` is not read."""

    def fetch_chunk(chunk: list[ImageRef]) -> list[Fetched]:
        return [fetch(ref, max_bytes) for ref in chunk]

    ahead = READ_AHEAD_IMAGES // READ_TOGETHER
    return chain.from_iterable(ordered_map(_readers(), fetch_chunk, in_chunks(refs, READ_TOGETHER), ahead))


def fetch(ref: ImageRef, max_bytes: int) -> Fetched:
    """One image's bytes; a file that is not as it was listed is refused, one that cannot be read is tried again."""
    started = time.perf_counter()
    attempts = 1
    content = _content_or_reason(ref, max_bytes)
    while isinstance(content, BadImage) and content.error == PASSING_ERROR and attempts < ATTEMPTS:
        time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempts - 1))
        attempts += 1
        content = _content_or_reason(ref, max_bytes)
    return Fetched(ref, content, time.perf_counter() - started, attempts)


def _content_or_reason(ref: ImageRef, max_bytes: int) -> bytes | BadImage:
    try:
        return _read_as_listed(ref, max_bytes)
    except BadImage as reason:
        return reason


def _read_as_listed(ref: ImageRef, max_bytes: int) -> bytes:
    if ref.size is not None and ref.size > max_bytes:
        raise BadImage("too_many_bytes", f"{ref.size:,} bytes; the limit is {max_bytes:,}")
    try:
        with open(ref.uri, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadImage("not_a_file", "it is a pipe or a device")
            if ref.version is not None and version_of(status) != ref.version:
                raise BadImage("changed", "changed since listing; run again to do it as it is now")
            content = file.read(max_bytes + 1)
    except (FileNotFoundError, ValueError):
        raise BadImage("not_found", "no such file") from None
    except PermissionError:
        raise BadImage("permission_denied", "no permission to read it") from None
    except IsADirectoryError:
        raise BadImage("not_a_file", "it is a directory") from None
    except OSError as error:
        raise BadImage(PASSING_ERROR, error.strerror or type(error).__name__) from error
    if len(content) > max_bytes:
        raise BadImage("too_many_bytes", f"more than the limit of {max_bytes:,} bytes")
    if ref.size is not None and len(content) != ref.size:
        raise BadImage("changed", f"{len(content):,} bytes came, {ref.size:,} were listed")
    return content


def _without_waiting(path: str, flags: int) -> int:
    # A named pipe would be waited for.
    return os.open(path, flags | os.O_NONBLOCK)


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


def create(path: str) -> None:
    """Make an empty file, and its directories; nothing happens where it is there already."""
    while True:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))
        except FileNotFoundError:
            # Another process removed the directory in between.
            continue
        return


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
    """Make `destination` appear at once, whole, with the content of `local_path`, and last through a power cut.

    May run twice, in two processes at once: the first wins, and it is one and the same file that both
    wanted to write.

    Returns:
        False where `destination` was there already; it is left as it was.
    """
    directory, name = os.path.split(destination)
    os.makedirs(directory, exist_ok=True)
    while True:
        temporary = os.path.join(directory, f".{name}.{uuid.uuid4().hex[:8]}")
        try:
            _copy_to_disk(local_path, temporary)
            os.link(temporary, destination)
        except FileExistsError:
            return False
        except FileNotFoundError:
            # Another process that is done with this unit took the temporary file for a dead one's.
            if exists(destination):
                return False
        else:
            _sync_directory(directory)
            return True
        finally:
            delete(temporary)


def _copy_to_disk(source_path: str, target_path: str) -> None:
    with open(source_path, "rb") as source, open(target_path, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())


def _sync_directory(directory: str) -> None:
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


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

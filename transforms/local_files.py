"""Files on local disks: read as they are, committed once, replaced on condition."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import uuid
from typing import BinaryIO


def version_of(status: os.stat_result) -> str:
    """A local file's version: its size in bytes and its modification time in nanoseconds."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def on_disk(path: str) -> str | bytes:
    r"""The path of a file as the disk knows it; bytes of a name that are not UTF-8 are listed spelt out, as `\xe9`."""
    if "\\x" not in path or os.path.lexists(path):
        return path
    return re.sub(rb"\\x([89a-f][0-9a-f])", lambda spelt: bytes.fromhex(spelt[1].decode()), os.fsencode(path))


def info(path: str) -> tuple[int | None, str | None]:
    """Size in bytes and version; (None, None) where there is no such file."""
    try:
        status = os.stat(on_disk(path))
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None, None
    return status.st_size, version_of(status)


def open_file(path: str) -> BinaryIO:
    """The file opened for reading, seekable."""
    return open(path, "rb")


def read_tail(path: str, n_bytes: int) -> bytes:
    """The last bytes of a file, or all of a smaller one."""
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - n_bytes))
        return file.read()


def exists(path: str) -> bool:
    """Whether there is a file at `path`."""
    return os.path.isfile(path)


def list_names(directory: str, prefix: str) -> list[str]:
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
    """Remove a file; nothing happens where there is none."""
    try:
        os.remove(path)
    except FileNotFoundError:
        return


def delete_directory(path: str) -> None:
    """Remove a directory and all below it; nothing happens where there is none."""
    if os.path.isdir(path):
        shutil.rmtree(path)


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
            continue
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
    except (FileNotFoundError, NotADirectoryError):
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

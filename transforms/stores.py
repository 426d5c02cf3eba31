"""Stores behind URLs, through fsspec: what is asked of each, and which is for which scheme."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import importlib
import re
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
from fsspec.asyn import get_loop
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.utils import glob_translate

from transforms.errors import UsageError
from transforms.patience import Patience
from transforms.records import ImageRef

Take = Callable[[list[ImageRef]], Awaitable[None]]
"""What takes images a page at a time, and is waited for before the next."""

EXTRAS = {"s3": "s3", "s3a": "s3", "az": "azure", "abfs": "azure", "abfss": "azure", "adl": "azure"}
"""Our extra that brings what a scheme needs."""

FOLDERS_AT_ONCE = 64

# What file systems call that which changes when a file does, the best first.
_VERSION_KEYS = (
    *("generation", "ETag", "etag", "mtime"),
    *("LastModified", "Last-Modified", "last_modified", "modified"),
)

# Stores that are asked by other means than fsspec's own methods, each a module and its class.
_OWN_STORES = {
    **dict.fromkeys(("gs", "gcs"), ("transforms.gcs", "GcsStore")),
    **dict.fromkeys(("s3", "s3a"), ("transforms.s3", "S3Store")),
    **dict.fromkeys(("http", "https"), ("transforms.web", "WebStore")),
}


@dataclass(frozen=True, eq=False)
class Answer:
    """What a read gave.

    Attributes:
        content: The bytes.
        version: The file's version when they were read; None where the store does not say.
        as_stored: False where the store unpacked them on the way, so that the listed size is not theirs.
    """

    content: bytes
    version: str | None = None
    as_stored: bool = True


class Store:
    """What any fsspec file system can do, one request or a few a method, each asked once.

    Without conditional writes: who commits last wins.
    """

    def __init__(self, filesystem: Any) -> None:
        self.patience: Patience[Any] = Patience()
        self._fs = filesystem

    async def info(self, url: str) -> tuple[int | None, str | None]:
        """Size in bytes and version."""
        facts = await self._fs._info(url)
        if facts.get("type") == "directory":
            raise IsADirectoryError(url)
        return facts.get("size"), version_in(facts)

    async def read(self, url: str, start: int | None = None, end: int | None = None) -> Answer:
        """The bytes from `start` to before `end`, or all of them."""
        content = await self._fs._cat_file(url, start=start, end=end)
        return Answer(content)

    async def names(self, directory: str, prefix: str) -> list[str]:
        """Names of the files and folders in a directory that begin with `prefix`."""
        paths = await self._fs._ls(directory, detail=False)
        names = (path.rstrip("/").rsplit("/", 1)[-1] for path in paths)
        return [name for name in names if name.startswith(prefix)]

    async def walk(self, directory: str, take: Take) -> None:
        """Give `take` all files whose URL begins with `directory`, in no order; sends its own requests patiently.

        Raises:
            GaveUp: A request failed for good.
        """
        folders: list[str] = [directory]
        while folders:
            found = await asyncio.gather(*(self._folder(each) for each in folders[:FOLDERS_AT_ONCE]))
            folders = folders[FOLDERS_AT_ONCE:]
            for subfolders, files in found:
                folders += subfolders
                await take(files)

    async def _folder(self, directory: str) -> tuple[list[str], list[ImageRef]]:
        entries, _ = await self.patience.call(lambda: self._fs._ls(directory, detail=True))
        folders, files = [], []
        for entry in entries:
            url = self._fs.unstrip_protocol(entry["name"])
            if entry["type"] != "directory":
                files.append(ImageRef(url, entry.get("size"), version_in(entry)))
            elif url.rstrip("/") != directory.rstrip("/"):
                folders.append(url)
        return folders, files

    async def check_writable(self, directory: str) -> None:
        """Raise as a write would, as far as the store tells without one."""

    async def regions(self, url: str) -> tuple[str, ...]:
        """Where the bucket lies; none where the store does not tell."""
        return ()

    async def put(self, local_path: str, url: str) -> bool:
        """Upload a file; False where there was one already."""
        await self._fs._put_file(local_path, url)
        return True

    async def create(self, url: str) -> None:
        """Make an empty file."""
        await self._fs._pipe_file(url, b"")

    async def read_versioned(self, url: str) -> tuple[bytes, str]:
        """A file's content and a token for `swap`."""
        content = (await self.read(url)).content
        return content, hashlib.sha256(content).hexdigest()

    async def swap(self, url: str, content: bytes, token: str | None) -> bool:
        """Replace a file; False where it is not the one of the token."""
        try:
            current = (await self.read_versioned(url))[1]
        except FileNotFoundError:
            current = None
        if current != token:
            return False
        await self._fs._pipe_file(url, content)
        return True

    async def delete(self, url: str) -> None:
        """Remove a file."""
        await self._fs._rm_file(url)

    async def find(self, directory: str) -> list[str]:
        """URLs of all files below a directory."""
        return [self._fs.unstrip_protocol(path) for path in await self._fs._find(directory)]


def version_in(facts: Mapping[str, Any]) -> str | None:
    """The version among a file's facts, as fsspec gives them; None where there is none."""
    for key in _VERSION_KEYS:
        if facts.get(key) is not None:
            return str(facts[key]).strip('"')
    return None


def byte_range(start: int, end: int | None) -> str:
    """The HTTP header Range for the bytes from `start` to before `end`; for the last ones where `start` is negative."""
    if start < 0:
        return f"bytes={start}"
    return f"bytes={start}-{'' if end is None else end - 1}"


_stores: dict[str, Store] = {}
_stores_lock = threading.Lock()


def store_of(url: str) -> Store:
    """This process's store for the URL's scheme.

    Raises:
        UsageError: No file system is installed for it.
    """
    scheme = url.split("://", 1)[0]
    with _stores_lock:
        if scheme not in _stores:
            _stores[scheme] = _open_store(scheme)
            # A client's modules are no garbage, and looking through them takes a third of a listing's time.
            gc.freeze()
        return _stores[scheme]


def _open_store(scheme: str) -> Store:
    try:
        if scheme in _OWN_STORES:
            module, name = _OWN_STORES[scheme]
            own: Store = getattr(importlib.import_module(module), name)()
            return own
        filesystem = fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise UsageError(
            f"{scheme}:// needs another package: pip install 'pixelbeam[{EXTRAS.get(scheme, scheme)}]'"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{scheme}:// is no scheme that fsspec knows; give a local path or gs://..."
        ) from error
    return Store(
        filesystem if filesystem.async_impl else AsyncFileSystemWrapper(filesystem, asynchronous=False)
    )


def loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process on which all requests are sent, in a thread of its own."""
    running: asyncio.AbstractEventLoop = get_loop()
    return running


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a URL matches a glob; hidden files and folders only where the glob names them."""
    scheme, _, rest = pattern.partition("://")
    regex = re.compile(glob_translate(rest))
    shown = "/." in rest

    def matches(url: str) -> bool:
        path = url.split("://", 1)[1]
        return url.startswith(scheme) and regex.match(path) is not None and (shown or "/." not in path)

    return matches

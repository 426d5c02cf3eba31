"""Files behind a URL, through fsspec: each request is sent on one event loop a process, with patience."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import io
import os
import queue
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import get_loop
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.utils import glob_translate

from transforms.errors import RunError, UsageError
from transforms.ordered import ordered_results
from transforms.patience import GaveUp, Patience, ShortRead, is_refusal
from transforms.records import ImageRef

Result = TypeVar("Result")

Take = Callable[[list[ImageRef]], Awaitable[None]]
"""What takes images a page at a time, and is waited for before the next."""

EXTRAS = {"s3": "s3", "s3a": "s3", "az": "azure", "abfs": "azure", "abfss": "azure", "adl": "azure"}
"""Our extra that brings what a scheme needs."""

FOLDERS_AT_ONCE = 64
REFERENCES_AHEAD = 256
PAGES_AHEAD = 64
"""Of a listing that are read and not yet taken."""
READ_WHOLE_BYTES = 1 << 18
"""A file of so many, which take no longer than one more request; stores give a hash of whole files only."""

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


def begin(url: str, request: Callable[[Store], Awaitable[Result]]) -> Future[tuple[Result, int]]:
    """A request sent off on the process's event loop: its result and number of attempts, or GaveUp."""
    store = store_of(url)
    return asyncio.run_coroutine_threadsafe(store.patience.call(partial(request, store)), loop())


def _ask(url: str, request: Callable[[Store], Awaitable[Result]]) -> Result:
    """A request's result.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: It is a directory or a bucket.
        RunError: It failed for good.
    """
    return _result(url, begin(url, request))


def _result(url: str, begun: Future[tuple[Result, int]]) -> Result:
    try:
        return begun.result()[0]
    except GaveUp as failed:
        raise _final(url, failed) from failed


def _final(url: str, failed: GaveUp) -> Exception:
    """What a request that failed for good is raised as."""
    if isinstance(failed.error, (FileNotFoundError, IsADirectoryError)):
        return failed.error
    return RunError(f"{url}: {reason(failed)}")


def reason(failed: GaveUp) -> str:
    """Why a request failed, and what to do, in one line."""
    if is_refusal(failed.error):
        return "no permission; check the credentials and what they may do with the bucket"
    text = str(failed.error).strip() or type(failed.error).__name__
    return f"the store failed ({failed.attempts} attempts; {text.splitlines()[0][:200]}); run the same command again"


def open_file(url: str) -> io.RawIOBase | io.BytesIO:
    """The file opened for reading, seekable; a small one is read at once, of another each read is one request."""
    size, _ = _ask(url, lambda store: store.info(url))
    if size is not None and size <= READ_WHOLE_BYTES:
        return io.BytesIO(_ask(url, lambda store: store.read(url)).content)
    return _RemoteFile(url, size or 0)


def read_tail(url: str, n_bytes: int) -> bytes:
    """The last bytes of a file, or all of a smaller one, in one request."""
    return _ask(url, lambda store: store.read(url, -n_bytes)).content


def references(urls: Iterable[str]) -> Iterator[ImageRef]:
    """The image at each URL as it is now, in order, many asked for at a time."""

    def begin_info(url: str) -> Future[ImageRef]:
        return asyncio.run_coroutine_threadsafe(_reference(url), loop())

    return ordered_results(begin_info, urls, lambda _: 1, REFERENCES_AHEAD)


async def _reference(url: str) -> ImageRef:
    store = store_of(url)
    try:
        facts, _ = await store.patience.call(lambda: store.info(url))
    except GaveUp:
        return ImageRef(url, None, None)
    return ImageRef(url, *facts)


def info(url: str) -> tuple[int | None, str | None]:
    """Size and version of a file; (None, None) where there is none. RunError where that cannot be told."""
    try:
        return _ask(url, lambda store: store.info(url))
    except (FileNotFoundError, IsADirectoryError):
        return None, None
    except RunError:
        # Who may see one folder of a bucket is refused what might be a file beside it.
        if any(list_tree(f"{url}/")):
            return None, None
        raise


def list_tree(directory: str) -> Iterator[list[ImageRef]]:
    """All files whose URL begins with `directory`, in lists, in no order; a few lists are read ahead.

    Raises:
        UsageError: There is no such bucket.
        RunError: The listing failed for good.
    """
    store = store_of(directory)
    pages: queue.Queue[list[ImageRef] | None] = queue.Queue()

    async def take(refs: list[ImageRef]) -> None:
        while pages.qsize() >= PAGES_AHEAD:
            await asyncio.sleep(0.01)
        pages.put(refs)

    async def list_all() -> None:
        try:
            await store.walk(directory, take)
        finally:
            pages.put(None)

    listing = asyncio.run_coroutine_threadsafe(list_all(), loop())
    try:
        while (page := pages.get()) is not None:
            yield page
        listing.result()
    except GaveUp as failed:
        if isinstance(failed.error, FileNotFoundError):
            raise UsageError(f"there is no {directory}; check --input") from failed
        raise _final(directory, failed) from failed
    finally:
        listing.cancel()


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a URL matches a glob; hidden files and folders only where the glob names them."""
    scheme, _, rest = pattern.partition("://")
    regex = re.compile(glob_translate(rest))
    shown = "/." in rest

    def matches(url: str) -> bool:
        path = url.split("://", 1)[1]
        return url.startswith(scheme) and regex.match(path) is not None and (shown or "/." not in path)

    return matches


def exists(url: str) -> bool:
    """Whether there is a file."""
    try:
        _ask(url, lambda store: store.info(url))
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True


def list_names(directory: str, prefix: str) -> list[str]:
    """Names in a directory, sorted; none where there is no such directory."""
    try:
        return sorted(_ask(directory, lambda store: store.names(directory, prefix)))
    except FileNotFoundError:
        return []


def create(url: str) -> None:
    """Make an empty file."""
    _ask(url, lambda store: store.create(url))


def delete(url: str) -> None:
    """Remove a file; nothing happens where there is none."""
    _ask(url, partial(_delete, url))


def delete_directory(directory: str) -> None:
    """Remove all files below a directory, many at a time."""
    try:
        urls = _ask(directory, lambda store: store.find(directory))
    except FileNotFoundError:
        return
    deleted = [begin(url, partial(_delete, url)) for url in urls]
    for future in deleted:
        _result(directory, future)


async def _delete(url: str, store: Store) -> None:
    try:
        await store.delete(url)
    except FileNotFoundError:
        return


def check_writable(directory: str) -> None:
    """Raise RunError where the bucket is not there or takes nothing, as far as the store tells without a write."""
    _found(directory, lambda store: store.check_writable(directory))


def commit(local_path: str, url: str) -> bool:
    """Make the file appear at once, whole; False where there was one already."""
    return _found(url, lambda store: store.put(local_path, url))


def read_versioned(url: str) -> tuple[bytes | None, str | None]:
    """A small file's content and a token for `swap`; (None, None) where there is no such file."""
    try:
        return _ask(url, lambda store: store.read_versioned(url))
    except FileNotFoundError:
        return None, None


def swap(url: str, content: bytes, token: str | None) -> bool:
    """Replace a small file if it is still the token's; False where another process was faster."""
    return _found(url, lambda store: store.swap(url, content, token))


def _found(url: str, request: Callable[[Store], Awaitable[Result]]) -> Result:
    """`_ask` for a write, for which only the bucket can be missing."""
    try:
        return _ask(url, request)
    except FileNotFoundError:
        raise RunError(
            f"cannot write {url}: there is no such bucket; make it, or name another output"
        ) from None


class _RemoteFile(io.RawIOBase):
    """Reads ranges of a file that does not change."""

    def __init__(self, url: str, size: int) -> None:
        super().__init__()
        self.name = url
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        start, end = self._position, min(self._size, self._position + len(buffer))
        if start >= end:
            return 0
        content = _ask(self.name, lambda store: _whole_range(store, self.name, start, end))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


async def _whole_range(store: Store, url: str, start: int, end: int) -> bytes:
    content = (await store.read(url, start, end)).content
    if len(content) != end - start:
        raise ShortRead(f"{len(content):,} bytes came of {end - start:,}")
    return content

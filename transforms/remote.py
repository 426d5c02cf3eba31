"""Files behind a URL: each request is sent on one event loop a process, with patience."""

from __future__ import annotations

import asyncio
import io
import os
import queue
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from transforms.errors import RunError, UsageError
from transforms.ordered import ordered_results
from transforms.patience import GaveUp, ShortRead, is_refusal
from transforms.records import ImageRef
from transforms.stores import Store, loop, matcher, store_of

Result = TypeVar("Result")

REFERENCES_AHEAD = 256
PAGES_AHEAD = 64
"""Of a listing that are read and not yet taken."""
READ_WHOLE_BYTES = 1 << 18
"""A file of so many, which take no longer than one more request; stores give a hash of whole files only."""


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


def list_glob(pattern: str) -> Iterator[list[ImageRef]]:
    """All files whose URL matches a glob, in lists, in no order; raises like `list_tree`."""
    matches = matcher(pattern)
    for page in list_tree(re.split(r"[*?\[]", pattern, maxsplit=1)[0]):
        yield [ref for ref in page if matches(ref.uri)]


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


def regions(url: str) -> tuple[str, ...]:
    """Where a bucket lies; none where its store does not tell.

    Raises:
        UsageError: There is no such bucket.
        RunError: That may not be asked.
    """
    try:
        return _ask(url, lambda store: store.regions(url))
    except FileNotFoundError:
        raise UsageError(f"there is no bucket {url}; make it, or name another") from None


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
        raise RunError(f"cannot write {url}: there is no such bucket; make it, or name another") from None


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

"""Many images' bytes, read ahead and given in order; what cannot be read is a reason, never an exception."""

from __future__ import annotations

import itertools
import os
import stat
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial

from transforms import containers
from transforms.containers import Layout
from transforms.errors import BadImage
from transforms.local_files import on_disk, version_of
from transforms.ordered import drawn_ahead, in_chunks, ordered_results
from transforms.paths import is_remote
from transforms.records import ImageRef
from transforms.storage import open_stream, reference

READ_THREADS = 4
READ_TOGETHER = 8
"""To hand a task to another thread and to wait for it takes longer than to read a small file."""
READ_AHEAD_IMAGES = 16
READ_AHEAD_REMOTE_IMAGES = 256
"""A few times the requests in flight, so that one which is sent again does not hold up the others."""
READ_AHEAD_BYTES = 128 << 20
"""Of one unit, by the listed sizes; one image may go beyond."""

ATTEMPTS = 3
FIRST_WAIT_SECONDS = 0.2
PASSING_ERROR = "unreadable"
"""What a store, a disk or a network file system says when it may do better a moment later."""
REFUSED = "permission_denied"

CHANGED = BadImage("changed", "changed since listing; run again to do it as it is now")


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


def fetch_many(refs: Iterable[ImageRef], max_bytes: int) -> Iterator[Fetched]:
    """Each image's bytes in the order of `refs`, read ahead; an image over `max_bytes` is not read."""
    for (container, remote), run in itertools.groupby(refs, key=_where):
        if container is not None:
            yield from drawn_ahead(_readers(), fetch_members(container, list(run)), READ_TOGETHER)
        else:
            yield from (_fetch_remote if remote else _fetch_local)(run, max_bytes)


def _where(ref: ImageRef) -> tuple[str | None, bool]:
    return (ref.place.container if ref.place else None), is_remote(ref.uri)


def fetch(ref: ImageRef, max_bytes: int) -> Fetched:
    """One image's bytes; a file that is not as it was listed is refused, one that cannot be read is tried again."""
    if ref.place:
        (fetched,) = fetch_members(ref.place.container, [ref])
        return fetched
    if is_remote(ref.uri):
        return _begin_remote(ref, max_bytes).result()
    started = time.perf_counter()
    attempts = 1
    content = _content_or_reason(ref, max_bytes)
    while isinstance(content, BadImage) and content.error == PASSING_ERROR and attempts < ATTEMPTS:
        time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempts - 1))
        attempts += 1
        content = _content_or_reason(ref, max_bytes)
    return Fetched(ref, content, time.perf_counter() - started, attempts)


def _fetch_local(refs: Iterable[ImageRef], max_bytes: int) -> Iterator[Fetched]:
    def begin(chunk: list[ImageRef]) -> Future[list[Fetched]]:
        return _readers().submit(lambda: [fetch(ref, max_bytes) for ref in chunk])

    def weigh(chunk: list[ImageRef]) -> int:
        return sum(_weigh(ref, READ_AHEAD_IMAGES) for ref in chunk)

    for chunk in ordered_results(begin, in_chunks(refs, READ_TOGETHER), weigh, READ_AHEAD_BYTES):
        yield from chunk


def _fetch_remote(refs: Iterable[ImageRef], max_bytes: int) -> Iterator[Fetched]:
    begin = partial(_begin_remote, max_bytes=max_bytes)
    return ordered_results(begin, refs, lambda ref: _weigh(ref, READ_AHEAD_REMOTE_IMAGES), READ_AHEAD_BYTES)


def fetch_members(container: str, refs: list[ImageRef]) -> Iterator[Fetched]:
    """The images of one container, in the order in which they lie; one that fails half-way is opened again.

    Raises:
        RunError: The store failed for good.
    """
    attempts = 1
    done = 0
    while done < len(refs):
        started = time.perf_counter()
        try:
            for content in _members(container, refs[done:]):
                yield Fetched(refs[done], content, time.perf_counter() - started, attempts)
                done, started = done + 1, time.perf_counter()
        except OSError as error:
            reason = _reason(error)
            if reason.error == PASSING_ERROR and attempts < ATTEMPTS:
                time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempts - 1))
                attempts += 1
                continue
            yield from (Fetched(ref, reason, 0.0, attempts) for ref in refs[done:])
            return


def _members(container: str, refs: list[ImageRef]) -> Iterator[bytes | BadImage]:
    current = reference(container)
    layout = Layout(refs[0].place.image_column if refs[0].place else None)
    offsets = [ref.place.offset for ref in refs if ref.place]
    with open_stream(container) as file:
        for ref, content in zip(refs, containers.read(file, container, layout, offsets), strict=True):
            yield content if ref.version == current.version else CHANGED


def _begin_remote(ref: ImageRef, max_bytes: int) -> Future[Fetched]:
    # The clients of stores take a second to import.
    from transforms.remote_images import begin

    return begin(ref, max_bytes)


def _weigh(ref: ImageRef, most_images: int) -> int:
    """Its bytes, or as much more as lets `most_images` be as heavy as `READ_AHEAD_BYTES`."""
    return max(ref.size or 0, READ_AHEAD_BYTES // most_images)


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READ_THREADS, thread_name_prefix="fetch")


def _content_or_reason(ref: ImageRef, max_bytes: int) -> bytes | BadImage:
    try:
        return _read_as_listed(ref, max_bytes)
    except BadImage as reason:
        return reason


def _read_as_listed(ref: ImageRef, max_bytes: int) -> bytes:
    check_size(ref, max_bytes)
    try:
        with open(on_disk(ref.uri), "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadImage("not_a_file", "it is a pipe or a device")
            if ref.version is not None and version_of(status) != ref.version:
                raise CHANGED
            content = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise _reason(error) from error
    if len(content) > max_bytes:
        raise BadImage("too_many_bytes", f"more than the limit of {max_bytes:,} bytes")
    if ref.size is not None and len(content) != ref.size:
        raise BadImage("changed", f"{len(content):,} bytes came, {ref.size:,} were listed")
    return content


def _reason(error: OSError | ValueError) -> BadImage:
    if isinstance(error, (FileNotFoundError, ValueError)):
        return BadImage("not_found", "no such file")
    if isinstance(error, PermissionError):
        return BadImage(REFUSED, "no permission to read it")
    if isinstance(error, IsADirectoryError):
        return BadImage("not_a_file", "it is a directory")
    return BadImage(PASSING_ERROR, error.strerror or type(error).__name__)


def check_size(ref: ImageRef, max_bytes: int) -> None:
    """Raise BadImage for an image that was listed with more than `max_bytes`."""
    if ref.size is not None and ref.size > max_bytes:
        raise BadImage("too_many_bytes", f"{ref.size:,} bytes; the limit is {max_bytes:,}")


def _without_waiting(path: str, flags: int) -> int:
    # A named pipe would be waited for.
    return os.open(path, flags | os.O_NONBLOCK)

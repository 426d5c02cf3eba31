"""Small pictures of images, as data URIs; what cannot be had in time is left out."""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pyarrow as pa

from pipelines.report.rows import Image
from transforms import index
from transforms.errors import BadImage, RunError, UsageError
from transforms.fetching import Fetched, fetch_many, fetch_members
from transforms.images import small_copy
from transforms.index import Index
from transforms.ordered import ordered_map
from transforms.paths import is_remote
from transforms.records import ImageRef

SIDE = 88
"""Pixels; about 2 kB each."""
QUALITY = 55
MOST = 1_200
"""On a page, which may have 8 MB."""
SECONDS = 15.0
"""For all; a store that is down would be waited for ten minutes."""
MAX_BYTES = 20_000_000
AHEAD = 16
INDEX_GROUPS_AT_ONCE = 16

Named = tuple[str, bytes]
"""An image's uri and its bytes."""


def pictures(work: Index, wanted: Sequence[Image], on_read: Callable[[int], None]) -> dict[str, str]:
    """Pictures by uri of the wanted images, each of another uri, as far as they come in `SECONDS`.

    What is gone, has changed since it was scored or cannot be decoded has none.
    """
    made: dict[str, str] = {}
    contents = _within(SECONDS, lambda: _contents(work, wanted))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for uri, picture in ordered_map(pool, _picture, contents, AHEAD):
            if picture:
                made[uri] = picture
                on_read(len(made))
    return made


def _picture(named: Named) -> tuple[str, str | None]:
    uri, content = named
    try:
        copy = small_copy(content, SIDE)
    except BadImage:
        return uri, None
    file = BytesIO()
    copy.save(file, "WEBP", quality=QUALITY, method=2)
    return uri, f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _within(seconds: float, begin: Callable[[], Iterable[Named]]) -> Iterator[Named]:
    """What comes within so many seconds; what is still waited for then is left to a thread that ends with us."""
    came: queue.Queue[Named | None] = queue.Queue(AHEAD)
    ended = threading.Event()

    def draw() -> None:
        try:
            for each in begin():
                came.put(each)
                if ended.is_set():
                    return
        finally:
            came.put(None)

    threading.Thread(target=draw, name="pictures", daemon=True).start()
    deadline = time.monotonic() + seconds
    try:
        while (each := came.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
            yield each
    except queue.Empty:
        return
    finally:
        ended.set()


def _contents(work: Index, wanted: Sequence[Image]) -> Iterator[Named]:
    """Uri and bytes of what can still be read as it was scored; files first, in the order in which they are wanted."""
    in_containers: dict[str, list[ImageRef]] = defaultdict(list)
    alone: dict[str, list[ImageRef]] = defaultdict(list)
    for ref in _as_listed(work, wanted):
        if ref.place:
            in_containers[ref.place.container].append(ref)
        else:
            alone[ref.uri.partition("://")[0] if is_remote(ref.uri) else ""].append(ref)
    # Each kind of store by itself, since one that cannot be asked gives none of what comes after.
    for refs in alone.values():
        yield from _readable(fetch_many(refs, MAX_BYTES))
    for container, refs in in_containers.items():
        refs.sort(key=lambda ref: ref.place.offset if ref.place else 0)
        yield from _readable(fetch_members(container, refs))


def _readable(images: Iterator[Fetched]) -> Iterator[Named]:
    """Those that could be read, until the store fails for good or turns out to have no client here."""
    with contextlib.suppress(RunError, UsageError):
        for fetched in images:
            if isinstance(fetched.content, bytes):
                yield fetched.ref.uri, fetched.content


def _as_listed(work: Index, wanted: Sequence[Image]) -> list[ImageRef]:
    """The images as the index has them, without those that were listed anew since; it tells where in a container."""
    numbers = {image.unit for image in wanted}
    versions = {image.uri: image.version for image in wanted}
    paths = [
        path
        for part, path in zip(work.parts, work.part_paths(), strict=True)
        if any(part.first_unit <= number < part.first_unit + part.units for number in numbers)
    ]
    try:
        units = [unit for path in paths for unit in index.units_of(path) if unit.number in numbers]
        with ThreadPoolExecutor(INDEX_GROUPS_AT_ONCE) as pool:
            members = itertools.chain.from_iterable(pool.map(index.members, units))
            found = {
                ref.uri: ref for ref in members if ref.uri in versions and ref.version == versions[ref.uri]
            }
    except (OSError, RunError, pa.ArrowInvalid):
        # Another listing took the parts' place.
        return []
    return [found[image.uri] for image in wanted if image.uri in found]

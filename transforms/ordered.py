"""Working a few items ahead on a pool of threads, with the results in order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """`map(function, items)` on `pool`, at most `ahead` items begun and not yet taken.

    Unlike `Executor.map` it pulls from `items` only as results are taken, so memory is bounded, and the pool
    goes on with what was begun while the caller is busy with a result.
    """
    begun: deque[Future[Result]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) >= ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


def in_chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one shorter, for work of which one item is too little for a task."""
    remaining = iter(items)
    while chunk := list(itertools.islice(remaining, size)):
        yield chunk

"""Working a few items ahead, with the results in order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
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
    return ordered_results(lambda item: pool.submit(function, item), items, lambda _: 1, ahead)


def ordered_results(
    begin: Callable[[Item], Future[Result]], items: Iterable[Item], weigh: Callable[[Item], int], most: int
) -> Iterator[Result]:
    """What `begin` promises for each item, in order; once `most` of weight is begun and not yet taken, no more is."""
    begun: deque[tuple[Future[Result], int]] = deque()
    weight = 0
    try:
        for item in items:
            begun.append((begin(item), weigh(item)))
            weight += begun[-1][1]
            while begun and weight >= most:
                future, its_weight = begun.popleft()
                weight -= its_weight
                yield future.result()
        while begun:
            yield begun.popleft()[0].result()
    finally:
        for future, _ in begun:
            future.cancel()


def in_chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one shorter, for work of which one item is too little for a task."""
    remaining = iter(items)
    while chunk := list(itertools.islice(remaining, size)):
        yield chunk


def drawn_ahead(pool: Executor, items: Iterator[Item], count: int) -> Iterator[Item]:
    """The items, drawn on a thread of `pool`, `count` of them while the caller is at the `count` before."""

    def draw() -> list[Item]:
        return list(itertools.islice(items, count))

    drawing = pool.submit(draw)
    try:
        while chunk := drawing.result():
            drawing = pool.submit(draw)
            yield from chunk
    finally:
        # What draws must not be left at it by a caller who goes on with the items, or closes them.
        wait([drawing])

"""What is looked at: so much, however large the dataset is, and the same images in each variant."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")

SEED = 0
UNITS = 2_000
"""Units whose footers are read."""
ROW_GROUPS = 50
"""Of which rows are read; each may be 20 MB."""
ROWS = 10_000
FEATURE_ROWS = 4_000
"""That are compared with each other, which takes the square of them."""


def pick(items: Iterable[Item], count: int, name: Callable[[Item], str]) -> list[Item]:
    """At most `count` of the items, in their order, each as likely as any other.

    Which ones is decided by a hash of their names and `SEED`, so that it is the same for two lists that hold nearly
    the same: the same images are then looked at in each variant, and again after a dataset has grown a little.
    """
    items = list(items)
    if len(items) <= count:
        return items
    ranks = [_rank(name(item)) for item in items]
    return [
        items[place] for place in sorted(heapq.nsmallest(count, range(len(items)), key=ranks.__getitem__))
    ]


def part_of(count: int, share: float, name: str) -> int:
    """`share` of `count`, rounded up as often as its fraction says, by a hash of `name`."""
    return min(count, int(count * share + int.from_bytes(_rank(name), "big") / (1 << 64)))


def shuffled(items: Iterable[Item], name: Callable[[Item], str]) -> list[Item]:
    """The items in the order in which `pick` prefers them."""
    return sorted(items, key=lambda item: _rank(name(item)))


def _rank(name: str) -> bytes:
    return hashlib.blake2b(f"{SEED}:{name}".encode(), digest_size=8).digest()

"""Listing a bucket's keys in many ranges at once, flat or a tree, with no knowledge of the names beforehand.

A store pages through keys in their order, one page after another. The keys after a first page are cut where names
branch: for each position of the last name, the first name that differs there (one probe each, all at once) tells
whether there is anything to cut, and the characters seen so far where. Whenever workers are idle, what is left of a
range is cut again, where names were seen to branch. A cut in the wrong place costs one request.
"""

from __future__ import annotations

import asyncio
import itertools
import string
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

RANGES_AT_ONCE = 64
PROBED_POSITIONS = 48
"""Of the last name, after the prefix; names that differ only further on are paged through in order."""
CUT_POSITIONS = 3
"""Those furthest left; ranges that differ further on are small."""
PROBES_AT_ONCE = 12

_KINDS = (string.digits, string.ascii_lowercase, string.ascii_uppercase)


class Key(NamedTuple):
    """One object as it was listed.

    Attributes:
        name: Its key in the bucket.
        size: Bytes.
        version: What changes with its content.
    """

    name: str
    size: int
    version: str


@dataclass(frozen=True)
class Page:
    """One answer of a store.

    Attributes:
        keys: In their order, all between the bounds of the request.
        more: Whether the range goes on after the last of them.
    """

    keys: list[Key]
    more: bool


class PageOf(Protocol):
    """Asks for the keys with the prefix from `start` to before `end` (None: to the last), at most `most`.

    A page holds at least one key, and two if not at most one was asked for, or is the last.
    """

    def __call__(self, start: str, end: str | None, most: int | None = None) -> Awaitable[Page]: ...


async def list_keys(page_of: PageOf, prefix: str, take: Callable[[list[Key]], Awaitable[None]]) -> None:
    """Give `take` every key with the prefix once, a page at a time, in no order.

    Args:
        page_of: Asks the store.
        prefix: Keys begin with it.
        take: Awaited after each page, so that no more than `RANGES_AT_ONCE` pages are held.
    """
    listing = _Listing(page_of, prefix, take)
    workers = [asyncio.ensure_future(listing.work()) for _ in range(RANGES_AT_ONCE)]
    complete = asyncio.ensure_future(listing.ranges.join())
    try:
        ended, _ = await asyncio.wait([complete, *workers], return_when=asyncio.FIRST_COMPLETED)
        # A worker ends only by what it raises.
        await next(iter(ended))
    finally:
        for task in (complete, *workers):
            task.cancel()
        await asyncio.gather(complete, *workers, return_exceptions=True)


class _Listing:
    """Ranges yet to be listed, and the workers on them."""

    def __init__(self, page_of: PageOf, prefix: str, take: Callable[[list[Key]], Awaitable[None]]) -> None:
        self.ranges: asyncio.Queue[tuple[str, str | None]] = asyncio.Queue()
        self.ranges.put_nowait((prefix, None))
        self._page_of = page_of
        self._prefix = prefix
        self._take = take
        self._busy = 0
        self._characters: set[str] = set()
        self._positions: set[int] = set()

    async def work(self) -> None:
        while True:
            start, end = await self.ranges.get()
            self._busy += 1
            await self._list(start, end)
            self._busy -= 1
            self.ranges.task_done()

    async def _list(self, start: str, end: str | None) -> None:
        last = None
        while True:
            page = await self._page_of(start, end)
            # Each page but the first begins with the last key of the one before.
            await self._take([key for key in page.keys if key.name != last])
            if not page.more:
                return
            start = last = page.keys[-1].name
            self._learn([*(key.name for key in page.keys[:: len(page.keys) // 10 + 1]), last])
            cuts = await self._cuts(page.keys[0].name, last, end)
            for cut, following in zip(cuts, [*cuts[1:], end], strict=False):
                self.ranges.put_nowait((cut, following))
            end = cuts[0] if cuts else end

    def _learn(self, names: list[str]) -> None:
        """Which characters names have, and at which positions they branch."""
        self._characters.update(*names)
        self._positions.update(itertools.starmap(_shared, itertools.pairwise(names)))

    async def _cuts(self, first: str, last: str, end: str | None) -> list[str]:
        """Where to cut the keys after a page, as long as workers are idle."""
        idle = RANGES_AT_ONCE - self._busy - self.ranges.qsize()
        if end is None:
            return await self._probed(first, last) if 2 * idle > RANGES_AT_ONCE else []
        return self._parts(first, last, end, idle) if idle > 0 else []

    def _parts(self, first: str, last: str, end: str, idle: int) -> list[str]:
        """Cuts into equal parts, one for each idle worker a busy one, where names were seen to branch: no probes."""
        for position in range(max(_shared(last, end), len(self._prefix)), _shared(first, last) + 1):
            if position in self._positions:
                before = last[:position]
                cuts = sorted(
                    before + character
                    for character in self._characters
                    if character > last[position]
                    and _kind(character) == _kind(last[position])
                    and before + character < end
                )
                parts = min(len(cuts), 1 + idle // self._busy) + 1
                if cuts:
                    return [cuts[len(cuts) * part // parts] for part in range(1, parts)]
        return []

    async def _probed(self, first: str, last: str) -> list[str]:
        """Cuts at the first few positions where names branch off from a page's last.

        The page itself spans several branches where its own names differ, which therefore are less than a page.
        """
        branches: list[str] = []
        stop = min(_shared(first, last), len(self._prefix) + PROBED_POSITIONS)
        for position in range(len(self._prefix), stop, PROBES_AT_ONCE):
            positions = range(position, min(stop, position + PROBES_AT_ONCE))
            found = await asyncio.gather(*(self._branch(last, each) for each in positions))
            branches += [branch for branch in found if branch is not None]
            if len(branches) >= CUT_POSITIONS:
                break
        self._positions.update(len(branch) - 1 for branch in branches)
        return sorted(
            {
                branch[:-1] + character
                for branch in branches[:CUT_POSITIONS]
                for character in {branch[-1], *self._characters}
                if character >= branch[-1] and _kind(character) == _kind(branch[-1])
            }
        )

    async def _branch(self, last: str, position: int) -> str | None:
        """The next name that equals `last` before `position` and not there, up to there; None if there is none."""
        following = _following(last[position])
        if following is None:
            return None
        page = await self._page_of(last[:position] + following, None, most=1)
        name = page.keys[0].name if page.keys else ""
        return name[: position + 1] if name[:position] == last[:position] and len(name) > position else None


def _shared(first: str, last: str) -> int:
    """How many characters two names begin with alike."""
    differ = (
        position for position, (one, other) in enumerate(zip(first, last, strict=False)) if one != other
    )
    return next(differ, min(len(first), len(last)))


def _kind(character: str) -> int:
    """Names have a digit where another has a digit, and a letter where another has a letter."""
    return next((kind for kind, its in enumerate(_KINDS) if character in its), len(_KINDS))


def _following(character: str) -> str | None:
    """The next code point that is a character; code points are ordered as their UTF-8 is."""
    following = ord(character) + 1
    if following > sys.maxunicode:
        return None
    return chr(0xE000 if 0xD800 <= following < 0xE000 else following)

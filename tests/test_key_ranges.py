"""Every key once, whatever the names are like, in far fewer turns than pages."""

from __future__ import annotations

import asyncio
import bisect
import uuid
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import key_ranges
from transforms.key_ranges import Key, Page, list_keys


class Bucket:
    """Keys in order, a page at a time; all that wait for an answer have it in one turn."""

    def __init__(self, names: list[str], page_size: int) -> None:
        self.names = sorted(names)
        self.page_size = page_size
        self.requests = 0
        self.turns = 0
        self._turn: asyncio.Future[None] | None = None

    async def page_of(self, start: str, end: str | None, most: int | None = None) -> Page:
        assert end is None or start < end
        self.requests += 1
        if self._turn is None:
            self._turn = asyncio.ensure_future(self._answer())
        await self._turn
        first = bisect.bisect_left(self.names, start)
        stop = len(self.names) if end is None else bisect.bisect_left(self.names, end)
        last = min(stop, first + min(most or self.page_size, self.page_size))
        return Page([Key(name, 1, "1") for name in self.names[first:last]], more=last < stop)

    async def _answer(self) -> None:
        self.turns += 1
        # Until everybody has sent what they can.
        for _ in range(20):
            await asyncio.sleep(0)
        self._turn = None


def listed(bucket: Bucket, prefix: str = "") -> list[str]:
    found: list[str] = []

    async def take(keys: list[Key]) -> None:
        found.extend(key.name for key in keys)

    bucket.names = [name for name in bucket.names if name.startswith(prefix)]
    asyncio.run(list_keys(bucket.page_of, prefix, take))
    return found


WORDS = ("apple", "bear", "cat", "dog", "éclair", "日本")
NAMES = {
    "flat": [f"img/{number:07d}.jpg" for number in range(20_000)],
    "a tree": [f"img/{number // 40:05d}/{number % 40:02d}.jpg" for number in range(20_000)],
    "random": [f"img/{uuid.UUID(int=hash((number, 1)) % 2**128)}.jpg" for number in range(20_000)],
    "words": [f"img/{word}/{number}.png" for word in WORDS for number in range(3_000)],
    "years": [f"img/{1990 + number % 30}/{number % 12:02d}/IMG_{number}.JPG" for number in range(20_000)],
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_lists_each_key_once_and_many_pages_at_a_time(names: list[str]) -> None:
    bucket = Bucket(names, page_size=100)
    assert Counter(listed(bucket, "img/")) == Counter(names)
    pages = len(names) / bucket.page_size
    assert bucket.turns < pages / 10
    assert bucket.requests < 2.5 * pages


@settings(max_examples=300)
@given(
    st.lists(
        st.text(alphabet="ab0/\ud7ff\ue000\U0010ffff", min_size=1, max_size=6), max_size=60, unique=True
    ),
    st.integers(2, 7),
    st.sampled_from(["", "a", "a/"]),
)
def test_lists_each_key_once_whatever_the_names(names: list[str], page_size: int, prefix: str) -> None:
    expected = [name for name in names if name.startswith(prefix)]
    assert Counter(listed(Bucket(names, page_size), prefix)) == Counter(expected)


def test_an_error_ends_the_listing() -> None:
    async def page_of(start: str, end: str | None, most: int | None = None) -> Page:
        raise FileNotFoundError(start)

    async def take(keys: list[Key]) -> None:
        pass

    async def run() -> int:
        with pytest.raises(FileNotFoundError):
            await list_keys(page_of, "img/", take)
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1


def test_pages_are_held_no_longer_than_they_are_taken() -> None:
    bucket = Bucket(NAMES["flat"], page_size=100)
    held, most = [0], [0]

    async def take(keys: list[Key]) -> None:
        held[0] += 1
        most[0] = max(most[0], held[0])
        await asyncio.sleep(0.002)
        held[0] -= 1

    asyncio.run(list_keys(bucket.page_of, "img/", take))
    assert 1 < most[0] <= key_ranges.RANGES_AT_ONCE

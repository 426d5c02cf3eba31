"""Order, laziness and bounds of `ordered_map`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from transforms.ordered import drawn_ahead, in_chunks, ordered_map


@given(st.lists(st.integers(), max_size=50), st.integers(1, 60))
def test_gives_one_result_for_each_item_in_order(items: list[int], ahead: int) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert list(ordered_map(pool, lambda item: item * 2, items, ahead)) == [item * 2 for item in items]


def test_pulls_no_more_than_it_may_begin() -> None:
    pulled = []

    def items() -> Iterator[int]:
        for item in range(100):
            pulled.append(item)
            yield item

    with ThreadPoolExecutor(2) as pool:
        results = ordered_map(pool, lambda item: item, items(), 5)
        assert next(results) == 0
        assert len(pulled) == 5
        assert next(results) == 1
        assert len(pulled) == 6


def test_works_while_the_caller_is_busy() -> None:
    done = threading.Semaphore(0)

    def work(item: int) -> int:
        done.release()
        return item

    with ThreadPoolExecutor(1) as pool:
        results = ordered_map(pool, work, range(3), 3)
        next(results)
        # Nobody asks for the next result, and yet the other two are worked on.
        assert all(done.acquire(timeout=30) for _ in range(3))


def test_an_abandoned_map_drops_what_was_not_begun() -> None:
    begun = []
    gate = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            gate.wait(30)
        return item

    with ThreadPoolExecutor(1) as pool:
        results = ordered_map(pool, work, range(10), 8)
        next(results)
        while 1 not in begun:
            time.sleep(0.001)
        results.close()
        gate.set()
    assert begun == [0, 1]


@given(st.lists(st.integers(), max_size=30), st.integers(1, 9))
def test_chunks_are_full_but_for_the_last_and_lose_nothing(items: list[int], size: int) -> None:
    chunks = list(in_chunks(items, size))
    assert [item for chunk in chunks for item in chunk] == items
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert all(0 < len(chunk) <= size for chunk in chunks[-1:])


@given(st.lists(st.integers(), max_size=30), st.integers(1, 9))
def test_what_is_drawn_ahead_comes_in_order(items: list[int], count: int) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert list(drawn_ahead(pool, iter(items), count)) == items


def test_the_next_few_are_drawn_while_the_caller_is_at_these() -> None:
    drawn = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for item in range(8):
            drawn.release()
            yield item

    with ThreadPoolExecutor(1) as pool:
        ahead = drawn_ahead(pool, items(), 2)
        assert next(ahead) == 0
        assert all(drawn.acquire(timeout=30) for _ in range(4))
        assert not drawn.acquire(timeout=0.1)
        assert list(ahead) == list(range(1, 8))


def test_who_leaves_what_is_drawn_ahead_may_close_it() -> None:
    begun = threading.Event()

    def items() -> Iterator[int]:
        yield from range(2)
        begun.set()
        time.sleep(0.2)
        yield 2

    with ThreadPoolExecutor(1) as pool:
        source = items()
        ahead = drawn_ahead(pool, source, 2)
        next(ahead)
        assert begun.wait(30)
        ahead.close()
        # A generator that another thread is at would raise ValueError.
        source.close()

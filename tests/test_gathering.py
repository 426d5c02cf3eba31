"""What goes into a batch of each variant, when it is full, and what it says of the time."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from tests import records, tiny
from transforms.fingerprints import VariantRun
from transforms.gathering import Gathering
from transforms.prepared import PreparedImage
from transforms.records import ImageRef, StepSeconds, Target

OTHER_SIZE = 24
NO_TIME = StepSeconds()


@pytest.fixture
def targets(tiny_run: VariantRun) -> dict[VariantRun, Target]:
    """One unit's targets for two variants, of floats and of bytes."""
    variant = replace(tiny_run.variant, name="acme/other/1", size=OTHER_SIZE)
    other = replace(tiny_run, variant=variant, precision="fast")
    unit = records.unit(records.refs(9))
    return {run: run.target(unit) for run in (tiny_run, other)}


def good(ref: ImageRef, value: int = 0, seconds: StepSeconds = NO_TIME) -> PreparedImage:
    """An image whose pixels all have one value, and twice as much for the other variant."""
    pixels = {
        tiny.NAME: np.full((tiny.SIZE, tiny.SIZE, 3), value, np.float32),
        "acme/other/1": np.full((OTHER_SIZE, OTHER_SIZE, 3), 2 * value, np.uint8),
    }
    return PreparedImage(records.info(ref), pixels, seconds)


def bad(ref: ImageRef, seconds: StepSeconds = NO_TIME) -> PreparedImage:
    return PreparedImage(records.failure(ref), {}, seconds)


def test_a_batch_of_each_variant_holds_what_was_added(targets: dict[VariantRun, Target]) -> None:
    refs = records.refs(4)
    gathering = Gathering(targets, 3)
    for image in (good(refs[0], 10), bad(refs[1]), good(refs[2], 20), bad(refs[3])):
        gathering.add(image)
    batches = list(gathering.take(last=True))
    assert [batch.target for batch in batches] == list(targets.values())
    for batch in batches:
        assert batch.images == (records.info(refs[0]), records.info(refs[2]))
        assert batch.failures == (records.failure(refs[1]), records.failure(refs[3]))
        assert (batch.number, batch.last, batch.done) == (0, True, None)
    floats, in_bytes = (batch.pixels for batch in batches)
    assert (floats.shape, floats.dtype) == ((2, tiny.SIZE, tiny.SIZE, 3), np.float32)
    assert (in_bytes.shape, in_bytes.dtype) == ((2, OTHER_SIZE, OTHER_SIZE, 3), np.uint8)
    assert [np.unique(image).tolist() for image in floats] == [[10], [20]]
    assert [np.unique(image).tolist() for image in in_bytes] == [[20], [40]]


def test_failures_do_not_fill_a_batch(targets: dict[VariantRun, Target]) -> None:
    refs = records.refs(4)
    gathering = Gathering(targets, 2)
    full = []
    for image in (good(refs[0]), bad(refs[1]), bad(refs[2]), good(refs[3])):
        full.append(gathering.full)
        gathering.add(image)
    assert [*full, gathering.full] == [False, False, False, False, True]


def test_the_next_batch_begins_empty_and_leaves_the_last_one_as_it_was(
    targets: dict[VariantRun, Target],
) -> None:
    refs = records.refs(3)
    gathering = Gathering(targets, 2)
    gathering.add(good(refs[0], 1, StepSeconds(fetch=4.0)))
    gathering.add(bad(refs[1]))
    first, _ = gathering.take(last=False)
    assert not gathering.full
    gathering.add(good(refs[2], 9, StepSeconds(fetch=6.0)))
    second, _ = gathering.take(last=True)
    assert (second.images, second.failures) == ((records.info(refs[2]),), ())
    assert [(batch.number, batch.last) for batch in (first, second)] == [(0, False), (1, True)]
    assert [batch.seconds.fetch for batch in (first, second)] == [2.0, 3.0]
    assert [np.unique(batch.pixels).tolist() for batch in (first, second)] == [[1], [9]]


def test_a_batch_of_nothing_is_given_all_the_same(targets: dict[VariantRun, Target]) -> None:
    batches = list(Gathering(targets, 2).take(last=True))
    assert [(len(batch), batch.failures, batch.last) for batch in batches] == [(0, (), True)] * 2
    assert [batch.pixels.shape for batch in batches] == [
        (0, size, size, 3) for size in (tiny.SIZE, OTHER_SIZE)
    ]


def test_seconds_of_images_and_failures_are_shared_among_the_variants(
    targets: dict[VariantRun, Target],
) -> None:
    refs = records.refs(2)
    before = time.time()
    gathering = Gathering(targets, 2)
    after = time.time()
    gathering.add(good(refs[0], seconds=StepSeconds(fetch=1.0, decode=2.0)))
    gathering.add(bad(refs[1], seconds=StepSeconds(fetch=3.0)))
    batches = [*gathering.take(last=False), *gathering.take(last=True)]
    shares = [StepSeconds(fetch=2.0, decode=1.0)] * 2 + [NO_TIME] * 2
    assert [batch.seconds for batch in batches] == shares
    (started,) = {batch.started for batch in batches}
    assert before <= started <= after


def test_the_wait_is_counted_until_nothing_follows(targets: dict[VariantRun, Target]) -> None:
    image = good(records.refs(1)[0])

    def slowly() -> Iterator[PreparedImage]:
        time.sleep(0.02)
        yield image
        time.sleep(0.02)

    gathering, prepared = Gathering(targets, 2), slowly()
    before = time.perf_counter()
    assert gathering.wait_for(prepared) is image
    assert gathering.wait_for(prepared) is None
    most = time.perf_counter() - before
    batches = list(gathering.take(last=True))
    assert 0.04 <= sum(batch.seconds.wait for batch in batches) <= most


def test_a_batch_that_was_taken_is_held_by_nobody_else(targets: dict[VariantRun, Target]) -> None:
    batches = Gathering(targets, 2).take(last=False)
    batch = next(batches)
    pixels = weakref.ref(batch.pixels.base)
    assert pixels() is not None
    del batch
    # The other variant's is yet to be taken.
    assert pixels() is None
    assert len(list(batches)) == 1

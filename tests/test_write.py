"""WriteUnits: guards of the open unit, receipts, the early stop."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.records import batches, refs, score_batch, unit
from transforms import tally
from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.records import Receipt, ScoreBatch, StepSeconds
from transforms.write import StopRule, WriteUnits

IMAGES = refs(10)
PATIENT = StopRule(n_images=1000, max_failure_ratio=1.0)


@pytest.fixture
def dofn(tmp_path: Path, tiny_run: VariantRun):
    """The DoFn as a runner would start it."""
    dofn = WriteUnits(str(tmp_path), (tiny_run,), tmp_path.name, PATIENT)._dofn
    dofn.start_bundle()
    return dofn


def feed(dofn, *scores: ScoreBatch) -> list[Receipt]:
    return [receipt for batch in scores for receipt in dofn.process(batch)]


def test_a_receipt_follows_the_last_batch(dofn, tiny_run: VariantRun) -> None:
    first, second = batches(tiny_run, unit(IMAGES), IMAGES[:8], IMAGES[8:])
    assert feed(dofn, first) == []
    (receipt,) = feed(dofn, second)
    assert (receipt.variant, receipt.unit, receipt.rows, receipt.failures) == (tiny_run.variant.name, 0, 8, 2)
    dofn.finish_bundle()


def test_a_bundle_may_not_end_inside_a_unit(dofn, tiny_run: VariantRun) -> None:
    feed(dofn, batches(tiny_run, unit(IMAGES), IMAGES, [])[0])
    with pytest.raises(RuntimeError, match="ended inside a unit of acme/tiny"):
        dofn.finish_bundle()


def test_a_unit_may_not_begin_in_its_middle(dofn, tiny_run: VariantRun) -> None:
    with pytest.raises(RuntimeError, match="before batch 0"):
        feed(dofn, batches(tiny_run, unit(IMAGES), IMAGES, [])[1])


def test_a_unit_may_not_begin_inside_another(dofn, tiny_run: VariantRun) -> None:
    feed(dofn, batches(tiny_run, unit(IMAGES), IMAGES, [])[0])
    with pytest.raises(RuntimeError, match="was due"):
        feed(dofn, batches(tiny_run, unit(IMAGES, number=1), IMAGES, [])[0])


def test_a_bundle_that_failed_half_way_can_be_done_again(dofn, tiny_run: VariantRun, tmp_path: Path) -> None:
    first, second = batches(tiny_run, unit(IMAGES), IMAGES, [])
    feed(dofn, first)
    dofn.start_bundle()
    (receipt,) = feed(dofn, first, second)
    assert receipt.rows == 10
    dofn.teardown()


def test_what_was_done_before_gives_its_receipt(dofn, tiny_run: VariantRun, tmp_path: Path) -> None:
    receipt = Receipt(tiny_run.variant.name, 3, 7, 1, "path")
    done = ScoreBatch(
        tiny_run.target(unit(IMAGES)), 0, True, (), None, None, (), StepSeconds(), 0.0, receipt=receipt
    )
    assert feed(dofn, done) == [receipt]
    assert tally.of_run(str(tmp_path), tmp_path.name).snapshot() == (0, 0, 8)
    dofn.finish_bundle()


def test_failures_of_earlier_runs_do_not_stop_this_one(tmp_path: Path, tiny_run: VariantRun) -> None:
    dofn = WriteUnits(str(tmp_path), (tiny_run,), tmp_path.name, StopRule(30, 0.1))._dofn
    before = Receipt(tiny_run.variant.name, 0, 0, 10, "path")
    done = ScoreBatch(
        tiny_run.target(unit(IMAGES)), 0, True, (), None, None, (), StepSeconds(), 0.0, receipt=before
    )
    (receipt,) = feed(dofn, *batches(tiny_run, unit(IMAGES, number=1), IMAGES[:7], IMAGES[7:]))
    assert feed(dofn, done) == [before]
    assert feed(dofn, done) == [before]
    assert receipt.failures == 3
    assert tally.of_run(str(tmp_path), tmp_path.name).committed(tiny_run.variant.name) == (20, 3)


def test_the_tally_counts_each_image_once(dofn, tiny_run: VariantRun, tmp_path: Path) -> None:
    scores = batches(tiny_run, unit(IMAGES), IMAGES[:8], IMAGES[8:])
    feed(dofn, *scores)
    counts = tally.of_run(str(tmp_path), tmp_path.name)
    assert counts.snapshot() == (10, 2, 0)
    assert counts.committed(tiny_run.variant.name) == (10, 2)


def test_a_run_that_cannot_succeed_is_stopped(tmp_path: Path, tiny_run: VariantRun) -> None:
    rule = StopRule(n_images=30, max_failure_ratio=0.1)
    dofn = WriteUnits(str(tmp_path), (tiny_run,), tmp_path.name, rule)._dofn
    first, second = unit(IMAGES), unit(IMAGES, number=1)
    feed(dofn, *batches(tiny_run, first, IMAGES[:7], IMAGES[7:]))
    with pytest.raises(RunError, match=r"stopped early: 4 of 30 images of acme/tiny/classification/1 failed"):
        feed(dofn, *batches(tiny_run, second, IMAGES[:9], IMAGES[9:]))


def test_a_run_that_is_through_is_not_stopped(tmp_path: Path, tiny_run: VariantRun) -> None:
    rule = StopRule(n_images=10, max_failure_ratio=0.1)
    dofn = WriteUnits(str(tmp_path), (tiny_run,), tmp_path.name, rule)._dofn
    (receipt,) = feed(dofn, *batches(tiny_run, unit(IMAGES), IMAGES[:2], IMAGES[2:]))
    assert receipt.failures == 8


def test_a_batch_that_lost_its_way_is_noticed(dofn, tiny_run: VariantRun) -> None:
    target = tiny_run.target(unit(IMAGES))
    feed(dofn, score_batch(target, 0, IMAGES[:5]))
    with pytest.raises(RuntimeError, match=r"batch 2 .* was due"):
        feed(dofn, score_batch(target, 2, IMAGES[5:], last=True))

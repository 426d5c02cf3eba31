"""What a person sees: the live line's arithmetic, the final table's."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from pipelines import progress
from pipelines.progress import Live, print_summary
from tests.records import footer, refs, score_batch, unit
from transforms.fingerprints import VariantRun
from transforms.records import Receipt, StepSeconds
from transforms.tally import Tally

IMAGES = refs(10)


def test_the_live_line_counts_from_the_first_images_on(tiny_run: VariantRun) -> None:
    now = [100.0]
    counts = Tally()
    live = Live(counts.snapshot, n_images=100, n_variants=2, terminal=sys.stderr, clock=lambda: now[0])
    target = tiny_run.target(unit(IMAGES))
    assert live.state() == (0, "loading the modules")
    counts.add_passed_over(Receipt("v", 0, 20, 0, "path"))
    assert live.state() == (10, "loading the modules")
    now[0] = 160.0
    counts.add_batch(score_batch(target, 0, IMAGES))
    assert live.state() == (15, "0 failed in this run")
    now[0] = 162.0
    counts.add_batch(score_batch(target, 1, IMAGES[:6], IMAGES[6:]))
    # 5 images in both variants within 2 seconds, 80 to go.
    assert live.state() == (20, "2.5 images/s, 2 failed in this run, 32 s left")


def test_plain_lines_are_printed_where_there_is_no_terminal(
    tiny_run: VariantRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.01)
    counts = Tally()
    lines = ""
    with Live(counts.snapshot, n_images=20, n_variants=1, terminal=sys.stderr):
        counts.add_batch(score_batch(tiny_run.target(unit(IMAGES)), 0, IMAGES))
        while "images" not in lines:
            lines += capsys.readouterr().err
    lines += capsys.readouterr().err
    assert lines == "10 of 20 images, 0 failed\n"


def test_the_table_adds_up_the_footers(tiny_run: VariantRun, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = unit(IMAGES[:6]), unit(IMAGES[6:], number=1)
    seconds = StepSeconds(fetch=1.0, decode=2.25, model=3.5, write=0.5)
    footers = [
        footer(
            tiny_run,
            first,
            rows=4,
            failures=2,
            failures_by={"decode: truncated": 2},
            started=10.0,
            finished=12.0,
        ),
        footer(
            tiny_run,
            second,
            rows=3,
            failures=1,
            failures_by={"fetch: not_found": 1},
            started=11.0,
            finished=15.0,
        ),
    ]
    footers = [replace(each, seconds=seconds) for each in footers]
    print_summary("/out", (tiny_run,), {tiny_run.variant.name: footers}, run_id="r")
    output = capsys.readouterr().out
    row = next(line for line in output.splitlines() if line.startswith("│"))
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["7", "3", "2.0", "2.0", "4.5", "7.0", "1.0"]
    assert "2 decode: truncated" in output
    assert "1 fetch: not_found" in output
    assert "/out/variant=acme-tiny-classification-1/*.parquet" in output
    assert "/out/_failures/variant=acme-tiny-classification-1/*.parquet" in output
    assert "RANDOM" not in output
    assert max(map(len, output.splitlines())) <= 80


def test_the_table_says_what_was_done_before_and_what_is_random(
    tiny_run: VariantRun, capsys: pytest.CaptureFixture[str]
) -> None:
    random = replace(tiny_run, random_weights=True)
    print_summary("/out", (random,), {random.variant.name: [footer(random, unit(IMAGES))]}, run_id="another")
    output = capsys.readouterr().out
    assert "–" in output
    assert "RANDOM WEIGHTS, the scores mean nothing" in output

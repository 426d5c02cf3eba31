"""What is computed from footers and scores: the funnel, times, rates, classes, samples, and how they read."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import vl_convert

from pipelines.report import charts, sampling, work
from pipelines.report.features import Map, Point
from pipelines.report.parts import Part, Parts, UnitParts
from pipelines.report.rows import Image, TopClass, named_apart
from pipelines.report.scores import scores
from tests.records import footer, refs, unit
from transforms.fingerprints import VariantRun
from transforms.footers import Footer
from transforms.records import StepSeconds

IMAGES = refs(10)


def parts(footers: list[Footer], units_done: int | None = None) -> Parts:
    units = tuple(UnitParts((Part("p", each, (each.rows,)),)) for each in footers)
    done = len(footers) if units_done is None else units_done
    return Parts("v", done, units, ())


@pytest.fixture
def footers(tiny_run: VariantRun) -> list[Footer]:
    """Of four units of ten images, each with two failures, done one after another within ten seconds."""
    reasons = {"fetch: not_found": 1, "decode: truncated": 1}
    return [
        replace(
            footer(tiny_run, unit(IMAGES, number), rows=8, failures=2, failures_by=reasons),
            started=100.0 + 10 * number,
            finished=110.0 + 10 * number,
            seconds=StepSeconds(fetch=1.0, decode=3.0, wait=2.0, model=7.0, write=1.0),
        )
        for number in range(4)
    ]


def test_each_stage_loses_what_failed_in_it(footers: list[Footer]) -> None:
    found = work.funnel(parts(footers), images=40, units=4)
    assert [(stage.name, stage.images, stage.lost) for stage in found.stages] == [
        ("listed", 40, 0),
        ("fetched", 36, 4),
        ("decoded", 32, 4),
        ("rows", 32, 0),
    ]
    assert (found.rows, found.failures, found.exact) == (32, 8, True)


def test_from_some_footers_the_whole_is_estimated(footers: list[Footer]) -> None:
    found = work.funnel(parts(footers, units_done=40), images=400, units=40)
    assert [stage.images for stage in found.stages] == [400, 360, 320, 320]
    assert (found.failures, found.exact) == (80, False)
    unfinished = work.funnel(parts(footers, units_done=40), images=500, units=50)
    assert [(stage.name, stage.images) for stage in unfinished.stages[:3]] == [
        ("listed", 500),
        ("done so far", 400),
        ("fetched", 360),
    ]


def test_what_no_footer_tells_of_is_no_row(footers: list[Footer]) -> None:
    # The first round of a unit is gone, and a further one is left.
    footers[0] = replace(footers[0], rows=1, failures=0, failures_by={}, round=1)
    found = work.funnel(parts(footers), images=40, units=4)
    assert [(stage.name, stage.images, stage.lost) for stage in found.stages[:2]] == [
        ("listed", 40, 0),
        ("done so far", 31, 9),
    ]
    assert (found.stages[1].why, found.rows) == ("not done, or unreadable", 25)


def test_times_are_those_of_the_run_that_did_most(footers: list[Footer]) -> None:
    footers[3] = replace(footers[3], run="another", started=9000.0, finished=9002.0)
    found = work.times(parts(footers), "exact")
    assert [(run.name, run.images, run.seconds, run.rate) for run in found.runs] == [
        ("r", 30, 30.0, 1.0),
        ("another", 10, 2.0, 5.0),
    ]
    assert [(place.name, place.seconds, place.share) for place in found.places] == [
        ("waiting for images", 6.0, 0.2),
        ("the model", 21.0, 0.7),
        ("writing", 3.0, 0.1),
    ]
    assert [(thread.name, thread.share) for thread in found.threads] == [
        ("fetching", 0.25),
        ("decoding", 0.75),
    ]
    assert found.verdict.startswith("bottleneck: model. Of the time 20% went into waiting")
    scaled = work.times(parts(footers[:3], units_done=30), "exact")
    assert (scaled.runs[0].images, scaled.places[1].seconds, scaled.places[1].share) == (300, 210.0, 0.7)


def test_the_rate_spreads_each_unit_over_its_time(footers: list[Footer]) -> None:
    # The second unit is done beside the first, twice as fast.
    footers[1] = replace(footers[1], started=100.0, finished=105.0)
    found = work.rate(footers, scale=1.0)
    assert [start for start, _ in found] == pytest.approx([0, 5, 10, 15, 20, 25, 30, 35, 40])
    assert [images for _, images in found] == pytest.approx([3, 1, 0, 0, 1, 1, 1, 1, 1])
    assert sum(images for _, images in found[:-1]) * 5 == pytest.approx(40)
    assert work.rate(footers, scale=3.0)[0][1] == pytest.approx(9)
    assert work.rate(footers[:3], scale=1.0) == []


def test_a_chart_s_axis_counts_as_a_person_does(footers: list[Footer]) -> None:
    footers = [replace(each, finished=100 + (each.finished - 100) * 0.325, started=100) for each in footers]
    # So few ticks that of each the first digit alone tells it from the next.
    spec = charts.rate(work.times(parts(footers), "exact")) | {"width": 130}
    drawn = re.findall(r">([^<>]+)</text>", vl_convert.vegalite_to_svg(spec))
    assert {"0", "5", "10", "seconds since the run began", "images/s"} <= set(drawn)


def test_each_row_is_as_likely_in_small_groups_as_in_large_ones() -> None:
    shares = [sampling.part_of(3, 0.1, str(number)) for number in range(2000)]
    assert set(shares) == {0, 1}
    assert sum(shares) == pytest.approx(600, rel=0.1)
    assert {sampling.part_of(2048, 1.0, str(number)) for number in range(100)} == {2048}
    assert {sampling.part_of(8, 0.5, str(number)) for number in range(100)} == {4}


def scored(probabilities: list[float], classes: list[tuple[int, str | None]]) -> list[Image]:
    return [
        Image(f"/{number}.jpg", "1", "", 0, TopClass(*its, probability))
        for number, (its, probability) in enumerate(zip(classes, probabilities, strict=True))
    ]


CRANES = [(1, "crane"), (2, "crane"), (1, "crane"), (7, None)]


def test_two_classes_of_one_name_have_two_colours_and_are_chosen_apart() -> None:
    points = tuple(Point(image, 0.0, 0.0) for image in named_apart(scored([0.5] * 4, CRANES)))
    assert charts.map_classes(points) == [("crane (1)", 2), ("crane (2)", 1), ("class 7", 1)]
    spec = charts.feature_map(Map(points, (0.6, 0.4)), 4, {}, 4)
    assert {value["group"] for value in spec["data"]["values"]} == {"crane (1)", "crane (2)", "class 7"}


def test_classes_are_counted_by_number_and_named_apart() -> None:
    found = scores(named_apart(scored([0.9, 0.2, 0.6, 0.7], CRANES)))
    assert found is not None
    assert [(each.label, each.images, each.share) for each in found.classes] == [
        ("crane (1)", 2, 0.5),
        ("crane (2)", 1, 0.25),
        ("class 7", 1, 0.25),
    ]
    assert [image.uri for image in found.least] == ["/1.jpg", "/2.jpg"]
    assert [image.uri for image in found.most] == ["/0.jpg", "/3.jpg"]
    assert found.median == pytest.approx(0.65)
    assert (found.confidence[0].low, found.confidence[-1].high) == (0.0, 1.0)
    assert sum(each.images for each in found.confidence) == 4


@pytest.mark.parametrize(
    ("most", "end"), [(0.99, 1.0), (0.5, 0.5), (0.31, 0.5), (0.009, 0.01), (0.011, 0.02)]
)
def test_the_axis_of_probabilities_ends_soon_after_the_last(most: float, end: float) -> None:
    found = scores(scored([most, most / 2], [(0, None)] * 2))
    assert found is not None
    assert found.confidence[-1].high == pytest.approx(end)


def test_a_module_without_classes_has_no_scores() -> None:
    assert scores([Image("/a.jpg", "1", "", 0, None)]) is None
    assert scores([]) is None


def test_every_item_is_as_likely_to_be_picked_and_stays_so_when_others_come() -> None:
    names = [f"photo-{number:05d}" for number in range(5000)]
    picked = sampling.pick(names, 500, str)
    assert picked == sorted(picked)
    assert len(set(picked)) == 500
    halves = sum(name < names[2500] for name in picked)
    assert 200 < halves < 300
    assert set(sampling.pick(names[:4990], 500, str)) >= set(picked) & set(names[:4990])
    assert sampling.pick(names[:3], 500, str) == names[:3]
    assert sampling.shuffled(names, str)[:500] == sampling.shuffled(picked, str)

"""The charts, as Vega-Lite; colours and type are the page's, which knows whether it is dark."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import altair as alt

from pipelines.report.features import Health, Map, Point
from pipelines.report.scores import Bin, ClassCount, Scores
from pipelines.report.text import percent, short_name
from pipelines.report.work import Times

COLOURED_CLASSES = 6
OTHERS = "other classes"
CLASS_STEP = 22
"""Pixels for a bar with its name."""
HEIGHT = 200
MAP_HEIGHT = 480
CHOSEN = "chosen"
"""The map's parameter: the class to show, or nothing."""

Spec = dict[str, Any]


def rate(times: Times) -> Spec:
    """Images a second over a run."""
    end = times.rate[-1][0]
    lengths = {"hours": 3600, "minutes": 60, "seconds": 1}
    unit = next((name for name, length in lengths.items() if end > 3 * length), "seconds")
    values = [
        {"from": start / lengths[unit], "to": after / lengths[unit], "height": images}
        for (start, images), (after, _) in itertools.pairwise(times.rate)
    ]
    return _bars(values, f"{unit} since the run began", "images/s", (",.4~r", ",.1f"))


def classes(counts: Sequence[ClassCount], images: str) -> Spec:
    """The most frequent best classes; `images` says what are counted: "images", or "sampled images"."""
    values = [{"class": each.label, "images": each.images, "share": each.share} for each in counts]
    chart = (
        _chart(values, "Images by their best class", CLASS_STEP * len(values))
        .mark_bar()
        .encode(
            x=alt.X("images:Q").title(images).axis(tickMinStep=1),
            y=alt.Y("class:N").title(None).sort(None),
            tooltip=[
                alt.Tooltip("class:N"),
                alt.Tooltip("images:Q", format=","),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
    )
    return _spec(chart)


def confidence(scores: Scores, images: str) -> Spec:
    """How probable the best classes are; `images` as for `classes`."""
    precise = (
        ".0%" if scores.confidence[-1].high > 0.1 else ".1%" if scores.confidence[-1].high > 0.01 else ".2%"
    )
    return _histogram(scores.confidence, "probability of the best class", images, precise)


def norms(health: Health, images: str) -> Spec:
    """How long the feature vectors are; `images` as for `classes`."""
    return _histogram(health.norms, "norm of the feature vector", images, ",.4~r")


def _histogram(bins: Sequence[Bin], title: str, images: str, number: str) -> Spec:
    values = [{"from": each.low, "to": each.high, "height": each.images} for each in bins]
    return _bars(values, title, images, (number, ","))


def _bars(values: Sequence[Spec], x_title: str, y_title: str, numbers: tuple[str, str]) -> Spec:
    """Bars side by side, each `from` somewhere `to` somewhere, in the order of x; `numbers` says how x and y read."""
    x_format, y_format = numbers
    chart = (
        _chart(values, f"{y_title} by {x_title}")
        .mark_bar()
        .encode(
            x=alt.X("from:Q").title(x_title).axis(format=x_format).scale(nice=False, zero=False),
            x2="to:Q",
            y=alt.Y("height:Q").title(y_title).axis(tickMinStep=1),
            y2=alt.datum(0),
            tooltip=[
                alt.Tooltip("from:Q", format=x_format if "%" in x_format else ",.4~r"),
                alt.Tooltip("to:Q", format=x_format if "%" in x_format else ",.4~r"),
                alt.Tooltip("height:Q", title=y_title, format=y_format),
            ],
        )
    )
    return _spec(chart)


def feature_map(places: Map, count: int, pictures: Mapping[str, int], most: int) -> Spec:
    """The images by their features' two principal components; those that may be pointed at are drawn larger.

    Args:
        places: Where the images are.
        count: How many of them are drawn.
        pictures: Numbers of pictures by uri.
        most: How many may be pointed at.
    """
    points = places.points[:count]
    coloured = [name for name, _ in map_classes(points)[:COLOURED_CLASSES]]
    values = [
        _point(point, coloured, pictures.get(point.image.uri), number < most)
        for number, point in enumerate(points)
    ]
    chart = alt.layer(
        *_layers(_places(values, coloured), {value["kind"] for value in values}, bool(coloured)),
        data=alt.Data(values=values),
        width="container",
        height=MAP_HEIGHT,
        description="Images on a plane; those with similar features are near each other",
    )
    return _spec(chart.add_params(alt.param(name=CHOSEN, value="")))


def _places(values: Sequence[Spec], coloured: Sequence[str]) -> alt.Chart:
    """Points at their places on the map, in the colours of their classes where they have some."""
    axis = alt.Axis(labels=False, ticks=False, grid=False, domain=True)
    places = alt.Chart().encode(
        x=alt.X("x:Q").title("first component").axis(axis).scale(zero=False, padding=12),
        y=alt.Y("y:Q").title("second component").axis(axis).scale(zero=False, padding=12),
    )
    if not coloured:
        return places
    others = [OTHERS] if any(value["group"] == OTHERS for value in values) else []
    return places.encode(color=alt.Color("group:N").title(None).scale(domain=[*coloured, *others]))


def _layers(places: alt.Chart, kinds: Set[str], has_classes: bool) -> Iterator[alt.Chart]:
    """The dots of each kind of point that there is, those that may be pointed at on top."""
    words = [alt.Tooltip(name) for name in ("name:N", "class:N", "confidence:N")[: 3 if has_classes else 1]]
    # The word is the tooltip's own for what it shows as a picture; the page puts it there by its number.
    pictured = [alt.Tooltip("image:N"), *words]
    if "small" in kinds:
        yield _dots(places, "small", 16, 0.35).encode(tooltip=alt.value(None))
    for kind, tooltip in (("named", words), ("pictured", pictured)):
        if kind in kinds:
            yield _dots(places, kind, 60, 0.85).encode(tooltip=tooltip, description="name:N")


def _dots(places: alt.Chart, kind: str, size: int, opacity: float) -> alt.Chart:
    shown = alt.condition(f"{CHOSEN} === '' || {CHOSEN} === datum.class", alt.value(opacity), alt.value(0.05))
    return (
        places.transform_filter(f"datum.kind === '{kind}'")
        .mark_circle(size=size, aria=kind != "small")
        .encode(opacity=shown)
    )


def _point(point: Point, coloured: Sequence[str], picture: int | None, near: bool) -> Spec:
    """A point's values; its kind is `small`, or `named` where it may be pointed at, or `pictured`."""
    value: Spec = {"x": round(point.x, 4), "y": round(point.y, 4), "kind": "small"}
    top = point.image.top
    if top:
        value |= {"class": top.label, "group": top.label if top.label in coloured else OTHERS}
    if near:
        value |= {"kind": "named", "name": short_name(point.image.uri)}
        value |= {"confidence": percent(top.probability)} if top else {}
    if near and picture is not None:
        value |= {"kind": "pictured", "picture": picture}
    return value


def map_classes(points: Sequence[Point]) -> list[tuple[str, int]]:
    """The best classes of points, the most frequent first; none where they have none."""
    return Counter(point.image.top.label for point in points if point.image.top).most_common()


def _chart(values: Sequence[Spec], description: str, height: int = HEIGHT) -> alt.Chart:
    data = alt.Data(values=list(values))
    return alt.Chart(data, description=description, width="container", height=height)


def _spec(chart: alt.Chart | alt.LayerChart | alt.FacetChart) -> Spec:
    spec = chart.to_dict()
    # Its sizes are for charts without one.
    del spec["config"]
    return spec

"""The page: one HTML file that holds its style, its script, its charts and its pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import altair as alt
import jinja2
import markupsafe
import vl_convert

from pipelines.progress import counted
from pipelines.report import charts, sampling, text
from pipelines.report.features import NEAR
from pipelines.report.rows import Image
from pipelines.report.variant import MAP_PICTURES, MAP_POINTS, Report, VariantReport, shown


def render(report: Report) -> str:
    """The page as HTML."""
    numbers = {uri: number for number, uri in enumerate(report.pictures)}
    specs: dict[str, charts.Spec] = {}
    for number, variant in enumerate(report.variants):
        specs |= {f"v{number}-{name}": spec for name, spec in variant_charts(variant, numbers).items()}
    return _template().render(
        report=report,
        specs=specs,
        style=markupsafe.Markup(_file("page.css")),
        library=markupsafe.Markup(library()),
        script=markupsafe.Markup(_file("page.js")),
        data=embedded({"pictures": list(report.pictures.values()), "charts": specs}),
        picture_of=lambda image: numbers.get(image.uri),
    )


def _template() -> jinja2.Template:
    """The page without what is said of a dataset."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": text.number,
        "counted": counted,
        "percent": text.percent,
        "duration": text.duration,
        "moment": text.moment,
        "short_name": text.short_name,
        "breakable": breakable,
    }
    environment.globals |= {
        "alt_of": alt_of,
        "shown": shown,
        "map_classes": lambda variant: charts.map_classes(variant.features.map.points[:MAP_POINTS]),
        "map_pictures": MAP_PICTURES,
        "map_points": MAP_POINTS,
        "settings_of": settings_of,
        "near_distance": NEAR,
        "seed": sampling.SEED,
    }
    return environment.from_string(_file("page.html"))


def variant_charts(variant: VariantReport, numbers: Mapping[str, int]) -> dict[str, charts.Spec]:
    """The variant's charts by name; one that would show nothing is left out."""
    specs: dict[str, charts.Spec] = {}
    images = "images" if variant.is_whole else "sampled images"
    if variant.times.rate:
        specs["rate"] = charts.rate(variant.times)
    if variant.scores:
        specs["classes"] = charts.classes(variant.scores.classes, images)
        specs["confidence"] = charts.confidence(variant.scores, images)
    if variant.features and variant.features.map:
        specs["map"] = charts.feature_map(variant.features.map, MAP_POINTS, numbers, MAP_PICTURES)
    if variant.features and variant.features.health.norms:
        specs["norms"] = charts.norms(variant.features.health, images)
    return specs


def settings_of(variant: VariantReport) -> list[tuple[str, str]]:
    """What the variant was made with, each thing with its name."""
    footer = variant.footer
    if footer is None:
        return []
    settings, model = footer.settings, footer.model
    kept = settings.get("keep")
    found: dict[str, Any] = {
        "module": footer.handle,
        "SHA-256": settings.get("module"),
        "weights": "random" if variant.random_weights else "the module's own",
        "input": f"{settings.get('size')} × {settings.get('size')} pixels, {settings.get('resize')}",
        "gives": _gives(settings.get("n_classes"), settings.get("n_features")),
        "precision": settings.get("precision"),
        "device": model.get("device"),
        "graph": model.get("graph"),
        "kept columns": ", ".join(map(str, kept)) if isinstance(kept, list) and kept else None,
        "packages": ", ".join(f"{name} {version}" for name, version in footer.packages.items()),
    }
    return [(name, str(value)) for name, value in found.items() if value]


def _gives(n_classes: object, n_features: object) -> str:
    given = [
        f"{count:,} {what}"
        for count, what in ((n_classes, "logits"), (n_features, "features"))
        if isinstance(count, int)
    ]
    return " and ".join(given)


def breakable(name: str) -> markupsafe.Markup:
    """A name that may be broken after each slash."""
    return markupsafe.escape(name).replace("/", markupsafe.Markup("/<wbr>"))


def alt_of(image: Image) -> str:
    """What a picture shows, for those who do not see it."""
    name = text.short_name(image.uri)
    return f"{name}, {image.top.label}, {text.percent(image.top.probability)}" if image.top else name


def embedded(data: object) -> markupsafe.Markup:
    """Data as JSON that can stand in a `<script>`: nothing in it ends one."""
    return markupsafe.Markup(json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


@cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, of the version that Altair writes for."""
    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    # What could end the element that holds it.
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version).replace(
        "</script", "<\\/script"
    )


def _file(name: str) -> str:
    return resources.files("pipelines.report").joinpath(name).read_text(encoding="utf-8")

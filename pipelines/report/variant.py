"""Everything that the page says of a variant and of the dataset, gathered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from pipelines.directories import open_dataset, variants_of
from pipelines.record import read_record, record_names
from pipelines.report import failures
from pipelines.report.duplicates import Duplicates, Group, equal_contents
from pipelines.report.failures import Example
from pipelines.report.features import Features, features
from pipelines.report.parts import Parts, read_parts
from pipelines.report.pictures import MOST, pictures
from pipelines.report.rows import Image, Rows, read_rows
from pipelines.report.scores import Scores, scores
from pipelines.report.work import Funnel, Reason, Times, funnel, times
from transforms.footers import Footer
from transforms.index import Index

MAP_PICTURES = 400
MAP_POINTS = 2_000
GROUP_PICTURES = 6
"""Of a group of duplicates that are shown."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sampled:
    """What of a variant was looked at.

    Attributes:
        units: Whose footers were read.
        units_done: That there are.
        rows: That were read.
        files: Rows files that they are from.
        files_done: Rows files that there are, without superseded ones; estimated where not all footers were read.
        lost: Files that could not be read, or not whole.
    """

    units: int
    units_done: int
    rows: int
    files: int
    files_done: int
    lost: int


@dataclass(frozen=True)
class VariantReport:
    """What is said of one variant.

    Attributes:
        directory: The variant's directory name.
        footer: Of the unit that was done last, for what was run; None where none is done.
        random_weights: Some rows were made with a module without trained weights.
        units: In the index.
        others: Units that are done with other settings than the newest one, whose rows are not looked at.
        sampled: What was looked at.
        funnel: How far the images came.
        examples: Of failures, by reason.
        times: Where the time went.
        scores: None where the module is no classifier.
        features: None where it has none.
        equal: Images whose files are equal.
    """

    directory: str
    footer: Footer | None
    random_weights: bool
    units: int
    others: int
    sampled: Sampled
    funnel: Funnel
    examples: dict[Reason, list[Example]]
    times: Times
    scores: Scores | None
    features: Features | None
    equal: Duplicates

    @property
    def name(self) -> str:
        """The variant's TF Hub name, or its directory's where no file tells it."""
        return self.footer.variant if self.footer else self.directory

    @property
    def is_whole(self) -> bool:
        """Whether every row that there is was looked at."""
        return self.funnel.exact and self.sampled.rows >= self.funnel.rows

    @property
    def missing(self) -> int:
        """Units that are not done."""
        return self.units - self.sampled.units_done

    def gallery(self) -> Iterator[Image]:
        """The images that are shown by themselves."""
        if self.scores:
            yield from self.scores.least
            yield from self.scores.most
        if self.features:
            for query in self.features.neighbours:
                yield query.image
                yield from (near.image for near in query.nearest)
        near = self.features.near if self.features else None
        for group in chain(self.equal.groups, near.groups if near else ()):
            yield from shown(group)

    def on_map(self) -> Iterator[Image]:
        """The images that are shown where the map is pointed at."""
        if self.features and self.features.map:
            yield from (point.image for point in self.features.map.points[:MAP_PICTURES])


@dataclass(frozen=True)
class Report:
    """What is said of a dataset.

    Attributes:
        output: The output directory.
        inputs: Of the last run; none where there is no record of it.
        images: In the index.
        units: In the index.
        made: Unix time in seconds when it was looked at.
        variants: By directory.
        pictures: Data URIs by uri.
        wanted_pictures: How many there would be if all sources could be read, as many as a page may have.
    """

    output: str
    inputs: tuple[str, ...]
    images: int
    units: int
    made: float
    variants: tuple[VariantReport, ...]
    pictures: dict[str, str]
    wanted_pictures: int


def shown(group: Group) -> tuple[Image, ...]:
    """The images of a group of duplicates that are shown."""
    return group.images[:GROUP_PICTURES]


def read_report(output: str, say: Say) -> Report:
    """Look at a dataset.

    Args:
        output: The output directory, an absolute path or a URL.
        say: Told what is being done.

    Raises:
        UsageError: There is no dataset, or it holds no variant.
    """
    made = time.time()
    work, directories = open_dataset(output), variants_of(output)
    variants = tuple(_read_variant(output, directory, work, say) for directory in directories)
    wanted = _wanted(variants)
    say("reading images")
    found = pictures(work, wanted, lambda count: say(f"reading images: {count:,} of {len(wanted):,}"))
    inputs = _inputs(output)
    return Report(output, inputs, work.n_images, work.n_units, made, variants, found, len(wanted))


def _read_variant(output: str, directory: str, work: Index, say: Say) -> VariantReport:
    say(f"{directory}: reading footers")
    parts = read_parts(
        output, directory, work.n_units, lambda count: say(f"{directory}: reading footers: {count:,}")
    )
    flow = funnel(parts, work.n_images, work.n_units)
    found = failures.examples(output, parts.footers, flow.reasons)
    say(f"{directory}: reading rows")
    rows = read_rows(parts, lambda count: say(f"{directory}: reading rows: {count:,}"))
    say(f"{directory}: comparing features")
    precision = str(parts.newest.settings.get("precision")) if parts.newest else ""
    return VariantReport(
        directory=directory,
        footer=parts.newest,
        random_weights=any(footer.random_weights for footer in parts.footers),
        units=work.n_units,
        others=round((len(parts.units) - len(parts.alike)) * parts.scale),
        sampled=_sampled(parts, rows),
        funnel=flow,
        examples=found,
        times=times(parts, precision),
        scores=scores(rows.images),
        features=features(rows),
        equal=equal_contents(rows.images),
    )


def _sampled(parts: Parts, rows: Rows) -> Sampled:
    return Sampled(
        units=len(parts.units),
        units_done=parts.units_done,
        rows=len(rows.images),
        files=rows.files,
        files_done=round(sum(len(unit.parts) for unit in parts.units) * parts.scale),
        lost=len(parts.unreadable) + rows.lost,
    )


def _wanted(variants: Sequence[VariantReport]) -> list[Image]:
    """The images to show, at most `MOST`: of each variant in turn, those of the map last, each once."""
    in_turn = chain(
        *zip_longest(*(variant.gallery() for variant in variants)),
        *zip_longest(*(variant.on_map() for variant in variants)),
    )
    first: dict[str, Image] = {}
    for image in in_turn:
        if image is not None:
            first.setdefault(image.uri, image)
    return list(first.values())[:MOST]


def _inputs(output: str) -> tuple[str, ...]:
    names = record_names(output)
    return tuple(read_record(output, names[-1])["configuration"]["inputs"]) if names else ()

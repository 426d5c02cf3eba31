"""Whether it is the store that failed rather than a unit's images, by how fetching them went."""

from __future__ import annotations

from transforms import images, index
from transforms.errors import BadImage, RunError
from transforms.fetching import PASSING_ERROR, REFUSED, Fetched, fetch, fetch_many
from transforms.records import Failure, ImageInfo, ImageRef, Target, Unit

MIN_IMAGES = 16
"""A smaller unit's failures cannot tell by their number; there an image that could be fetched is asked for again."""
RATIO = 0.2
"""Of a unit's images; more that cannot be read are an outage."""


class FetchOutcomes:
    """How fetching one unit's images went: who was refused, how many the store failed on, who came first."""

    def __init__(self) -> None:
        self._refused: list[ImageRef] = []
        self._passing = 0
        self._first_fetched: ImageRef | None = None

    def add(self, outcome: ImageInfo | Failure) -> None:
        """Count an image; one that failed at a later step was fetched."""
        if not isinstance(outcome, Failure) or outcome.step != "fetch":
            self._first_fetched = self._first_fetched or outcome.ref
        elif outcome.error == REFUSED:
            self._refused.append(outcome.ref)
        elif outcome.error == PASSING_ERROR:
            self._passing += 1

    def check_outage(self, target: Target) -> None:
        """Raise RunError where the store failed rather than the images; a few images alone cannot tell.

        What failed before may well fail in later rounds.
        """
        unit = target.unit
        if target.round > 0:
            return
        refused, n_images = self._refused, unit.n_images
        enough = n_images >= MIN_IMAGES
        if refused and (
            (enough and len(refused) == n_images)
            or self._fails_beside(unit, REFUSED)
            or any(_error(again) != REFUSED for again in fetch_many(refused, images.MAX_BYTES))
        ):
            what, count = "no permission to read", len(refused)
        elif self._passing and (
            self._passing > RATIO * n_images if enough else self._fails_beside(unit, PASSING_ERROR)
        ):
            what, count = "the store failed on", self._passing
        else:
            return
        raise RunError(
            f"{what} {count:,} of the {n_images:,} images of unit {unit.number}, which is left for later; mend the "
            "storage and run the same command again"
        )

    def _fails_beside(self, unit: Unit, error: str) -> bool:
        """Whether an image fails now that could be fetched, or one of another unit where none could."""
        witness = self._first_fetched or _image_beside(unit)
        return witness is not None and _error(fetch(witness, images.MAX_BYTES)) == error


def _image_beside(unit: Unit) -> ImageRef | None:
    """An image of another unit in the same part; None where there is none."""
    others = (other for other in index.units_of(unit.index_part) if other.number != unit.number)
    other = next(others, None)
    return index.members(other)[0] if other else None


def _error(fetched: Fetched) -> str | None:
    return fetched.content.error if isinstance(fetched.content, BadImage) else None

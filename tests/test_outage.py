"""An outage told from bad images, with files that the operating system refuses or fails on while they are asked for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests import records
from transforms import fetching, index, snapshots
from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.outage import FetchOutcomes
from transforms.records import Failure, ImageInfo, ImageRef, Target
from transforms.snapshots import UnitSize
from transforms.storage import reference

FETCHED, NO_IMAGE, GONE, REFUSED, FAILED = "fdgrx"
"""What became of an image: it was fetched, fetched but not decoded, not there, refused, or the store failed on it."""
NOW = {"r": errno.EACCES, "x": errno.EIO}
"""What the operating system says to an image that is asked for again; `.` stands for its bytes."""
ALONE = ""

Check = Callable[..., str]


@pytest.fixture
def check(tmp_path: Path, tiny_run: VariantRun, monkeypatch: pytest.MonkeyPatch) -> Check:
    """What is said of an outage of a unit; nothing where there is none.

    Args:
        became: A letter an image.
        now: A letter an image, or one for all.
        beside: What another unit's images are now; `ALONE` where there is none.
        in_round: Of the target.
    """

    def check(became: str, now: str, beside: str = ALONE, in_round: int = 0) -> str:
        count = len(became)
        letters = now * (count // len(now)) + beside * count
        paths = [tmp_path / f"{number:02d}.jpg" for number in range(len(letters))]
        for path in paths:
            path.write_bytes(b"content")
        listed = (reference(str(path)) for path in paths)
        work, _ = snapshots.update(str(tmp_path / "out"), listed, UnitSize(count))
        unit = next(work.units())
        outcomes = FetchOutcomes()
        for ref, letter in zip(index.members(unit), became, strict=True):
            outcomes.add(outcome(ref, letter))
        with monkeypatch.context() as patch:
            errors = {
                str(path): NOW[letter] for path, letter in zip(paths, letters, strict=True) if letter in NOW
            }
            patch.setattr(os, "open", opening(errors))
            patch.setattr(fetching, "FIRST_WAIT_SECONDS", 0)
            return line_of(outcomes, replace(tiny_run.target(unit), round=in_round))

    return check


def opening(errors: dict[str, int]) -> Callable[..., int]:
    """`os.open` that fails on some paths."""
    os_open = os.open

    def open_or_fail(path: str, flags: int) -> int:
        if path in errors:
            raise OSError(errors[path], os.strerror(errors[path]))
        return os_open(path, flags)

    return open_or_fail


def outcome(ref: ImageRef, letter: str) -> ImageInfo | Failure:
    if letter == FETCHED:
        return records.info(ref)
    if letter == NO_IMAGE:
        return records.failure(ref)
    errors = {GONE: "not_found", REFUSED: "permission_denied", FAILED: "unreadable"}
    return Failure(ref, "fetch", errors[letter], "not now")


def line_of(outcomes: FetchOutcomes, target: Target) -> str:
    try:
        outcomes.check_outage(target)
    except RunError as error:
        return str(error)
    return ""


def what(line: str) -> str:
    """The line without what becomes of the unit and what to do."""
    return line.partition(",")[0]


def test_the_line_says_what_where_and_what_to_do(check: Check) -> None:
    assert check("r" * 20, "r") == (
        "no permission to read 20 of the 20 images of unit 0, which is left for later; mend the storage and run the "
        "same command again"
    )


@pytest.mark.parametrize(
    ("became", "now", "line"),
    [
        ("f" * 20, ".", ""),
        ("d" * 10 + "g" * 10, ".", ""),
        ("f" * 16 + "x" * 4, "x", ""),
        ("f" * 15 + "x" * 5, ".", "the store failed on 5 of the 20 images of unit 0"),
        ("f" * 12 + "x" * 4, ".", "the store failed on 4 of the 16 images of unit 0"),
        ("f" * 11 + "x" * 4, ".", ""),
        ("x" * 15, "x", ""),
        ("x" * 16, "x", "the store failed on 16 of the 16 images of unit 0"),
    ],
)
def test_over_a_fifth_of_many_images_is_an_outage(check: Check, became: str, now: str, line: str) -> None:
    assert what(check(became, now)) == line


@pytest.mark.parametrize(
    ("count", "line"), [(15, ""), (16, "no permission to read 16 of the 16 images of unit 0")]
)
def test_many_images_that_are_all_refused_are_an_outage(check: Check, count: int, line: str) -> None:
    assert what(check("r" * count, "r")) == line


@pytest.mark.parametrize("became", ["r" * 19 + "f", "r" * 19 + "d", "rf", "rd", "rrf"])
def test_what_could_be_fetched_and_is_refused_now_tells_of_an_outage(check: Check, became: str) -> None:
    line = f"no permission to read {became.count('r')} of the {len(became)} images of unit 0"
    assert what(check(became, "r")) == line


@pytest.mark.parametrize(
    ("became", "now"),
    [("frrr", ".rr."), ("f" + "r" * 19, "." + "r" * 18 + "."), ("rrr", "rr."), ("rrr", "rrx")],
)
def test_what_was_refused_and_is_not_now_tells_of_an_outage(check: Check, became: str, now: str) -> None:
    line = f"no permission to read {became.count('r')} of the {len(became)} images of unit 0"
    assert what(check(became, now)) == line


@pytest.mark.parametrize(
    ("became", "now"),
    [("f" + "r" * 19, "." + "r" * 19), ("frr", ".rr"), ("frr", "xrr"), ("drr", ".rr"), ("ffr", ".rr")],
)
def test_images_that_stay_refused_alone_are_failures(check: Check, became: str, now: str) -> None:
    assert check(became, now) == ""


@pytest.mark.parametrize(
    ("became", "now", "line"),
    [
        ("fx", "x", "the store failed on 1 of the 2 images of unit 0"),
        ("dx", "x", "the store failed on 1 of the 2 images of unit 0"),
        ("frx", "xrx", "the store failed on 1 of the 3 images of unit 0"),
        ("fx", ".x", ""),
        ("fx", "rx", ""),
        ("ffx", ".xx", ""),
        ("f" + "x" * 14, ".", ""),
    ],
)
def test_of_few_images_the_first_that_could_be_fetched_tells(
    check: Check, became: str, now: str, line: str
) -> None:
    assert what(check(became, now)) == line


@pytest.mark.parametrize(
    ("became", "beside", "line"),
    [
        ("rrr", "r", "no permission to read 3 of the 3 images of unit 0"),
        ("rrr", "x", ""),
        ("rrr", ".", ""),
        ("rrr", ALONE, ""),
        ("xxx", "x", "the store failed on 3 of the 3 images of unit 0"),
        ("xxx", "r", ""),
        ("xxx", ".", ""),
        ("xxx", ALONE, ""),
        ("gxx", "x", "the store failed on 2 of the 3 images of unit 0"),
        ("gxx", ".", ""),
    ],
)
def test_where_none_could_be_fetched_an_image_of_another_unit_tells(
    check: Check, became: str, beside: str, line: str
) -> None:
    now = became.replace(GONE, FAILED)
    assert what(check(became, now, beside)) == line


@pytest.mark.parametrize("letter", [REFUSED, FAILED])
def test_what_fails_once_more_is_no_outage(check: Check, letter: str) -> None:
    assert check(letter * 20, letter, in_round=1) == ""

"""Numbers, times and names as a person reads them."""

from __future__ import annotations

import pytest

from pipelines.report import text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (12345.0, "12,345"),
        (1234.5, "1,234"),
        (123.45, "123.5"),
        (1.234, "1.23"),
        (0.01234, "0.0123"),
    ],
)
def test_numbers(value: float, said: str) -> None:
    assert text.number(value) == said


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0, "0%"),
        (1, "100%"),
        (0.5, "50.0%"),
        (0.0004, "<0.1%"),
        (0.9996, ">99.9%"),
        (0.997, "99.7%"),
    ],
)
def test_percents(share: float, said: str) -> None:
    assert text.percent(share) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.004, "4 ms"),
        (0.4, "0.4 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (18720, "5 h 12 min"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert text.duration(seconds) == said


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("/a/b.jpg", "b.jpg"),
        ("gs://bucket/a/b.jpg", "b.jpg"),
        ("gs://bucket", "bucket"),
        ("/a/shard.tar::dir/b.jpg", "b.jpg"),
        ("gs://bucket/x.tfrecord::17", "x.tfrecord::17"),
    ],
)
def test_short_names(uri: str, name: str) -> None:
    assert text.short_name(uri) == name

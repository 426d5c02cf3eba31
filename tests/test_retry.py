"""`--retry-failures`: what failed for a passing reason gets its row in a further round, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import dataset
from transforms import prepare
from transforms.errors import BadImage
from transforms.fetching import Fetched

NAMES = [f"photo-{number:05d}.jpg" for number in (0, 1, 9, 10, 17)]
"""Two in the first and second unit of eight, one in the third."""


@pytest.fixture
def run(
    pixelbeam, photographs: Path, tiny_toml: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Runs over the photographs while some cannot be read; gives the variant's directory."""

    def run(unreadable: Collection[str], *options: str, output: str = "out") -> Path:
        def fetch_many(*arguments: object) -> Iterator[Fetched]:
            for fetched in fetch(*arguments):
                if Path(fetched.ref.uri).name in unreadable:
                    yield Fetched(fetched.ref, BadImage("unreadable", "I/O error"), 0.0, 3)
                else:
                    yield fetched

        settings = ["--images-per-unit", 8, "--batch-size", 4, "--max-failure-ratio", 1]
        with monkeypatch.context() as patch:
            patch.setattr(prepare, "fetch_many", fetch_many)
            arguments = ["--input", photographs, "--output", tmp_path / output, "--variant", tiny_toml]
            code, _, errors = pixelbeam("run", *arguments, *settings, *options)
        assert code == 0, errors
        assert pixelbeam("verify", tmp_path / output, "--deep")[0] == 0
        (directory,) = dataset.variants(tmp_path / output)
        return directory

    fetch = prepare.fetch_many
    return run


def failed(directory: Path) -> list[str]:
    return [Path(failure["uri"]).name for failure in dataset.failures(directory)]


def rounds(directory: Path) -> list[str]:
    return sorted(path.name.split(".", 1)[1] for path in directory.iterdir())


def test_failures_are_recovered_in_rounds(run, tmp_path: Path) -> None:
    directory = run(NAMES)
    assert failed(directory) == NAMES
    before = dataset.files(directory)
    # Without the option a failure stays as it is.
    assert dataset.files(run([])) == before
    run(NAMES[:2], "--retry-failures")
    assert failed(directory) == NAMES[:2]
    assert rounds(directory) == ["parquet", "parquet", "parquet", "r1.parquet", "r1.parquet"]
    assert before.items() <= dataset.files(directory).items()
    # Of each unit the last round's failures count, and the others' are gone.
    assert len(list((tmp_path / "out" / "_failures").rglob("*.parquet"))) == 1
    run([], "--retry-failures")
    assert failed(directory) == []
    assert rounds(directory) == ["parquet", "parquet", "parquet", "r1.parquet", "r1.parquet", "r1.parquet"]
    assert not list((tmp_path / "out" / "_failures").rglob("*.parquet"))
    rows, quiet = dataset.rows(directory), dataset.rows(run([], output="quiet"))
    scores = ["logits", "top_classes", "features"]
    assert rows.drop_columns(scores).equals(quiet.drop_columns(scores))
    for column in ("logits", "features"):
        vectors = [np.stack(table.column(column).to_numpy()) for table in (rows, quiet)]
        np.testing.assert_allclose(*vectors, rtol=1e-5, atol=1e-6)


def test_a_second_round_follows_the_first(run) -> None:
    directory = run(NAMES[:3])
    run(NAMES[:1], "--retry-failures")
    run([], "--retry-failures")
    assert failed(directory) == []
    assert rounds(directory) == ["parquet", "parquet", "parquet", "r1.parquet", "r1.parquet", "r2.parquet"]
    assert dataset.rows(directory).num_rows == 24


def test_a_round_that_recovers_nothing_leaves_no_trace(run, tmp_path: Path) -> None:
    run(NAMES)
    before = {name: time for name, time in dataset.files(tmp_path / "out").items() if "_runs" not in name}
    run(NAMES, "--retry-failures")
    assert (
        before.items()
        == {
            name: time for name, time in dataset.files(tmp_path / "out").items() if "_runs" not in name
        }.items()
    )


def test_a_round_that_is_missing_is_found(run, pixelbeam, tmp_path: Path) -> None:
    directory = run(NAMES[:3])
    run(NAMES[:1], "--retry-failures")
    run([], "--retry-failures")
    (first_round,) = (path for path in directory.glob("part-000000-*.r1.parquet"))
    first_round.unlink()
    code, output, _ = pixelbeam("verify", tmp_path / "out")
    assert code == 1
    assert "round 1 is missing" in " ".join(output.replace("│", " ").split())


def test_a_unit_that_is_done_anew_has_no_rounds_left(run, tiny_toml: str, tmp_path: Path) -> None:
    directory = run(NAMES)
    run([], "--retry-failures")
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcde"))
    run([], "--replace", "--class-names", str(names))
    assert rounds(directory) == ["parquet"] * 3

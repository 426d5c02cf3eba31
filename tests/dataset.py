"""Reading an output directory as its users do, for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commands import verify
from transforms import index
from transforms.footers import Footer, read_footer, united
from transforms.tables import rounds

SCORES = ["logits", "top_classes", "features"]


def variants(output: Path) -> list[Path]:
    """The directories of the variants."""
    return sorted(output.glob("variant=*"))


def rows(directory: Path) -> pa.Table:
    """A variant's rows, by uri."""
    return pa.concat_tables(pq.read_table(path) for path in sorted(directory.glob("*.parquet"))).sort_by(
        "uri"
    )


def footers(directory: Path) -> list[Footer]:
    """The footers of a variant's rows files, by unit; of several rounds what they say together."""
    by_unit = rounds(path.name for path in directory.glob("*.parquet"))
    return [
        united([read_footer(str(directory / name)) for name in names]) for _, names in sorted(by_unit.items())
    ]


def failures(directory: Path) -> list[dict[str, Any]]:
    """A variant's failures: those that a rows file names, by uri."""
    named = [footer.failures_file for footer in footers(directory) if footer.failures_file]
    found = [row for path in named for row in pq.read_table(directory.parent / path).to_pylist()]
    return sorted(found, key=lambda row: row["uri"])


def uris(output: Path) -> list[str]:
    """What the index lists, sorted."""
    work = index.read(str(output))
    assert work is not None
    return sorted(ref.uri for unit in work.units() for ref in index.members(unit))


def files(output: Path) -> dict[str, int]:
    """Every file and when it was last written."""
    return {
        str(path.relative_to(output)): path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()
    }


def assert_conserved(output: Path) -> None:
    """For each variant, inputs = rows + failures, as sets, each once."""
    assert variants(output)
    for directory in variants(output):
        done = rows(directory).column("uri").to_pylist()
        failed = [row["uri"] for row in failures(directory)]
        assert sorted([*done, *failed]) == uris(output)


def assert_equal(output: Path, expected: Path) -> None:
    """The same rows bitwise, the same failures, no file that does not belong, and `verify --deep` finds nothing.

    A unit over which two processes died is scored one image at a time, which rounds otherwise.
    """
    (mine,), (theirs,) = variants(output), variants(expected)
    rows_here, rows_there = rows(mine), rows(theirs)
    quarantined = any("quarantine" in footer.model for footer in footers(mine))
    assert rows_here.drop_columns(SCORES).equals(rows_there.drop_columns(SCORES))
    for column in ("logits", "features") if quarantined else ():
        vectors = [np.stack(table.column(column).to_numpy()) for table in (rows_here, rows_there)]
        np.testing.assert_allclose(*vectors, rtol=1e-5, atol=1e-6)
    assert quarantined or rows_here.equals(rows_there)
    assert failures(mine) == failures(theirs)
    assert sorted(path.name for path in mine.iterdir()) == sorted(path.name for path in theirs.iterdir())
    named = {footer.failures_file for footer in footers(mine)} - {None}
    belongs = {f"{mine.name}/{path.name}" for path in mine.iterdir()} | named
    belongs |= {f"_index/{part.path}" for part in index.read(str(output)).parts} | {"_index/CURRENT.json"}
    assert {name for name in files(output) if not name.startswith("_runs/")} == belongs
    assert verify.main(str(output), deep=True) == 0


def only(out: Path) -> Path:
    """The directory of an output's one variant."""
    (directory,) = variants(out)
    return directory

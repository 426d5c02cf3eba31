"""examples/bigquery.sql: BigQuery's grammar, the dataset's columns, and in DuckDB's words what DuckDB can run."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlglot
from sqlfluff.core import Linter
from sqlglot import exp

from tests.examples.conftest import B4, COPIES, EXAMPLES, directory

SCRIPT = (EXAMPLES / "bigquery.sql").read_text(encoding="utf-8")
KINDS = [
    "load_data_statement",
    "create_external_table_statement",
    "select_statement",
    "select_statement",
    "create_vector_index_statement",
    "select_statement",
]


def test_every_statement_is_bigquery_s() -> None:
    parsed = Linter(dialect="bigquery").parse_string(SCRIPT)
    assert parsed.violations == []
    assert parsed.tree is not None
    assert list(parsed.tree.recursive_crawl("unparsable")) == []
    assert [statement.segments[0].type for statement in parsed.tree.recursive_crawl("statement")] == KINDS


def test_a_mistake_in_the_one_statement_that_sqlglot_takes_as_it_is_is_seen() -> None:
    wrong = SCRIPT.replace("STORING (uri)", "STORED (uri)")
    parsed = Linter(dialect="bigquery").parse_string(wrong)
    assert parsed.violations


@pytest.fixture(scope="module")
def statements() -> list[exp.Expression]:
    """What sqlglot makes of the script; CREATE VECTOR INDEX it does not know."""
    return [each for each in sqlglot.parse(SCRIPT, dialect="bigquery") if each is not None]


def test_sqlglot_parses_all_but_one(statements: list[exp.Expression]) -> None:
    kinds = [type(statement).__name__ for statement in statements]
    assert kinds == ["LoadData", "Create", "Select", "Select", "Command", "Select"]


def test_every_column_is_one_of_the_dataset(statements: list[exp.Expression], rows: dict[str, Any]) -> None:
    columns = set(rows[B4].column_names) | {"index", "name", "probability"}
    for statement in statements:
        aliases = {alias.alias for alias in statement.find_all(exp.Alias)}
        named = {column.name for column in statement.find_all(exp.Column)} | set(
            re.findall(r"(?:ON mydata\.b4|STORING )\((\w+)\)", statement.sql("bigquery"))
        )
        assert named - aliases - {"best", "distance"} <= columns
    assert "'features'" in statements[-1].sql("bigquery")


def test_what_can_run_elsewhere_runs(
    folder: Path, rows: dict[str, Any], statements: list[exp.Expression]
) -> None:
    files = f"read_parquet('{directory(folder, B4)}/*.parquet')"
    classes, copies = (
        duckdb.sql(statement.sql("duckdb").replace("mydata.b4", files)).fetchall()
        for statement in statements[2:4]
    )
    expected: dict[tuple[str, int], int] = defaultdict(int)
    for row in rows[B4].select(["uri", "top_classes"]).to_pylist():
        for top in row["top_classes"]:
            expected[Path(row["uri"]).parent.name, top["index"]] += 1
    assert len(classes) == 9
    assert all(expected[name, index] == count for name, index, _, count, _ in classes)
    originals = sorted(COPIES)
    assert [row[1:] for row in copies] == [
        (str(folder / "photographs" / name), len(COPIES[name]), len(COPIES[name]) * size)
        for name in originals
        for size in [(folder / "photographs" / name).stat().st_size]
    ]

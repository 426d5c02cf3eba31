"""The README's blocks, each run or listed with the reason why not; its options and errors exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from pipelines import arguments, beam_options, options
from pipelines.estimate import accelerators
from tests import bad, dataset, tiny
from tests.gcs_server import GcsServer
from transforms import random_weights
from transforms.fetching import PASSING_ERROR, REFUSED
from transforms.quarantine import WORKER_DIED
from transforms.random_weights import RANDOM_WEIGHTS_MARK
from transforms.variants import find

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
VARIANT = "variant=google-efficientnet-b4-classification-1"

NOT_RUN = {
    "patterns ─► index": "a diagram",
    "make demo ": "runs the demonstration and these tests",
    "24 photographs, one cut": "printed by make demo",
    "pixelbeam pull --variant google/efficientnet/b4/classification/1 --model-dir gs:": "needs Dataflow",
    "dataset/": "a listing",
    "bq load": "needs BigQuery",
    "models/": "a listing",
    "bottleneck: ": "printed by a run",
}
"""Blocks that no test here runs, by how they begin, and why."""


def blocks() -> list[tuple[str, str]]:
    """The language and the text of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def block(start: str) -> str:
    """The one block that begins so."""
    (found,) = (text for _, text in blocks() if text.startswith(start))
    return found


def executed(text: str, **names: Any) -> dict[str, Any]:
    """The names that a block of Python leaves."""
    exec(text, names)
    return names


@pytest.fixture
def place(tmp_path: Path, photographs: Path, models: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs and models where the README has them; it is the current directory."""
    shutil.copytree(photographs, tmp_path / "photographs")
    shutil.copy(photographs / "photo-00003.jpg", tmp_path / "photographs" / "cat.jpg")
    (tmp_path / "models").symlink_to(models)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def given(place: Path, pixelbeam) -> Callable[[str], None]:
    """Gives the commands of a block, one after the other; each has to end well."""

    def give(text: str) -> None:
        lines = text.replace("\\\n", " ").splitlines()
        assert lines
        for line in lines:
            program, *words = shlex.split(line)
            assert program == "pixelbeam"
            code, _, errors = pixelbeam(*words)
            assert code == 0, errors

    return give


@pytest.fixture
def read(place: Path, tiny_toml: str, pixelbeam) -> Path:
    """The tiny variant's dataset under the name that the README reads; it has the same columns."""
    bad.write(place, "text.jpg", 0)
    inputs = ["photographs", "000-text.jpg"]
    assert pixelbeam("run", "--input", *inputs, "--output", "dataset", "--variant", tiny_toml)[0] == 0
    for folder in (place / "dataset", place / "dataset" / "_failures"):
        (folder / "variant=acme-tiny-classification-1").rename(folder / VARIANT)
    return place / "dataset"


def test_every_block_is_run_or_listed() -> None:
    """Also of a new block: a test has to run it, or NOT_RUN has to say why none does."""
    ran = set(re.findall(r'block\("(.+?)"\)', Path(__file__).read_text(encoding="utf-8")))
    starts = ran | set(NOT_RUN)
    for _, text in blocks():
        assert sum(text.startswith(start) for start in starts) == 1, text
    assert all(any(text.startswith(start) for _, text in blocks()) for start in starts)


def test_what_make_is_asked_for_exists() -> None:
    targets = re.findall(r"^make (\S+)", block("make demo "), re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert len(targets) == 2
    assert all(re.search(rf"^{target}:.*##", makefile, re.MULTILINE) for target in targets)


def test_tables_are_read(read: Path) -> None:
    rows = executed(block("import pandas"))["rows"]
    assert (len(rows), list(rows.columns)) == (25, ["uri", "top_classes"])
    assert executed(block("import polars"))["norms"].height == 25
    assert len(duckdb.sql(block("SELECT uri, top_classes")).fetchall()) == 10
    reasons = duckdb.sql(block("SELECT uri, step")).fetchall()
    assert [row[1:3] for row in reasons] == [("decode", "not_an_image")]


def test_a_report(read: Path, given) -> None:
    given(block("pixelbeam report"))
    assert (read / "report.html").stat().st_size < 8_000_000


@pytest.mark.full
def test_spark_reads_a_table(read: Path) -> None:
    program = [
        "import json",
        "from pyspark.sql import SparkSession",
        "spark = SparkSession.builder.getOrCreate()",
        block("rows = spark.read"),
        "print(json.dumps([row.asDict() for row in rows.orderBy('uri').collect()]))",
    ]
    # Spark's Java would outlive the session in this process.
    done = subprocess.run([sys.executable, "-c", "\n".join(program)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = dataset.rows(read / VARIANT).select(["uri", "features"]).to_pylist()
    assert json.loads(done.stdout) == expected


def test_the_library_does_what_a_run_does(place: Path, small_modules: str, pixelbeam) -> None:
    names = executed(block("import apache_beam"))
    assert names["exit_code"] == 0
    assert pixelbeam("verify", "dataset", "--deep")[0] == 0
    scores = executed(block("from pathlib import Path"))["scores"]
    rows = dataset.rows(place / "dataset" / "variant=google-efficientnet-b0-classification-1")
    assert rows.num_rows == 25
    (row,) = (row for row in rows.to_pylist() if row["uri"].endswith("/cat.jpg"))
    for name in ("logits", "features"):
        expected = np.array([row[name]], np.float32)
        np.testing.assert_allclose(scores[name], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_module_of_one_s_own(place: Path, given: Callable[[str], None]) -> None:
    tiny.write_module(str(place / "exported_model"), classes=40)
    (place / "my_module.toml").write_text(block("[[variants]]"))
    given(block("pixelbeam run --input photographs --output dataset --variant my_module.toml"))
    (directory,) = dataset.variants(place / "dataset")
    assert dataset.rows(directory).num_rows == 25


@pytest.fixture(scope="module")
def b4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for the module of TF Hub that the README runs: its format and architecture, other weights."""
    variant = find("google/efficientnet/b4/classification/1")
    path = tmp_path_factory.mktemp("models") / variant.directory
    random_weights.write(variant, str(path))
    (path / RANDOM_WEIGHTS_MARK).unlink()
    return path


@pytest.mark.full
def test_a_run(place: Path, b4: Path, given: Callable[[str], None]) -> None:
    (place / "models").unlink()
    (place / "models").symlink_to(b4.parent)
    given(block("pixelbeam pull --variant google/efficientnet/b4/classification/1 --model-dir models"))
    assert dataset.rows(place / "dataset" / VARIANT).num_rows == 25


@pytest.mark.full
def test_modules_in_a_bucket(place: Path, b4: Path, gcs: GcsServer, given: Callable[[str], None]) -> None:
    """On the tests' server of Cloud Storage."""
    gcs.create_bucket("my-bucket")
    gcs.put_directory(place / "photographs", "my-bucket", "photographs/")
    gcs.put_directory(b4, "my-bucket", f"models/{b4.name}/")
    given(block("pixelbeam pull --model-dir gs:"))
    assert len(gcs.objects("my-bucket", f"dataset/{VARIANT}/")) == 1


def test_every_option_exists() -> None:
    ours = arguments.option_names(options.build_parser())
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", README))
    beams = set(beam_options.beam_parser()._option_string_actions)
    assert named - ours - beams == {"--source_format", "--parquet_enable_list_inference"}


@pytest.mark.parametrize("document", ["README.md", "deploy/RUNBOOK.md"])
def test_every_accelerator_is_named(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    rows = [
        line for line in text.splitlines() if line.startswith(("| `--accelerator` | the GPU", "| `nvidia-"))
    ]
    assert set(re.findall(r"`(nvidia-[\w-]+)`", "".join(rows))) == set(accelerators())


def test_every_command_exists() -> None:
    parser = options.build_parser()
    (commands,) = (action.choices for action in parser._actions if action.choices)
    named = set(re.findall(r"^pixelbeam (\w+)", README, re.MULTILINE))
    assert named
    assert named <= set(commands)


def test_every_error_that_is_listed_is_raised_somewhere() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "transforms").glob("*.py"))
    table = README.split("| error | what was met |")[1].split("\n\n")[0]
    names = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    listed = set(re.findall(r"`(\w+)`", "\n".join(names)))
    raised = set(re.findall(r'BadImage\(\s*"(\w+)"', code)) | set(
        re.findall(r'\("(\w+)", (?:first_line|"the)', code)
    )
    assert listed == raised | {PASSING_ERROR, REFUSED, WORKER_DIED}

"""The README's ways of reading a variant, run on a dataset; its options and errors exist."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest

from pipelines import options
from pipelines.estimate import accelerators
from tests import bad
from transforms.fetching import PASSING_ERROR, REFUSED
from transforms.quarantine import WORKER_DIED

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
VARIANT = "variant=google-efficientnet-b4-classification-1"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def dataset(
    tmp_path: Path, photographs: Path, tiny_toml: str, pixelbeam, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The tiny variant's dataset under the name that the README reads; it has the same columns."""
    (tmp_path / "photos").symlink_to(photographs)
    bad.write(tmp_path, "text.jpg", 0)
    inputs = [tmp_path / "photos", tmp_path / "000-text.jpg"]
    assert (
        pixelbeam("run", "--input", *inputs, "--output", tmp_path / "dataset", "--variant", tiny_toml)[0] == 0
    )
    for folder in (tmp_path / "dataset", tmp_path / "dataset" / "_failures"):
        (folder / "variant=acme-tiny-classification-1").rename(folder / VARIANT)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "dataset"


def test_the_python_blocks_run(dataset: Path) -> None:
    ran = [block for block in blocks("python") if "spark" not in block]
    assert len(ran) == 2
    for block in ran:
        names: dict[str, object] = {}
        exec(block, names)
        assert len(names["rows"]) == 24
        assert "norms" not in names or names["norms"].height == 24


def test_the_sql_blocks_run(dataset: Path) -> None:
    best, reasons = (duckdb.sql(block).fetchall() for block in blocks("sql"))
    assert len(best) == 10
    assert [row[1:3] for row in reasons] == [("decode", "not_an_image")]


def test_every_option_exists() -> None:
    ours = options.option_names(options.build_parser())
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", README))
    beams = set(options.beam_parser()._option_string_actions)
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

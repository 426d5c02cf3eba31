"""Live lines: their arithmetic, and what a real terminal and a real pipe are given."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import module_sources
from pipelines.terminal import Line, rounded_duration
from tests import hub as hub_server
from tests import on_terminal

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


def clocked(now: list[float]) -> Callable[[], float]:
    return lambda: now[0]


def test_the_rate_counts_from_the_first_that_was_done() -> None:
    now = [50.0]
    line = Line("verifying", "footers", total=1000, clock=clocked(now))
    assert line.shown() == ("verifying", 0, 1000, "0 of 1,000 footers")
    now[0], line.done = 60.0, 100
    assert line.shown() == ("verifying", 100, 1000, "100 of 1,000 footers")
    now[0], line.done = 64.0, 300
    assert line.shown() == ("verifying", 300, 1000, "300 of 1,000 footers, 50.0 footers/s, 14 s left")


def test_without_a_total_no_time_is_left_and_a_slow_rate_is_seconds_each() -> None:
    now, counted = [0.0], [1.0]
    line = Line("fetching", "MB", count=lambda: counted[0], clock=clocked(now))
    assert line.shown() == ("fetching", 1, None, "1 MB")
    now[0], counted[0] = 10.0, 36.0
    assert line.shown() == ("fetching", 36, None, "36 MB, 3.5 MB/s")
    line = Line("pulling", "modules", total=4, clock=clocked(now))
    line.done = 1
    line.shown()
    now[0], line.done = 80.0, 2
    assert line.shown()[3] == "2 of 4 modules, 70 s each, 2 min left"


def test_one_long_step_says_how_long_it_has_been_at_it() -> None:
    now = [5.0]
    line = Line("optimising", clock=clocked(now))
    now[0] = 47.0
    assert line.shown() == ("optimising", 0, None, "42 s")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (99, "99 s"),
        (150, "2 min"),
        (5900, "98 min"),
        (6000, "1 h 40 min"),
        (180_000, "50 h 00 min"),
    ],
)
def test_durations_are_said_as_a_person_says_them(seconds: float, words: str) -> None:
    assert rounded_duration(seconds) == words


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, photographs: Path, tiny_toml: str, models: str) -> Path:
    """A dataset of three units, and what listing and running it showed."""
    out = tmp_path_factory.mktemp("dataset") / "out"
    words = ("--input", photographs, "--output", out, "--images-per-unit", 10)
    listed = on_terminal.pixelbeam("index", *words)
    assert listed.code == 0
    assert any(line.startswith("comparing with the index") and "24 images" in line for line in listed.shown)
    assert listed.shown[-1] == "24 images in 3 units, 24 new"
    done = on_terminal.pixelbeam("run", *words, "--variant", tiny_toml, "--model-dir", models)
    assert done.code == 0, done.shown
    assert any(line.startswith("running") and "of 24 images, " in line for line in done.shown)
    assert any(line.startswith("summing up") and "of 3 files" in line for line in done.shown)
    return out


def test_verify_shows_both_passes_and_leaves_the_terminal_in_order(dataset: Path) -> None:
    verified = on_terminal.pixelbeam("verify", dataset, "--deep", "--json")
    assert verified.code == 0
    assert json.loads(verified.output)["images"] == 24
    for noun in ("of 1 variants", "of 3 footers", "of 3 units"):
        assert any(noun in line for line in verified.shown), noun
    assert verified.raw.rindex(SHOW_CURSOR) > verified.raw.rindex(HIDE_CURSOR)


def test_what_goes_wrong_is_said_once_the_line_is_gone(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    listed = on_terminal.pixelbeam("index", "--input", tmp_path / "none", "--output", tmp_path / "out")
    assert listed.code == 2
    assert any(line.startswith("listing") for line in listed.shown)
    assert listed.shown[-1].startswith("pixelbeam: no images in ")
    assert listed.raw.rindex(SHOW_CURSOR) > listed.raw.rindex(HIDE_CURSOR)


def test_pull_shows_each_step_below_the_whole(hub: str, tmp_path: Path) -> None:
    spec, variant = hub_variant(tmp_path, hub)
    pulled = on_terminal.pixelbeam("pull", "--variant", spec, "--model-dir", tmp_path / "models")
    assert pulled.code == 0, pulled.shown
    assert pulled.output.startswith(f"{variant}: 5 classes, 4 features")
    for what in ("pulling", f"fetching {variant}", f"checking and optimising {variant}"):
        assert any(line.startswith(what) for line in pulled.shown), what
    assert any("of 1 modules" in line for line in pulled.shown)
    assert any(line.startswith("fetching") and line.endswith("MB") for line in pulled.shown)


@pytest.mark.filterwarnings("ignore")  # tensorflow-hub's, of pkg_resources
def test_what_is_fetched_is_counted_while_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    assert module_sources.hub_megabytes() == 0
    unpacked = tmp_path / "0123.4567.tmp" / "variables"
    unpacked.mkdir(parents=True)
    (unpacked / "variables.data").write_bytes(bytes(2_000_000))
    (unpacked.parent / "saved_model.pb").write_bytes(bytes(500_000))
    (tmp_path / "89ab").mkdir()
    (tmp_path / "89ab" / "of-another-module").write_bytes(bytes(1_000_000))
    assert module_sources.hub_megabytes() == 2.5


def hub_variant(folder: Path, address: str) -> tuple[str, str]:
    """A TOML file whose module is on the loopback hub, and the variant's name."""
    path, variant = hub_server.variant_at(folder / "acme", f"{address}/acme/tiny/classification/1")
    return path, variant.name


def test_a_pipe_is_given_no_line(
    dataset: Path, tmp_path: Path, tiny_toml: str, pixelbeam, monkeypatch: pytest.MonkeyPatch
) -> None:
    # rich would take this for a terminal.
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert pixelbeam("verify", dataset, "--deep")[2] == ""
    # A process of its own: TensorFlow is as quiet as it is told to be when it is loaded.
    pull = [sys.executable, "-m", "pipelines.cli", "pull", "--variant", tiny_toml, "--model-dir", tmp_path]
    done = subprocess.run(pull, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    code, output, errors = pixelbeam("index", "--input", dataset, "--output", tmp_path / "out")
    assert code == 2
    assert (output, errors.count("\n")) == ("", 1)

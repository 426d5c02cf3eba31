"""The benchmarks count every image and divide rightly; what they measure here means nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import measure, overhead, precision, startup, storage, throughput
from benchmarks.measure import Usage
from tests import tiny

Report = dict[str, Any]


def reported(capsys: pytest.CaptureFixture[str], main: Any, *arguments: object) -> Report:
    """What one benchmark prints with `--json`."""
    main([*map(str, arguments), "--json", "--rounds", "2"])
    report: Report = json.loads(capsys.readouterr().out)
    assert report["machine"]["cores"] >= 1
    for figure, values in report["rounds"].items():
        assert all(math.isfinite(value) for value in values)
        assert report["summary"][figure] == measure.summary(values)
    return report


def test_the_bound_on_a_cpu_is_the_sum_of_what_the_parts_take() -> None:
    assert throughput.bound([10.0], 10.0, "cpu") == pytest.approx(5.0)
    assert throughput.bound([10.0, 30.0], 7.5, "cpu") == pytest.approx(1 / (1 / 10 + 1 / 30 + 1 / 7.5))


def test_the_bound_on_a_gpu_is_the_slower_side() -> None:
    assert throughput.bound([10.0, 10.0], 8.0, "gpu") == pytest.approx(5.0)
    assert throughput.bound([10.0, 10.0], 4.0, "gpu") == pytest.approx(4.0)


@pytest.mark.parametrize("part", ["prepare", "pipeline", "plain acme"])
def test_a_part_that_left_out_an_image_is_refused(part: str) -> None:
    done = {"images": 60, "seconds": 1.0, "rows": 58, "failures": 1} if part != "prepare" else {"images": 59}
    with pytest.raises(SystemExit, match="59 of 60 images were done"):
        throughput.check_counts({"model acme": [{"images": 64}], part: [done]}, 60)


def test_an_image_costs_the_slope_between_the_least_and_the_largest_count() -> None:
    assert overhead.slope({100: 11.0, 300: 11.5, 1100: 12.0}) == pytest.approx(1000.0)
    assert overhead.slope({100: 1.0}) == pytest.approx(10_000.0)


def test_memory_is_compared_by_the_largest_and_the_smallest_peak() -> None:
    usages = {10: Usage(1.0, 1.0, 200), 20: Usage(2.0, 3.0, 500), 30: Usage(3.0, 5.0, 400)}
    figures = overhead.quotients(usages, alone_microseconds=50_000.0)
    assert figures["largest peak / smallest"] == 2.5
    assert figures["peak at 30 / at 10"] == 2.0
    assert figures["pipeline: CPU µs an image"] == pytest.approx(200_000.0)
    assert figures["pipeline: wall µs an image"] == pytest.approx(100_000.0)
    assert figures["pipeline / alone"] == pytest.approx(4.0)


def test_a_way_of_reading_or_listing_that_left_out_something_is_refused() -> None:
    assert storage.measured(lambda: 60, 60)["seconds"] >= 0
    with pytest.raises(SystemExit, match="59 came of 60"):
        storage.measured(lambda: 59, 60)


def test_keys_that_do_not_fill_the_tree_are_refused() -> None:
    with pytest.raises(SystemExit, match="--keys must be a multiple of 40, got 50"):
        storage.main(["--keys", "50"])


def test_the_worst_image_decides_how_far_outputs_are() -> None:
    import numpy as np

    reference = {"features": np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)}
    outputs = {"features": np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)}
    figures = precision.differences(outputs, reference)
    assert figures == {"features relative L2": pytest.approx(math.sqrt(2)), "features cosine": 0.0}


def test_photographs_are_as_many_as_asked_of_which_64_are_distinct(tmp_path: Path) -> None:
    folder = Path(measure.photographs(str(tmp_path), 70))
    contents = [path.read_bytes() for path in sorted(folder.iterdir())]
    assert len(contents) == 70
    assert len(set(contents)) == measure.DISTINCT
    assert contents[:6] == contents[64:]
    assert measure.photographs(str(tmp_path), 70) == str(folder)


@pytest.mark.full
def test_throughput(tmp_path: Path, tiny_toml: str, models: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--work", tmp_path, "--model-dir", models, "--count", 40, "--images-per-unit", 16, "--plain"]
    report = reported(capsys, throughput.main, "--variant", tiny_toml, *options)
    assert report["settings"]["images"] == 40
    assert report["settings"]["units"] == 3
    assert report["settings"]["variants"] == [tiny.NAME]
    rounds = report["rounds"]
    for number in range(2):
        model, plain = (rounds[f"{part} {tiny.NAME}"][number] for part in ("model", "plain"))
        prepare, pipeline, bound = (rounds[part][number] for part in ("prepare", "pipeline", "bound"))
        assert report["settings"]["kind"] == "gpu" or bound == pytest.approx(1 / (1 / model + 1 / prepare))
        assert rounds["pipeline / bound"][number] == pytest.approx(pipeline / bound)
        assert rounds["pipeline / plain"][number] == pytest.approx(pipeline / plain)


@pytest.mark.full
def test_throughput_of_several_variants(
    tmp_path: Path, tiny_toml: str, models: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    names = (tiny.NAME, "acme/other/classification/1")
    other = tiny.write_variant(str(tmp_path / "other"), seed=1, resize="squash_bilinear", name=names[1])
    options = ["--work", tmp_path, "--model-dir", models, "--count", 40, "--plain", "--precision", "fast"]
    report = reported(capsys, throughput.main, "--variant", tiny_toml, other, *options)
    rounds = report["rounds"]
    seconds = [1 / rounds[f"model {name}"][0] for name in names] + [1 / rounds["prepare"][0]]
    assert rounds["bound"][0] == pytest.approx(1 / sum(seconds))
    plain = [1 / rounds[f"plain {name}"][0] for name in names]
    assert rounds["plain"][0] == pytest.approx(1 / sum(plain))


@pytest.mark.full
def test_overhead(tmp_path: Path, models: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--counts", 10, 30, "--work", tmp_path, "--model-dir", models]
    report = reported(capsys, overhead.main, *options)
    for number in range(2):
        figures = {name: values[number] for name, values in report["rounds"].items()}
        cpu = (figures["30 images: CPU s"] - figures["10 images: CPU s"]) / 20 * 1e6
        assert figures["pipeline: CPU µs an image"] == pytest.approx(cpu)
        assert figures["pipeline / alone"] == pytest.approx(
            cpu / figures["decode and resize alone: CPU µs an image"]
        )
        peaks = [figures[f"{count} images: peak MB"] for count in (10, 30)]
        assert figures["largest peak / smallest"] == pytest.approx(max(peaks) / min(peaks))


@pytest.mark.full
def test_startup(tmp_path: Path, tiny_toml: str, models: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--variant", tiny_toml, "--work", tmp_path, "--model-dir", models, "--count", 20]
    rounds = reported(capsys, startup.main, *options)["rounds"]
    for number in range(2):
        imports = rounds["import TensorFlow"][number]
        assert 0 < rounds["list"][number] < rounds[startup.FIRST_BATCH][number]
        assert rounds[startup.FIRST_BATCH][number] + imports < rounds[startup.WHOLE][number]


@pytest.mark.full
def test_precision(tmp_path: Path, tiny_toml: str, models: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--variant", tiny_toml, "--work", tmp_path, "--model-dir", models, "--count", 20]
    rounds = reported(capsys, precision.main, *options)["rounds"]
    for step in (*precision.STEPS["exact"], *precision.STEPS["fast"]):
        for number in range(2):
            speeds = [rounds[f"{which}: images/s"][number] for which in (step, "loaded")]
            assert rounds[f"{step} / loaded"][number] == pytest.approx(speeds[0] / speeds[1])
        assert rounds[f"{step}: logits cosine"][0] > 0.99
        if step in precision.STEPS["exact"]:
            assert rounds[f"{step}: features relative L2"][0] < 1e-5
    assert rounds["loaded: features relative L2"] == [0.0]


@pytest.mark.full
def test_storage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = reported(capsys, storage.main, "--objects", 80, "--keys", 4000, "--work", tmp_path)
    assert report["settings"]["prefixes"] == 100
    rounds = report["rounds"]
    ours, *others = storage.READERS
    for number in range(2):
        for way in others:
            speeds = [rounds[f"{which}: images/s"][number] for which in (ours, way)]
            assert rounds[f"{ours} / {way}"][number] == pytest.approx(speeds[0] / speeds[1])
        for tree in storage.TREES:
            seconds = [rounds[f"{tree}, {way}: s"][number] for way in ("paging", "list_tree")]
            assert rounds[f"{tree}, paging / list_tree"][number] == pytest.approx(seconds[0] / seconds[1])
            # Each page waits before it is given.
            assert seconds[0] > 4 * storage.PAGE_SECONDS
            assert rounds[f"{tree}, paging: requests"][number] == 4
            assert 4 <= rounds[f"{tree}, list_tree: requests"][number] < 60
        # One after another, each object waits before it is given.
        assert rounds["one request after another: images/s"][number] < 1 / storage.LATENCY_SECONDS
        assert rounds["flat, pixelbeam index: peak MB"][number] > 0

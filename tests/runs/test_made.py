"""What a run makes of a folder."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter

import pipelines.launch
import pipelines.run
from pipelines import listing
from pipelines.config import RunConfig
from pipelines.run import Begun
from tests import bad, dataset, tiny
from transforms import attempts, devices, index, runtime, snapshots
from transforms.comparison import LEAST_COSINE
from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.footers import read_footer
from transforms.infer import METRICS
from transforms.listing import USUAL_LAYOUT
from transforms.snapshots import UnitSize


def test_a_folder_becomes_a_verified_dataset(run, pixelbeam, out: Path, folder: Path) -> None:
    code, output, errors = run()
    assert code == 0
    assert "26 images in 3 units, 26 new" in errors
    dataset.assert_conserved(out)
    assert {row["uri"]: (row["step"], row["error"]) for row in dataset.failures(dataset.only(out))} == {
        str(folder / "000-text.jpg"): ("decode", "not_an_image"),
        str(folder / "001-cut.jpg"): ("decode", "truncated"),
    }
    for word in (
        "acme/tiny/classification/1",
        "24",
        "2",
        "1 decode: truncated",
        f"{dataset.only(out)}/*.parquet",
    ):
        assert word in output
    code, output, _ = pixelbeam("verify", out, "--deep")
    assert (code, "24 rows + 2 failures of 26 images: every image accounted for" in output) == (0, True)


def test_the_run_is_recorded(run, out: Path, tiny_run: VariantRun) -> None:
    run()
    (path,) = (out / "_runs").iterdir()
    record = json.loads(path.read_text())
    assert record["run"] == path.stem
    assert record["configuration"]["batch_size"] == 4
    assert (record["images"], record["units"]) == (26, 3)
    assert record["variants"][0]["settings"] == tiny_run.settings
    assert record["variants"][0]["random_weights"] is False
    assert {footer.run for footer in dataset.footers(dataset.only(out))} == {path.stem}


def test_the_same_file_by_two_patterns_counts_once(run, out: Path, folder: Path) -> None:
    code, _, errors = run(inputs=(folder, folder / "photo-0000*.jpg"))
    assert (code, "10 listed twice" in errors) == (0, True)
    assert len(dataset.uris(out)) == 26
    dataset.assert_conserved(out)


def test_two_variants_share_a_run(run, out: Path, tmp_path: Path, tiny_toml: str) -> None:
    (tmp_path / "other").mkdir()
    other = tiny.write_variant(str(tmp_path / "other"), seed=1, resize="squash_bilinear", name="acme/other/1")
    assert run(variants=(tiny_toml, other))[0] == 0
    assert [path.name for path in dataset.variants(out)] == [
        "variant=acme-other-1",
        "variant=acme-tiny-classification-1",
    ]
    dataset.assert_conserved(out)
    one, two = (dataset.rows(path) for path in dataset.variants(out))
    assert one.column("sha256").equals(two.column("sha256"))
    assert not one.column("features").equals(two.column("features"))


def test_class_names_are_written(run, out: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(
        "background\n" + "\n".join(f"class-{number}" for number in range(tiny.CLASSES))
    )
    run("--class-names", tmp_path / "names.txt")
    for row in dataset.rows(dataset.only(out)).to_pylist():
        assert [top["name"] for top in row["top_classes"]] == [
            f"class-{top['index']}" for top in row["top_classes"]
        ]


def test_index_lists_without_running(pixelbeam, folder: Path, out: Path) -> None:
    code, output, errors = pixelbeam("index", "--input", folder, "--output", out, "--images-per-unit", 7)
    assert code == 0
    assert "26 images in 4 units, 26 new" in errors
    assert output.strip() == str(out / "_index" / index.read(str(out)).snapshot)
    assert os.listdir(out) == ["_index"]


def test_strange_names_come_through(
    pixelbeam, tmp_path: Path, photographs: Path, tiny_toml: str, out: Path
) -> None:
    folder = tmp_path / "strange"
    folder.mkdir()
    names = ["with space.jpg", "a#b.jpg", "100%25.jpg", "x::y.jpg", "naïve-日本.jpg", "what[1]?.jpg"]
    for number, name in enumerate(names):
        shutil.copy(photographs / f"photo-{number:05d}.jpg", folder / name)
    assert pixelbeam("run", "--input", folder, "--output", out, "--variant", tiny_toml)[0] == 0
    assert dataset.rows(dataset.only(out)).column("uri").to_pylist() == sorted(
        str(folder / name) for name in names
    )


def test_500_images_of_which_60_are_bad_in_12_ways(
    pixelbeam, tmp_path: Path, photographs: Path, tiny_toml: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(440):
        shutil.copy(photographs / f"photo-{number % 24:05d}.jpg", folder / f"{number:03d}-good.jpg")
    kinds = list(bad.REASONS) * 5
    broken = {str(bad.write(folder, name, number * 7)): name for number, name in enumerate(kinds)}
    assert (len(broken), len(bad.REASONS)) == (60, 12)
    (tmp_path / "other").mkdir()
    other = tiny.write_variant(str(tmp_path / "other"), seed=1, resize="squash_bilinear", name="acme/other/1")
    update = snapshots.update

    def update_and_strike(*arguments):
        result = update(*arguments)
        for path in broken:
            bad.strike(Path(path))
        return result

    monkeypatch.setattr(snapshots, "update", update_and_strike)
    options = ["--images-per-unit", 64, "--batch-size", 16, "--max-failure-ratio", 0.2]
    arguments = ["run", "--input", folder, "--output", out, "--variant", tiny_toml, other]
    assert pixelbeam(*arguments, *options)[0] == 0
    dataset.assert_conserved(out)
    for directory in dataset.variants(out):
        found = {row["uri"]: (row["step"], row["error"]) for row in dataset.failures(directory)}
        assert found == {uri: bad.REASONS[name] for uri, name in broken.items()}
        assert dataset.rows(directory).num_rows == 440
    assert pixelbeam("verify", out, "--deep")[0] == 0


def test_a_unit_takes_some_minutes_where_the_run_is() -> None:
    def unit_of(*variants: str) -> int:
        config = RunConfig(("x",), "x", variants, "x")
        return listing.unit_size(None, pipelines.run.usual_unit(config)).images

    b0, b4, v2_xl = (
        "google/efficientnet/b0/classification/1",
        "google/efficientnet/b4/classification/1",
        "google/imagenet/efficientnet_v2_imagenet21k_xl/feature_vector/2",
    )
    assert unit_of(b0) == 4096
    assert unit_of(b4) == min(4096, int(300 * devices.cores() * 32 / 4.39))
    assert 64 <= unit_of(v2_xl, b4) < unit_of(v2_xl) < 4096


def test_the_summary_ends_in_one_verdict(run) -> None:
    _, output, _ = run()
    assert output.splitlines()[-1].startswith("bottleneck: ")
    _, output, _ = run()
    assert output.splitlines()[-1] == "nothing was left to do"


def test_the_rows_say_how_the_module_was_run(run, out: Path) -> None:
    run()
    footers = [read_footer(str(path)) for path in dataset.only(out).glob("*.parquet")]
    assert [footer.model["graph"] for footer in footers] == ["frozen"] * 3
    assert all(footer.model["difference"] < 1e-5 for footer in footers)
    run("--precision", "fast", "--replace")
    devices.set_precision("exact")
    for path in dataset.only(out).glob("*.parquet"):
        assert min(read_footer(str(path)).model["cosine_to_exact"].values()) >= LEAST_COSINE


def test_models_are_loaded_beside_the_listing_and_once(run, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, loads = threading.Event(), []

    def load_models(runs: tuple[VariantRun, ...]) -> runtime.Models:
        begun.set()
        return runtime.load_models(runs)

    def list_work(*arguments: object) -> index.Index:
        assert begun.wait(60)
        return listing.list_work(*arguments)

    load = runtime._load
    monkeypatch.setattr(runtime, "_cache", {})
    monkeypatch.setattr(runtime, "_load", lambda run: loads.append(run) or load(run))
    monkeypatch.setattr(pipelines.run, "load_models", load_models)
    monkeypatch.setattr(pipelines.run, "list_work", list_work)
    assert run()[0] == 0
    assert len(loads) == 1


@pytest.mark.parametrize("end", [KeyboardInterrupt, RunError("no"), None])
def test_an_end_in_order_leaves_no_markers(
    run, out: Path, monkeypatch: pytest.MonkeyPatch, end: object
) -> None:
    def launch(pipeline: object) -> None:
        launched(pipeline)
        assert os.listdir(out / "_attempts") == [os.path.basename(others)]
        # A thread that is at a unit does not hear of Ctrl-C.
        (record,) = (out / "_runs").iterdir()
        attempts.begin(str(out), record.stem, 0)
        if end:
            raise end

    launched = pipelines.launch.launch
    monkeypatch.setattr(pipelines.launch, "launch", launch)
    others = attempts.begin(str(out), "a run that died", 7)
    code, _, _ = run()
    left = [os.path.basename(others)] if end else []
    assert (os.listdir(out / "_attempts") if left else (out / "_attempts").exists()) == (left or False)
    assert (code == 0) is (end is None)


def test_beam_s_metrics_tell_what_was_done(
    tmp_path: Path, folder: Path, tiny_run: VariantRun, models: str, tiny_toml: str
) -> None:
    config = RunConfig(
        (str(folder),), str(tmp_path / "out"), (tiny_toml,), models, batch_size=4, max_failure_ratio=1
    )
    work = listing.list_work(config.inputs, config.output, USUAL_LAYOUT, UnitSize(10), None)
    runtime._cache.clear()
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipelines.run.build(pipeline, Begun(config, (tiny_run,), work, "run"))
    found = pipeline.result.metrics().query(MetricsFilter().with_namespace(METRICS))
    counters = {counter.key.metric.name: counter.result for counter in found["counters"]}
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert {name: counters[name] for name in ("images", "bytes", "decode_failures")} == {
        "images": 26,
        "bytes": size,
        "decode_failures": 2,
    }
    distributions = {each.key.metric.name: each.result for each in found["distributions"]}
    assert (distributions["batch_images"].sum, distributions["batch_images"].max) == (24, 4)
    steps = {f"{step}_milliseconds" for step in ("fetch", "decode", "wait", "model", "write", "model_load")}
    assert steps | {"device_busy_percent", "model_bytes"} <= set(distributions)
    assert distributions["model_load_milliseconds"].count == distributions["model_bytes"].count == 1
    assert distributions["device_busy_percent"].count == 3

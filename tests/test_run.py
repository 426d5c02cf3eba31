"""`pixelbeam run` from folder to dataset, with a tiny module: what is kept, refused, gone on with."""

from __future__ import annotations

import json
import os
import re
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
from pipelines.run import Begun, check, exit_code
from tests import bad, dataset, photos, tiny
from tests.records import footer, refs, unit
from transforms import attempts, devices, index, runtime, snapshots
from transforms.comparison import LEAST_COSINE
from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.footers import read_footer
from transforms.infer import METRICS
from transforms.listing import USUAL_LAYOUT, list_images
from transforms.snapshots import UnitSize


@pytest.fixture
def folder(tmp_path: Path, photographs: Path) -> Path:
    """24 photographs, a text and a cut one."""
    folder = tmp_path / "photos"
    shutil.copytree(photographs, folder)
    bad.write(folder, "text.jpg", 0)
    bad.write(folder, "cut.jpg", 1)
    return folder


@pytest.fixture
def run(pixelbeam, folder: Path, tmp_path: Path, tiny_toml: str):
    """Runs the tiny variant over the folder into `out`; options may be added."""

    def run(
        *options: object, inputs: tuple[object, ...] = (folder,), variants: tuple[str, ...] = (tiny_toml,)
    ):
        arguments = ["run", "--input", *inputs, "--output", tmp_path / "out", "--variant", *variants]
        return pixelbeam(*arguments, "--images-per-unit", 10, "--batch-size", 4, *options)

    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def only(out: Path) -> Path:
    (directory,) = dataset.variants(out)
    return directory


def test_a_folder_becomes_a_verified_dataset(run, pixelbeam, out: Path, folder: Path) -> None:
    code, output, errors = run()
    assert code == 0
    assert "26 images in 3 units, 26 new" in errors
    dataset.assert_conserved(out)
    assert {row["uri"]: (row["step"], row["error"]) for row in dataset.failures(only(out))} == {
        str(folder / "000-text.jpg"): ("decode", "not_an_image"),
        str(folder / "001-cut.jpg"): ("decode", "truncated"),
    }
    for word in (
        "acme/tiny/classification/1",
        "24",
        "2",
        "1 decode: truncated",
        f"{only(out)}/*.parquet",
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
    assert {footer.run for footer in dataset.footers(only(out))} == {path.stem}


def test_the_same_command_again_changes_nothing(run, out: Path) -> None:
    run()
    before = dataset.files(out)
    code, output, _ = run()
    assert code == 0
    assert "–" in output
    after = dataset.files(out)
    assert {name for name in after if name not in before} == {
        f"_runs/{name}" for name in os.listdir(out / "_runs")
    } - set(before)
    assert {name: after[name] for name in before} == before


def test_a_missing_rows_file_alone_is_done_again(run, out: Path) -> None:
    run()
    whole = dataset.rows(only(out))
    paths = sorted(only(out).glob("*.parquet"))
    kept = {path.name: path.stat().st_mtime_ns for path in paths[1:]}
    paths[0].unlink()
    assert run()[0] == 0
    assert dataset.rows(only(out)).equals(whole)
    assert {path.name: path.stat().st_mtime_ns for path in sorted(only(out).glob("*.parquet"))[1:]} == kept


def test_new_images_become_new_units(run, out: Path, folder: Path) -> None:
    run()
    before = dataset.files(out)
    photos.write_photographs(folder / ".." / "photos", 3, seed=9, size=(40, 30))
    for number in range(3):
        (folder / f"photo-{number:05d}.jpg").rename(folder / f"zebra-{number}.jpg")
    # The three originals are gone now, the index keeps them, and their rows stay.
    code, _, errors = run()
    assert (code, "29 images in 4 units, 3 new" in errors) == (0, True)
    after = dataset.files(out)
    rows = {name for name in before if name.startswith("variant=")}
    assert {name: after[name] for name in rows} == {name: before[name] for name in rows}
    assert len([name for name in after if name.startswith("variant=")]) == len(rows) + 1
    dataset.assert_conserved(out)


def test_a_changed_image_is_done_anew_and_its_stale_row_goes(run, pixelbeam, out: Path, folder: Path) -> None:
    run()
    before = dataset.files(out)
    path = folder / "photo-00020.jpg"
    path.write_bytes(bad.JPEG)
    code, _, errors = run()
    assert (code, "26 images in 3 units, 1 changed" in errors) == (0, True)
    (row,) = [row for row in dataset.rows(only(out)).to_pylist() if row["uri"] == str(path)]
    assert row["size"] == len(bad.JPEG)
    rows = {name for name in dataset.files(out) if name.startswith("variant=")}
    assert len(rows) == 3
    assert len(rows & set(before)) == 2
    assert pixelbeam("verify", out, "--deep")[0] == 0


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


def test_other_settings_are_refused_and_replaced_when_asked(run, pixelbeam, out: Path) -> None:
    run()
    before = dataset.files(out)
    code, _, errors = run("--precision", "fast")
    assert code == 2
    assert "made with precision exact, not fast; give --replace" in errors
    assert dataset.files(out) == before
    assert run("--precision", "fast", "--replace")[0] == 0
    assert {footer.settings["precision"] for footer in dataset.footers(only(out))} == {"fast"}
    assert not set(before) & {name for name in dataset.files(out) if "part-" in name and "_index" not in name}
    assert pixelbeam("verify", out, "--deep")[0] == 0


def test_another_module_is_refused_and_replaced_when_asked(run, pixelbeam, out: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    mine = tiny.write_variant(str(tmp_path / "mine"), seed=1)
    run(variants=(mine,))
    shutil.rmtree(tmp_path / "mine" / "module")
    tiny.write_variant(str(tmp_path / "mine"), seed=2)
    code, _, errors = run(variants=(mine,))
    assert code == 2
    assert "made with module" in errors
    old = dataset.rows(only(out))
    assert run("--replace", variants=(mine,))[0] == 0
    assert not dataset.rows(only(out)).column("features").equals(old.column("features"))
    assert len(dataset.footers(only(out))) == 3
    assert pixelbeam("verify", out, "--deep")[0] == 0


def test_another_policy_is_refused(run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    run(variants=(tiny.write_variant(str(tmp_path / "mine")),))
    code, _, errors = run(variants=(tiny.write_variant(str(tmp_path / "mine"), resize="squash_bilinear"),))
    assert code == 2
    assert "made with resize center_crop_bilinear, not squash_bilinear" in errors


def test_too_many_failures_are_exit_3_when_the_run_is_through(run, out: Path) -> None:
    code, output, _ = run("--max-failure-ratio", "0.05", "--images-per-unit", "26")
    assert code == 3
    assert "1 decode: truncated" in output
    dataset.assert_conserved(out)


def test_a_hopeless_run_stops_with_one_line(run, out: Path) -> None:
    code, output, errors = run("--max-failure-ratio", "0", "--images-per-unit", "1", "--batch-size", "1")
    assert code == 1
    assert output == ""
    # Two threads work; the second may have failed an image too by then.
    assert re.match(r"pixelbeam: stopped early: [12] of 26 images of acme/tiny", errors.splitlines()[-1])
    assert "Traceback" not in errors


def test_class_names_are_written(run, out: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(
        "background\n" + "\n".join(f"class-{number}" for number in range(tiny.CLASSES))
    )
    run("--class-names", tmp_path / "names.txt")
    for row in dataset.rows(only(out)).to_pylist():
        assert [top["name"] for top in row["top_classes"]] == [
            f"class-{top['index']}" for top in row["top_classes"]
        ]


def test_a_trial_takes_the_first_images_and_a_run_goes_on_from_there(run, out: Path) -> None:
    assert run("--limit", "5", "--max-failure-ratio", "0.5")[0] == 0
    assert len(dataset.uris(out)) == 5
    assert run()[0] == 0
    assert len(dataset.uris(out)) == 26
    dataset.assert_conserved(out)
    code, _, errors = run("--limit", "5")
    assert code == 2
    assert "has an index of 26 images already" in errors


def test_index_lists_without_running(pixelbeam, folder: Path, out: Path) -> None:
    code, output, errors = pixelbeam("index", "--input", folder, "--output", out, "--images-per-unit", 7)
    assert code == 0
    assert "26 images in 4 units, 26 new" in errors
    assert output.strip() == str(out / "_index" / index.read(str(out)).snapshot)
    assert os.listdir(out) == ["_index"]


def test_a_broken_rows_file_is_one_clear_line(run, out: Path) -> None:
    run()
    path = sorted(only(out).glob("*.parquet"))[0]
    path.write_bytes(b"PAR1")
    code, _, errors = run()
    assert code == 1
    assert f"pixelbeam: {path} is no rows file of ours" in errors.splitlines()[-1]
    path.unlink()
    assert run()[0] == 0


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("google/efficientnet/b4/clasification/1", "google/efficientnet/b4/classification/1"),
        ("nowhere.toml", "nowhere.toml"),
    ],
)
def test_an_unknown_variant_is_refused(run, variant: str, message: str) -> None:
    code, _, errors = run(variants=(variant,))
    assert (code, errors.count("\n")) == (2, 1)
    assert message in errors


def test_a_variant_named_twice_is_refused(run, tiny_toml: str) -> None:
    code, _, errors = run(variants=(tiny_toml, tiny_toml))
    assert code == 2
    assert "twice" in errors


def test_an_empty_folder_is_refused_and_leaves_no_index(run, out: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, errors = run(inputs=(tmp_path / "empty",))
    assert code == 2
    assert "no images in" in errors.splitlines()[-1]
    assert index.read(str(out)) is None


def test_an_interrupted_listing_is_done_again(run, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments):
        yield from list(list_images(*arguments))[:5]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(listing, "list_images", interrupted)
        code, _, errors = run()
    assert (code, errors.splitlines()[-1]) == (
        130,
        "pixelbeam: interrupted; run the same command again to go on",
    )
    assert run()[0] == 0
    dataset.assert_conserved(out)


def test_strange_names_come_through(
    pixelbeam, tmp_path: Path, photographs: Path, tiny_toml: str, out: Path
) -> None:
    folder = tmp_path / "strange"
    folder.mkdir()
    names = ["with space.jpg", "a#b.jpg", "100%25.jpg", "x::y.jpg", "naïve-日本.jpg", "what[1]?.jpg"]
    for number, name in enumerate(names):
        shutil.copy(photographs / f"photo-{number:05d}.jpg", folder / name)
    assert pixelbeam("run", "--input", folder, "--output", out, "--variant", tiny_toml)[0] == 0
    assert dataset.rows(only(out)).column("uri").to_pylist() == sorted(str(folder / name) for name in names)


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


@pytest.mark.parametrize(
    ("failed", "ratio", "code"), [(1, 0.1, 0), (2, 0.1, 3), (0, 0.0, 0), (1, 0.0, 3), (10, 1.0, 0)]
)
def test_the_exit_code_is_3_above_the_ratio(
    tiny_run: VariantRun, failed: int, ratio: float, code: int
) -> None:
    said = footer(tiny_run, unit(refs(10)), rows=10 - failed, failures=failed)
    assert exit_code(ratio, {tiny_run.variant.name: [said]}) == code


def test_a_refused_run_leaves_the_index_as_it_was(run, pixelbeam, out: Path, folder: Path) -> None:
    run()
    shutil.copy(folder / "photo-00000.jpg", folder / "another.jpg")
    assert run("--precision", "fast")[0] == 2
    assert pixelbeam("verify", out)[0] == 0


def test_a_dataset_with_many_failures_can_be_gone_on_with(run, out: Path, folder: Path) -> None:
    assert run("--max-failure-ratio", "0", "--images-per-unit", "26")[0] == 3
    assert run("--max-failure-ratio", "0")[0] == 3
    shutil.copy(folder / "photo-00000.jpg", folder / "another.jpg")
    code, _, errors = run("--max-failure-ratio", "0")
    assert code == 3
    assert "2 of 27 images of acme/tiny/classification/1 failed, more than --max-failure-ratio 0.0" in errors
    dataset.assert_conserved(out)


def test_the_summary_ends_in_one_verdict(run) -> None:
    _, output, _ = run()
    assert output.splitlines()[-1].startswith("bottleneck: ")
    _, output, _ = run()
    assert output.splitlines()[-1] == "nothing was left to do"


def test_a_gpu_that_was_asked_for_and_is_not_there_is_one_line_before_anything_is_written(
    run, out: Path
) -> None:
    code, _, errors = run("--require-gpu")
    assert (code, errors.count("\n"), out.exists()) == (1, 1, False)
    assert errors.startswith("pixelbeam: --require-gpu, but TensorFlow sees no GPU")


def test_an_option_of_dataflow_s_is_refused_here(run, out: Path) -> None:
    code, _, errors = run("--accelerator", "nvidia-l4")
    assert (code, errors) == (
        2,
        "pixelbeam: --accelerator is for Dataflow; add --runner=DataflowRunner, or leave it out\n",
    )
    assert not out.exists()


def test_a_gpu_is_asked_of_the_machines_that_work_not_of_the_one_that_launches() -> None:
    elsewhere = ("--runner=PortableRunner", "--job_endpoint=localhost:1")
    check(RunConfig(("x",), "x", ("x",), "x", require_gpu=True, beam_options=elsewhere))


def test_a_gpu_option_of_dataflow_implies_that_one_is_required() -> None:
    option = "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"
    assert RunConfig(("x",), "x", ("x",), "x", beam_options=(option,)).wants_gpu
    assert not RunConfig(("x",), "x", ("x",), "x", beam_options=("--region=x",)).wants_gpu


def test_the_rows_say_how_the_module_was_run(run, out: Path) -> None:
    run()
    footers = [read_footer(str(path)) for path in only(out).glob("*.parquet")]
    assert [footer.model["graph"] for footer in footers] == ["frozen"] * 3
    assert all(footer.model["difference"] < 1e-5 for footer in footers)
    run("--precision", "fast", "--replace")
    devices.set_precision("exact")
    for path in only(out).glob("*.parquet"):
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

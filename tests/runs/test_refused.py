"""What is refused, and what ends a run before or at its end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines.config import RunConfig
from pipelines.run import check, exit_code
from tests import dataset
from tests.records import footer, refs, unit
from transforms import index
from transforms.fingerprints import VariantRun


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


@pytest.mark.parametrize(
    ("failed", "ratio", "code"), [(1, 0.1, 0), (2, 0.1, 3), (0, 0.0, 0), (1, 0.0, 3), (10, 1.0, 0)]
)
def test_the_exit_code_is_3_above_the_ratio(
    tiny_run: VariantRun, failed: int, ratio: float, code: int
) -> None:
    said = footer(tiny_run, unit(refs(10)), rows=10 - failed, failures=failed)
    assert exit_code(ratio, {tiny_run.variant.name: [said]}) == code


def test_a_broken_rows_file_is_one_clear_line(run, out: Path) -> None:
    run()
    path = sorted(dataset.only(out).glob("*.parquet"))[0]
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

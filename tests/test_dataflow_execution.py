"""The product on Dataflow: submitted by DataflowRunner, executed as it was staged, by workers with the wheel alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner

from deploy.flex_template import main as template
from pipelines import jobs
from pipelines.commands import pull
from tests import cloud, dataset, worker_wheel
from tests.cloud import IN, OUT
from tests.dataflow_server import DataflowServer, Execution, Message, Step
from tests.gcs_server import GcsServer
from tests.worker_wheel import ROOT, WorkerWheel
from transforms.variants import find

B0 = "google/efficientnet/b0/classification/1"
MODELS = "gs://out/models"
# In the background, where the tests may be, Ctrl-C is ignored until one listens to it.
LAUNCH = (
    "import signal, sys; from pipelines import cli; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "sys.exit(cli.main(sys.argv[1:]))"
)
RUNNING = Step("JOB_STATE_RUNNING")


@pytest.fixture
def words(
    dataflow: DataflowServer, gcs: GcsServer, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The command line of a job, all but the variant, over photographs in a bucket."""
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.05)
    gcs.put_directory(photographs, "in", "photos/")
    return [
        *("run", "--input", IN, "--output", OUT, "--model-dir", MODELS, "--images-per-unit", "10"),
        *dataflow.options,
        *("--temp_location=gs://out/tmp", "--sdk_container_image=images/pixelbeam:1"),
    ]


@pytest.fixture
def tiny_pulled(tiny_toml: str, gcs: GcsServer) -> str:
    """The TOML file of a tiny module that lies in the bucket."""
    pull.pull(find(tiny_toml), MODELS, random_weights=False)
    return tiny_toml


def staged(dataflow: DataflowServer, gcs: GcsServer) -> beam_runner_api_pb2.Pipeline:
    """The pipeline that the only job was submitted with."""
    bucket, _, name = dataflow.job().pipeline_url.removeprefix("gs://").partition("/")
    return beam_runner_api_pb2.Pipeline.FromString(gcs.get(bucket, name))


def labels_of_stages(pipeline: beam_runner_api_pb2.Pipeline) -> list[set[str]]:
    """The outermost labels of what a runner fuses into each stage."""
    _, stages = fn_runner.FnApiRunner().create_stages(pipeline)
    return [{transform.unique_name.split("/")[0] for transform in stage.transforms} for stage in stages]


def committed(dataflow: DataflowServer, name: str) -> dict[str, int]:
    """A counter of the only job by the ids of steps."""
    names = [(update["name"], update) for update in dataflow.job().metrics]
    return {
        each["context"]["step"]: update["scalar"]
        for each, update in names
        if each["name"] == name and "tentative" not in each["context"]
    }


def launch(words: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_job_of_the_wheel_alone_leaves_a_dataset_that_is_verified(
    dataflow: DataflowServer,
    gcs: GcsServer,
    cloud_environment: dict[str, str],
    wheel: WorkerWheel,
    words: list[str],
    pixelbeam: Callable[..., Any],
    tmp_path: Path,
) -> None:
    pull.pull(find(B0), MODELS, random_weights=True)
    gcs.put("in", "photos/bad.jpg", b"no image")
    dataflow.set(execution=Execution(wheel.worker, cloud_environment))
    launched = launch([*words, "--variant", B0, "--batch-size", "8"])
    printed, errors = launched.communicate()
    job = dataflow.job()
    told = f"{errors}\n{job.messages}\n{job.log}"
    assert (launched.returncode, job.state) == (0, "JOB_STATE_DONE"), told
    assert "24 │1 " in printed.replace("│     ", "│")
    assert "bottleneck: model" in printed
    code, said, errors = pixelbeam("verify", OUT, "--deep")
    assert (code, errors) == (0, ""), said
    home = cloud.bring_home(gcs, tmp_path)
    cloud.assert_nothing_astray(home)
    dataset.assert_conserved(home)
    assert cloud.rows(home).num_rows == 24
    assert cloud.reasons(cloud.only_variant(home)) == {"bad.jpg": ("decode", "not_an_image")}
    pipeline = staged(dataflow, gcs)
    assert len(pipeline.components.environments) == 1
    (with_pixels,) = (labels for labels in labels_of_stages(pipeline) if "Prepare" in labels)
    assert with_pixels >= {"Prepare", "RunInference", "WriteUnits"}
    inferences = committed(dataflow, "num_inferences")
    assert sum(inferences.values()) == 24, inferences
    assert {pipeline.components.transforms[step].unique_name.split("/")[0] for step in inferences} == {
        "RunInference"
    }


def test_workers_have_all_of_the_wheel_and_nothing_of_the_tree(wheel: WorkerWheel, tmp_path: Path) -> None:
    packages = ("pipelines", "transforms")
    assert worker_wheel.imported(wheel) == [wheel.site_packages / name / "__init__.py" for name in packages]
    for name in packages:
        ours, theirs = (
            {
                path.relative_to(at)
                for path in (at / name).rglob("*")
                if path.is_file() and "__pycache__" not in path.parts
            }
            for at in (ROOT, wheel.site_packages)
        )
        assert theirs == ours
    python, site_packages = worker_wheel.make_environment(tmp_path)
    (site_packages / "editable.pth").write_text(f"{ROOT}\n")
    with pytest.raises(RuntimeError, match="not of the wheel"):
        worker_wheel.check(replace(wheel, python=python))


A = {"no_use_multiple_sdk_containers"}
L4 = "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver:5xx"


@pytest.mark.parametrize(
    ("more", "machine", "service", "experiments", "threads"),
    [
        ((), "n2-standard-8", [], A, 8),
        (("--accelerator", "nvidia-l4"), "g2-standard-16", [L4], A, 2),
        (("--accelerator", "nvidia-l4", "--mps"), "g2-standard-16", [f"{L4};use_nvidia_mps"], set(), 1),
    ],
    ids=["CPU", "GPU A", "GPU B"],
)
def test_the_job_asks_for_what_its_layout_needs(
    dataflow: DataflowServer,
    gcs: GcsServer,
    words: list[str],
    tiny_pulled: str,
    pixelbeam: Callable[..., Any],
    more: tuple[str, ...],
    machine: str,
    service: list[str],
    experiments: set[str],
    threads: int,
) -> None:
    code, _, errors = pixelbeam(*words, "--variant", tiny_pulled, "--no_wait_until_finish", *more)
    assert code == 0, errors
    environment = dataflow.job().submitted["environment"]
    (pool,) = environment["workerPools"]
    (container,) = pool["sdkHarnessContainerImages"]
    assert container["containerImage"] == "images/pixelbeam:1"
    assert (pool["machineType"], pool["diskSizeGb"], pool["numWorkers"]) == (
        machine,
        100 if service else 50,
        1,
    )
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 1
    assert environment.get("serviceOptions", []) == service
    assert set(environment["experiments"]) >= experiments
    assert ("no_use_multiple_sdk_containers" in environment["experiments"]) is bool(experiments)
    assert dataflow.job().options["number_of_worker_harness_threads"] == threads
    labels = dataflow.job().submitted["labels"]
    run_id = dataflow.job().name.removeprefix("pixelbeam-")
    assert (
        labels.items()
        >= {"pixelbeam_run": run_id, "pixelbeam_accelerator": "nvidia-l4" if service else "none"}.items()
    )
    (with_pixels,) = (labels for labels in labels_of_stages(staged(dataflow, gcs)) if "Prepare" in labels)
    assert with_pixels >= {"Prepare", "RunInference", "WriteUnits"}


def test_a_flex_template_hands_its_parameters_to_the_job(
    dataflow: DataflowServer,
    gcs: GcsServer,
    words: list[str],
    tiny_pulled: str,
    pixelbeam: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PIXELBEAM_IMAGE", "images/pixelbeam:2")
    parameters = {"input": IN, "output": OUT, "variant": tiny_pulled, "model_dir": MODELS}
    parameters |= {"accelerator": "nvidia-l4", "mps": "true", "limit": "", "images_per_unit": "5"}
    launchers = ["--job_name=mine", "--template_location=gs://out/tmp/job", "--temp_location=gs://out/tmp"]
    given = [f"--{name}={value}" for name, value in parameters.items()] + [*dataflow.options, *launchers]
    assert template.main(given) == 2
    assert "holds no index, and a template may not list for long" in capfd.readouterr().err
    assert pixelbeam("index", "--input", IN, "--output", OUT, "--images-per-unit", "5")[0] == 0
    assert template.main(given) == 0
    assert dataflow.jobs() == []
    job = json.loads(gcs.get("out", "tmp/job"))
    (pool,) = job["environment"]["workerPools"]
    assert job["name"] == "mine"
    assert job["environment"]["serviceOptions"] == [f"{L4};use_nvidia_mps"]
    assert (pool["machineType"], pool["numWorkers"]) == ("g2-standard-16", 1)
    assert [each["containerImage"] for each in pool["sdkHarnessContainerImages"]] == ["images/pixelbeam:2"]
    assert job["labels"]["pixelbeam_accelerator"] == "nvidia-l4"
    code, _, errors = pixelbeam("watch", OUT)
    assert code == 1
    assert errors.startswith("the launcher of a template submitted the job, so that only its rows are known")


def test_a_bucket_elsewhere_is_one_line_and_nothing_is_submitted(
    dataflow: DataflowServer,
    gcs: GcsServer,
    words: list[str],
    tiny_pulled: str,
    pixelbeam: Callable[..., Any],
) -> None:
    gcs.set(places={"in": ("EUROPE-WEST1",)})
    code, _, errors = pixelbeam(*words, "--variant", tiny_pulled)
    assert code == 2
    assert errors.startswith("pixelbeam: gs://in is in EUROPE-WEST1, the workers would be in us-central1; ")
    assert dataflow.jobs() == []


def test_images_of_this_machine_in_the_index_are_one_line(
    dataflow: DataflowServer,
    words: list[str],
    tiny_pulled: str,
    pixelbeam: Callable[..., Any],
    photographs: Path,
) -> None:
    assert pixelbeam("index", "--input", photographs, "--output", OUT)[0] == 0
    code, _, errors = pixelbeam(*words, "--variant", tiny_pulled)
    assert code == 2
    assert f"{photographs}/" in errors.splitlines()[-1]
    assert "is on this machine, where no worker can read it; give another --output" in errors.splitlines()[-1]
    assert dataflow.jobs() == []


def test_a_failed_job_is_one_line_with_the_worker_s_reason(
    dataflow: DataflowServer, words: list[str], tiny_pulled: str, pixelbeam: Callable[..., Any]
) -> None:
    from_worker = (
        "Error message from worker: Traceback (most recent call last):\n  File ...\n"
        "transforms.errors.RunError: every image of unit 0 was refused [while running 'Prepare-ptransform-1']\n"
    )
    failed = Step("JOB_STATE_FAILED", (Message(from_worker, "ERROR"), Message("Workflow failed.", "ERROR")))
    dataflow.set(script=(RUNNING, failed))
    code, _, errors = pixelbeam(*words, "--variant", tiny_pulled)
    assert code == 1
    assert "failed: every image of unit 0 was refused; what was committed stays" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_a_launcher_that_is_interrupted_comes_back(
    dataflow: DataflowServer,
    gcs: GcsServer,
    cloud_environment: dict[str, str],
    wheel: WorkerWheel,
    words: list[str],
    tiny_pulled: str,
    pixelbeam: Callable[..., Any],
) -> None:
    dataflow.set(execution=Execution(wheel.worker, cloud_environment))
    launched = launch([*words, "--variant", tiny_pulled])
    deadline = time.monotonic() + cloud.DEADLINE_SECONDS
    while not dataflow.requests.get("get"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    launched.send_signal(signal.SIGINT)
    _, errors = launched.communicate()
    assert launched.returncode == 130, errors
    assert errors.splitlines()[-1].startswith(
        f"pixelbeam: the job goes on; come back: pixelbeam watch {OUT}; cancel:"
    )
    assert "update" not in dataflow.requests
    code, printed, errors = pixelbeam("watch", OUT)
    assert (code, dataflow.job().state) == (0, "JOB_STATE_DONE"), f"{errors}\n{dataflow.job().log}"
    assert "bottleneck: " in printed
    assert pixelbeam("verify", OUT)[0] == 0


def test_watch_sums_up_the_last_run_wherever_it_was(
    photographs: Path, tiny_toml: str, pixelbeam: Callable[..., Any], tmp_path: Path
) -> None:
    arguments = ["--input", photographs, "--output", tmp_path / "out", "--variant", tiny_toml]
    code, first, _ = pixelbeam("run", *arguments)
    assert code == 0
    code, again, _ = pixelbeam("watch", tmp_path / "out")
    assert (code, again) == (0, first)
    assert "rows" in again

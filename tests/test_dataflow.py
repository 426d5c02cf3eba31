"""What a Dataflow job needs: filled in where the user says nothing, and told in one line where it cannot work."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from pipelines import dataflow
from pipelines.arguments import config_of, hyphenate, option_names
from pipelines.config import RunConfig
from pipelines.estimate import DECODE_SECONDS
from pipelines.listing import UNIT_SECONDS
from pipelines.options import build_parser
from pipelines.run import Begun, build, usual_unit
from pipelines.workers import workers_of
from transforms import snapshots
from transforms.errors import UsageError
from transforms.fingerprints import VariantRun
from transforms.records import ImageRef
from transforms.snapshots import UnitSize

B0 = "google/efficientnet/b0/classification/1"
RUN_ID = "2026-11-21T05-12-09Z"
PLACES = ("--input", "gs://in/photos", "--output", "gs://out/data", "--model-dir", "gs://out/models")
JOB = (
    "--runner=DataflowRunner",
    *("--project=p", "--region=us-central1", "--temp_location=gs://out/tmp"),
    "--sdk_container_image=images/pixelbeam:1",
)


def config(*more: str, places: tuple[str, ...] = PLACES, variants: tuple[str, ...] = (B0,)) -> RunConfig:
    parser = build_parser()
    words = hyphenate(["run", *places, "--variant", *variants, *more], parser)
    known, extra = parser.parse_known_args(words)
    return config_of(known, extra, option_names(parser, "run"))


def options(*more: str, n_units: int = 100, variants: tuple[str, ...] = (B0,)) -> dict[str, object]:
    """Beam's options of a job, all of those that are set."""
    filled = dataflow.filled_in(config(*JOB, *more, variants=variants), n_units, RUN_ID)
    return PipelineOptions(list(filled.beam_options)).get_all_options(drop_default=True)


def test_a_job_without_gpus() -> None:
    assert options() == {
        "runner": "DataflowRunner",
        "project": "p",
        "region": "us-central1",
        "temp_location": "gs://out/tmp",
        "job_name": "pixelbeam-2026-11-21t05-12-09z",
        "sdk_container_image": "images/pixelbeam:1",
        "machine_type": "n2-standard-8",
        "disk_size_gb": 51,
        "num_workers": 17,
        "max_num_workers": 17,
        "number_of_worker_harness_threads": 8,
        "labels": ["pixelbeam_run=2026-11-21t05-12-09z", "pixelbeam_accelerator=none"],
        "experiments": ["no_use_multiple_sdk_containers"],
    }


@pytest.mark.parametrize(
    ("runner", "it_is"),
    [
        ("DataflowRunner", True),
        ("dataflow", True),
        ("apache_beam.runners.dataflow.dataflow_runner.DataflowRunner", True),
        ("DirectRunner", False),
    ],
)
def test_a_runner_has_several_names(runner: str, it_is: bool) -> None:
    assert dataflow.is_asked_for(config(f"--runner={runner}")) == it_is


@pytest.mark.parametrize(
    ("machine", "threads"), [("n2-standard-4", 4), ("n2-standard-32", 8), ("e2-micro", 8)]
)
def test_threads_are_those_of_the_machine(machine: str, threads: int) -> None:
    assert options(f"--machine_type={machine}")["number_of_worker_harness_threads"] == threads
    assert options("--machine_type=n1-standard-1")["number_of_worker_harness_threads"] == 2


def test_a_unit_is_what_a_worker_does_in_five_minutes_decoding_included() -> None:
    t4 = "--accelerator=nvidia-tesla-t4"
    decoding = workers_of(config(*JOB, t4, "--machine_type=n1-standard-1"))
    assert decoding.images_per_second == pytest.approx(1 / DECODE_SECONDS)
    scoring = workers_of(config(*JOB, t4, "--machine_type=n1-standard-96"))
    assert 1 / DECODE_SECONDS < scoring.images_per_second < 96 / DECODE_SECONDS
    assert scoring.unit_images == UNIT_SECONDS * scoring.images_per_second
    assert usual_unit(config(*JOB, t4, "--machine_type=n1-standard-96")) == scoring.unit_images


def test_a_gpu_in_one_process() -> None:
    found = options("--accelerator", "nvidia-l4")
    assert found["dataflow_service_options"] == [
        "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver:5xx"
    ]
    assert found["experiments"] == ["no_use_multiple_sdk_containers"]
    assert found["number_of_worker_harness_threads"] == 2
    assert found["machine_type"] == "g2-standard-8"
    assert (found["num_workers"], found["max_num_workers"]) == (16, 16)
    assert found["disk_size_gb"] == 101
    assert "pixelbeam_accelerator=nvidia-l4" in found["labels"]


def test_a_gpu_that_processes_share() -> None:
    found = options("--accelerator=nvidia-tesla-t4", "--mps")
    assert found["dataflow_service_options"] == [
        "worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver:5xx;use_nvidia_mps"
    ]
    assert "experiments" not in found
    assert found["number_of_worker_harness_threads"] == 1


@pytest.mark.parametrize(
    ("variants", "precision", "machine"),
    [
        ((B0,), "fast", "g2-standard-16"),
        ((B0,), "exact", "g2-standard-8"),
        (("google/efficientnet/b4/classification/1",), "exact", "g2-standard-4"),
    ],
)
def test_a_machine_has_the_vcpus_that_keep_its_gpu_busy(
    variants: tuple[str, ...], precision: str, machine: str
) -> None:
    found = options("--accelerator=nvidia-l4", f"--precision={precision}", variants=variants)
    assert found["machine_type"] == machine


def test_where_none_has_enough_vcpus_it_is_the_largest_machine() -> None:
    assert options("--accelerator=nvidia-tesla-v100", "--precision=fast")["machine_type"] == "n1-standard-8"


@pytest.mark.parametrize(("n_units", "workers"), [(0, 1), (1, 1), (6, 1), (7, 2), (10**6, 16)])
def test_workers_are_as_many_as_units_are_for(n_units: int, workers: int) -> None:
    found = options("--accelerator=nvidia-l4", n_units=n_units)
    assert (found["num_workers"], found["max_num_workers"]) == (workers, workers)


def test_what_the_user_gives_wins() -> None:
    given = {
        "job_name": "mine",
        "machine_type": "n1-standard-16",
        "disk_size_gb": 30,
        "number_of_worker_harness_threads": 3,
        "max_num_workers": 4,
    }
    found = options(
        "--accelerator=nvidia-tesla-t4",
        *(f"--{name}={value}" for name, value in given.items()),
        "--labels=team=vision",
        "--labels=pixelbeam_run=mine",
        "--experiments=shuffle_mode=service,no_use_multiple_sdk_containers",
    )
    assert {name: found[name] for name in given} == given
    assert found["num_workers"] == 4
    assert found["labels"] == ["team=vision", "pixelbeam_run=mine", "pixelbeam_accelerator=nvidia-tesla-t4"]
    assert found["experiments"] == ["shuffle_mode=service", "no_use_multiple_sdk_containers"]


def test_more_workers_to_begin_with_are_not_fewer_in_the_end() -> None:
    found = options("--num_workers=300", "--max_num_workers=500")
    assert (found["num_workers"], found["max_num_workers"]) == (300, 500)
    assert options("--num_workers=300")["max_num_workers"] == 300


def test_a_gpu_of_one_s_own_service_option_counts(capsys: pytest.CaptureFixture[str]) -> None:
    own = "worker_accelerator=type:nvidia-tesla-t4;count:2;install-nvidia-driver"
    found = options(f"--dataflow_service_options={own}")
    assert found["dataflow_service_options"] == [own]
    assert (found["machine_type"], found["number_of_worker_harness_threads"]) == ("n1-standard-8", 2)
    assert found["disk_size_gb"] == 101


def test_all_that_is_filled_in_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    filled = dataflow.filled_in(config(*JOB, "--accelerator=nvidia-l4"), 10, RUN_ID)
    added = filled.beam_options[len(JOB) :]
    assert capsys.readouterr().err == f"filled in: {' '.join(added)}\n"
    assert len(added) == 10


def test_the_image_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELBEAM_IMAGE", "images/pixelbeam:2")
    asked = config(*JOB[:-1])
    dataflow.check(asked)
    filled = PipelineOptions(list(dataflow.filled_in(asked, 1, RUN_ID).beam_options))
    assert filled.get_all_options()["sdk_container_image"] == "images/pixelbeam:2"


FLEXRS = "--flexrs_goal=COST_OPTIMIZED"
L4 = "--accelerator=nvidia-l4"
T4S = "--dataflow_service_options=worker_accelerator=type:nvidia-tesla-t4;count:2;install-nvidia-driver"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((L4, FLEXRS), "--flexrs_goal, but FlexRS has no GPUs"),
        ((T4S, FLEXRS), "--flexrs_goal, but FlexRS has no GPUs"),
        ((L4, T4S), "--accelerator and --dataflow_service_options=worker_accelerator=type:nvidia-tesla-t4"),
        (("--accelerator=nvidia-l5",), "--accelerator nvidia-l5 is not known, nvidia-a100-80gb, nvidia-l4"),
        (("--require-gpu",), "--require-gpu, but the workers have none"),
        (("--mps",), "MPS shares one GPU among processes, the workers have 0"),
        ((T4S, "--mps"), "--mps goes with --accelerator"),
        ((f"{T4S};use_nvidia_mps",), "MPS shares one GPU among processes, the workers have 2"),
        ((L4, "--mps", "--dataflow_service_options=enable_prime"), "Dataflow Prime does not know it"),
        ((L4, "--mps", "--experiments=enable_prime"), "Dataflow Prime does not know it"),
        (
            (L4, "--mps", "--experiments=no_use_multiple_sdk_containers"),
            "leave out --experiments=no_use_multiple_sdk_containers",
        ),
    ],
)
def test_gpus_that_cannot_work(more: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]*$") as error:
        dataflow.check(config(*JOB, *more))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("--input", "gcloud storage cp"),
        ("--output", "gs://BUCKET/FOLDER"),
        ("--model-dir", f"pixelbeam pull --variant {B0} --model-dir gs://BUCKET/models"),
    ],
)
def test_places_on_this_machine(option: str, remedy: str, tmp_path: Path) -> None:
    places = list(PLACES)
    places[places.index(option) + 1] = str(tmp_path)
    with pytest.raises(UsageError) as error:
        dataflow.check(config(*JOB, places=tuple(places)))
    assert str(error.value).startswith(f"{option} {tmp_path} is on this machine")
    assert remedy in str(error.value)


@pytest.mark.parametrize("name", ["project", "region", "temp_location"])
def test_what_every_job_needs(name: str) -> None:
    options = (option for option in JOB if not option.startswith(f"--{name}"))
    with pytest.raises(UsageError, match=f"^--{name} is missing; a job needs --project, --region and"):
        dataflow.check(config(*options))


def test_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIXELBEAM_IMAGE", raising=False)
    with pytest.raises(UsageError, match="no image for the workers"):
        dataflow.check(config(*JOB[:-1]))


@pytest.mark.parametrize("option", ["--accelerator=nvidia-l4", "--mps"])
@pytest.mark.parametrize("runner", [(), ("--runner=DirectRunner",)])
def test_what_only_dataflow_knows_is_refused_elsewhere(option: str, runner: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="is for Dataflow; add --runner=DataflowRunner"):
        dataflow.check(config(option, *runner, places=("--input", "photos", "--output", "out")))


def test_other_runners_may_have_what_is_on_this_machine() -> None:
    dataflow.check(config(places=("--input", "photos", "--output", "out")))


def test_an_accelerator_implies_that_a_gpu_is_required() -> None:
    assert config(*JOB, "--accelerator=nvidia-l4").wants_gpu
    assert config(*JOB, T4S).wants_gpu
    assert not config(*JOB).wants_gpu


@pytest.mark.parametrize(("uri", "refused"), [("/photos/a.jpg", True), ("gs://in/a.jpg", False)])
def test_an_index_of_images_on_this_machine_is_refused(tmp_path: Path, uri: str, refused: bool) -> None:
    work, _ = snapshots.update(str(tmp_path), [ImageRef(uri, 1, "1")], UnitSize(4))
    if refused:
        with pytest.raises(UsageError, match=f"^{uri} is on this machine"):
            dataflow.check_index(work)
    else:
        dataflow.check_index(work)


def test_no_hint_is_set_on_a_part_of_the_pipeline() -> None:
    found = options("--accelerator=nvidia-l4")
    assert "resource_hints" not in found
    assert PipelineOptions(list(JOB)).view_as(GoogleCloudOptions).dataflow_service_options is None


def test_the_graph_holds_parts_and_no_units(tmp_path: Path, tiny_run: VariantRun) -> None:
    def graph(n_units: int) -> tuple[int, int]:
        """Bytes of the graph, and parts of the index."""
        images = (ImageRef(f"gs://in/{number:06d}.jpg", 1, "1") for number in range(n_units))
        work, _ = snapshots.update(str(tmp_path / str(n_units)), images, UnitSize(1))
        assert work.n_units == n_units
        pipeline = beam.Pipeline()
        build(pipeline, Begun(config(*JOB), (tiny_run,), work, RUN_ID))
        return pipeline.to_runner_api().ByteSize(), len(work.parts)

    (small, one), (large, parts) = graph(10), graph(10_000)
    assert (one, parts) == (1, 20)
    assert large - small < 64 * parts

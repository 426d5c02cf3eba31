"""A template's parameters become the run that was meant; a launcher that would list for long is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from deploy.flex_template import main as template
from pipelines import arguments, cli
from pipelines.config import RunConfig
from pipelines.options import build_parser

ROOT = Path(__file__).parent.parent
METADATA = json.loads((ROOT / "deploy/flex_template/metadata.json").read_text(encoding="utf-8"))
SCHEMA = json.loads((ROOT / "tests/flex_template_schema.json").read_text(encoding="utf-8"))
PARAMETERS = {parameter["name"]: parameter for parameter in METADATA["parameters"]}
B0 = "google/efficientnet/b0/classification/1"
NEEDED = ("--input=gs://in/a", "--output=out", f"--variant={B0}", "--model_dir=gs://b/models", "--limit=9")


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations of the runs that would have been, in place of the runs."""
    configs: list[RunConfig] = []

    def record(config: RunConfig) -> int:
        configs.append(config)
        return 0

    monkeypatch.setattr(cli, "_check_early", lambda _: None)
    monkeypatch.setattr("pipelines.run.run", record)
    monkeypatch.delenv("PIXELBEAM_IMAGE", raising=False)
    return configs


def test_the_metadata_fits_google_s_format() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker(["regex"]))
    assert [error.message for error in validator.iter_errors(METADATA)] == []
    assert len(PARAMETERS) == len(METADATA["parameters"])


def test_the_parameters_are_the_options_of_run() -> None:
    options = arguments.option_names(build_parser(), "run") - {"--help", "-h"}
    assert set(PARAMETERS) == {name.removeprefix("--").replace("-", "_") for name in options}
    assert set(PARAMETERS) == {*template.LISTS, *template.FLAGS, *template.TEXTS}


def test_what_must_be_given_is_what_the_launcher_asks_for() -> None:
    required = {name for name, parameter in PARAMETERS.items() if not parameter.get("isOptional")}
    assert required == set(template.REQUIRED)
    for number in (f"{template.MOST_LISTED_AGAIN:,}", str(template.MOST_LISTED_ANEW)):
        assert number in PARAMETERS["output"]["helpText"]


def test_what_may_be_left_out_may_be_blank() -> None:
    for name, parameter in PARAMETERS.items():
        blank = all(re.search(regex, "") for regex in parameter["regexes"])
        assert blank == parameter.get("isOptional", False), name


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("input", "gs://in/a, gs://in/*.jpg,\ngs://in/list.csv", "s3://in/a"),
        ("input", "gs://in/a", "photographs"),
        ("output", "gs://out/dataset", "gs://out"),
        ("variant", f"{B0},\nmy.toml", ",b"),
        ("model_dir", "gs://bucket", "models"),
        ("accelerator", "nvidia-l4", "type:nvidia-l4;count:1"),
        ("mps", "true", "yes"),
        ("limit", "1000", "0"),
        ("precision", "fast", "half"),
        ("max_failure_ratio", "0.25", "2"),
        ("max_failure_ratio", "1", "10%"),
        ("batch_size", "64", "-1"),
        ("class_names", "gs://b/names.txt", "names.txt"),
        ("keep", "label, cls", ","),
    ],
)
def test_the_console_tells_good_values_from_bad(name: str, good: str, bad: str) -> None:
    (regex,) = PARAMETERS[name]["regexes"]
    assert re.search(regex, good)
    assert not re.search(regex, bad)


def test_a_launch_is_one_run(submitted: list[RunConfig]) -> None:
    more = [
        *("--input=gs://in/a,gs://in/b\n gs://in/c.csv,", f"--variant={B0},my.toml", "--keep=label\ncls"),
        *("--batch_size=64", "--images_per_unit=100", "--max_failure_ratio=0.25", "--precision=fast"),
        *(
            "--image_column=pixels",
            "--class_names=gs://b/names.txt",
            "--replace=True",
            "--retry_failures=false",
        ),
        "--require_gpu=true",
    ]
    beams = (
        "--runner=DataflowRunner",
        "--project=p",
        "--region=r",
        "--job_name=j",
        '--labels={"team": "vision"}',
    )
    arguments = [*NEEDED[:1], *NEEDED[1:], *more, *beams]
    assert template.main(arguments) == 0
    assert submitted == [
        RunConfig(
            inputs=("gs://in/a", "gs://in/b", "gs://in/c.csv"),
            output=str(Path("out").absolute()),
            variants=(B0, "my.toml"),
            model_dir="gs://b/models",
            precision="fast",
            image_column="pixels",
            keep=("label", "cls"),
            images_per_unit=100,
            batch_size=64,
            class_names="gs://b/names.txt",
            max_failure_ratio=0.25,
            replace=True,
            require_gpu=True,
            limit=9,
            beam_options=(*beams, "--no_wait_until_finish"),
        )
    ]


def test_blank_is_as_left_out(submitted: list[RunConfig]) -> None:
    blank = [f"--{name}=" for name in PARAMETERS if name not in (*template.REQUIRED, "limit")]
    assert template.main(NEEDED) == 0
    assert template.main([*NEEDED, *blank]) == 0
    assert submitted[0] == submitted[1]


def test_a_gpu_may_be_shared(submitted: list[RunConfig]) -> None:
    assert template.main([*NEEDED, "--accelerator=nvidia-l4", "--mps=true"]) == 0
    assert submitted[0].wants_gpu


def test_workers_get_the_launcher_s_image(
    submitted: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXELBEAM_IMAGE", "r-docker.pkg.dev/p/pixelbeam:1")
    assert template.main(NEEDED) == 0
    assert template.main([*NEEDED, "--sdk_container_image=mine"]) == 0
    assert "--sdk_container_image=r-docker.pkg.dev/p/pixelbeam:1" in submitted[0].beam_options
    assert submitted[1].beam_options == ("--sdk_container_image=mine", "--no_wait_until_finish")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--output="], "the parameter output is missing"),
        (["--mps=maybe"], "the parameter mps must be true or false, got 'maybe'"),
        (["--limit=0"], "--limit must be at least 1, got 0"),
        (["--batch_size=many"], "--batch-size: must be a whole number, got 'many'"),
        (["--acelerator=nvidia-l4"], "unknown argument '--acelerator=nvidia-l4'"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_exit_2(
    more: list[str], message: str, submitted: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert template.main([*NEEDED, *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("pixelbeam: ")
    assert error.count("\n") == 1
    assert submitted == []


@pytest.mark.parametrize("limit", ["", "100001"])
def test_without_an_index_only_a_small_limit_is_listed(
    limit: str, tmp_path: Path, submitted: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*NEEDED[:1], *NEEDED[2:4], f"--output={tmp_path}", f"--limit={limit}"]
    assert template.main(arguments) == 2
    assert "holds no index, and a template may not list for long" in capsys.readouterr().err
    assert template.main([*arguments, "--limit=100000"]) == 0
    assert len(submitted) == 1


def test_an_index_of_few_images_is_compared_again(
    tmp_path: Path,
    photographs: Path,
    pixelbeam: Callable[..., tuple[int, str, str]],
    submitted: list[RunConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert pixelbeam("index", "--input", photographs, "--output", tmp_path)[0] == 0
    arguments = [*NEEDED[2:4], f"--input={photographs}", f"--output={tmp_path}"]
    monkeypatch.setattr(template, "MOST_LISTED_AGAIN", 24)
    assert template.main(arguments) == 0
    monkeypatch.setattr(template, "MOST_LISTED_AGAIN", 23)
    assert template.main(arguments) == 2
    assert len(submitted) == 1

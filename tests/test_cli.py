"""Arguments to a configuration; one clear line for what cannot be meant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import arguments, beam_options, cli, options
from pipelines.config import RunConfig
from transforms.errors import UsageError

RUN = ["run", "--input", "photos", "--output", "out", "--variant", "google/efficientnet/b0/classification/1"]


def config(*more: str) -> RunConfig:
    parser = options.build_parser()
    known, extra = parser.parse_known_args(arguments.hyphenate([*RUN, *more], parser))
    return arguments.config_of(known, extra, arguments.option_names(parser, "run"))


@pytest.mark.parametrize("name", ["--batch-size", "--batch_size"])
@pytest.mark.parametrize("form", ["{} 7", "{}=7"])
def test_options_are_read_with_hyphens_or_underscores(name: str, form: str) -> None:
    assert config(*form.format(name).split()).batch_size == 7


def test_options_that_take_several_values_may_be_repeated() -> None:
    both = config("--variant", "b", "c", "--input", "more")
    assert both.variants == ("google/efficientnet/b0/classification/1", "b", "c")
    assert both.inputs == ("photos", "more")


def test_beam_s_options_are_passed_on() -> None:
    options = ("--runner=DataflowRunner", "--project", "p", "--experiments=a", "--experiments=b")
    assert config(*options).beam_options == options


def test_a_runner_named_in_full_brings_its_options() -> None:
    options = ("--runner=apache_beam.runners.dask.dask_runner.DaskRunner", "--dask_client_address=tcp://x:1")
    assert config(*options).beam_options == options


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--images-per-unit", "-3"], "--images-per-unit must be at least 1, got -3"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--max-failure-ratio", "1.5"], "--max-failure-ratio must be from 0 to 1, got 1.5"),
        (["--batchsize", "64"], "unknown argument '--batchsize'; did you mean --batch-size?"),
        (["--batch-siz", "64"], "unknown argument '--batch-siz'; did you mean --batch-size?"),
        (["--rnner", "x"], "unknown argument '--rnner'; did you mean --runner?"),
        (
            ["--batch-size", "many"],
            "--batch-size: must be a whole number, got 'many'; see `pixelbeam run --help`",
        ),
        (["--precision", "half"], "invalid choice: 'half'"),
        (["--runner", "no.such.Runner"], "--runner no.such.Runner cannot be loaded: No module named 'no'"),
        (["--runner=os.path.Runner"], "--runner os.path.Runner cannot be loaded: module 'posixpath' has no"),
        (["stray"], None),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_exit_2(
    more: list[str], message: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if message is None:
        # A stray word behind --variant is one more variant; alone it is nothing.
        with pytest.raises(
            UsageError, match="unknown argument 'stray'; an option goes before a value, quotes"
        ):
            config("--replace", *more)
        return
    assert cli.main([*RUN, *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("pixelbeam: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a command: run, index, "),
        (["rum"], "no command is called 'rum'; did you mean run?"),
        (["score"], "no command is called 'score'; there are run, index, "),
        (
            ["run", "--input", "x"],
            "--variant, --output; for example: pixelbeam run --input photographs --output",
        ),
        (["verify"], "the following arguments are required: DIR; for example: pixelbeam verify dataset"),
        (["verify", "x", "--deeper"], "unknown argument '--deeper'; did you mean --deep?"),
        (["verify", "--output", "x"], "unknown argument '--output'; see `pixelbeam verify --help`"),
        (
            ["verify", "my", "photos"],
            "unknown argument 'photos'; one directory is enough, quotes go around a name with spaces; see ",
        ),
        (
            ["plan", "--precision"],
            "pixelbeam: --precision: expected one argument; see `pixelbeam plan --help`",
        ),
    ],
)
def test_incomplete_commands_are_one_line_and_exit_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_error_of_the_system_is_one_line_and_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out" / "_index"
    folder.mkdir(parents=True)
    (folder / "CURRENT.json").mkdir()
    assert cli.main(["verify", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error == (
        f"pixelbeam: Is a directory: {folder}/CURRENT.json; mend that and run the same command again\n"
    )


def test_none_of_our_options_is_beam_s() -> None:
    ours = arguments.option_names(options.build_parser()) - {"--help", "-h"}
    beams = {name.replace("_", "-") for name in beam_options.beam_parser()._option_string_actions}
    assert "--runner" in beams
    assert ours & beams == set()


def test_help_loads_neither_beam_nor_tensorflow() -> None:
    program = (
        "import sys\n"
        "from pipelines import cli\n"
        "try:\n"
        "    cli.main(sys.argv[1:])\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'apache_beam', 'tensorflow', 'numpy', 'pyarrow'}\n"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    for words in (["--help"], ["run", "--help"], ["verify", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("usage: pixelbeam")
        assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "wrong",
    [
        ["--variant", "google/efficientnet/b0/clasification/1"],
        ["--batch-size", "0"],
        ["--input", "nowhere"],
        ["--output", __file__],
    ],
)
def test_a_mistake_is_told_before_tensorflow_is_loaded(tmp_path: Path, wrong: list[str]) -> None:
    program = (
        "import sys; from pipelines import cli; print(cli.main(sys.argv[1:]), 'tensorflow' in sys.modules)"
    )
    (tmp_path / "photos").mkdir()
    command = [sys.executable, "-c", program, *RUN, *wrong]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "2 False\n"
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "module", ["transforms.listing", "transforms.index", "transforms.tables", "transforms.variants"]
)
def test_plain_modules_load_neither_beam_nor_tensorflow(module: str) -> None:
    program = f"import sys, {module}; print({{'apache_beam', 'tensorflow'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

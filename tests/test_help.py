"""`--help` teaches: a purpose, grouped options that say their defaults, and examples that work."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import arguments, beam_options, cli, options
from pipelines.help import BEAM, EXAMPLES, one_line

COMMANDS = {name: list(EXAMPLES[name]) for name in options.COMMANDS}
GROUPS = {
    "run": ["images", "models", "output", "Dataflow", "Beam's options"],
    "index": ["images", "output"],
    "pull": ["models"],
    "plan": ["images", "models", "output"],
}


def parser_of(command: str) -> argparse.ArgumentParser:
    return arguments.parsers(options.build_parser())[command]


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_s_help_has_a_purpose_groups_and_two_examples(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = help_of(command, capsys)
    usage, purpose, *_ = text.split("\n\n")
    assert usage.startswith(f"usage: pixelbeam {command} ")
    assert purpose.lower() == f"{options.COMMANDS[command]}."
    titles = re.findall(r"^([A-Z]?[\w' ]+):$", text, re.MULTILINE)
    own = [title for title in titles if title not in ("options", "positional arguments")]
    assert own == [*GROUPS.get(command, []), "examples"]
    assert text.count(f"  pixelbeam {command}") == len(COMMANDS[command]) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_its_default(command: str) -> None:
    for action in parser_of(command)._actions:
        if action.option_strings and not action.required and action.nargs != 0:
            said = re.search(r"default: (.+)|without it ", action.help)
            assert said, action.option_strings
            if isinstance(action.default, str | float) and action.dest != "model_dir":
                assert said.group(1) == str(action.default)


@pytest.mark.parametrize(
    ("command", "example"), [(name, each) for name, its in COMMANDS.items() for each in its]
)
def test_every_example_can_be_given(command: str, example: str) -> None:
    program, *words = shlex.split(one_line(example))
    assert (program, words[0]) == ("pixelbeam", command)
    known, extra = options.build_parser().parse_known_args(words)
    if command in ("run", "plan"):
        arguments.config_of(known, extra, set())
    else:
        assert extra == []


def test_the_examples_that_need_nothing_of_google_do_what_they_say(
    tmp_path: Path, photographs: Path, small_modules: str, pixelbeam, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photographs").symlink_to(photographs)
    (tmp_path / "models").symlink_to(small_modules)
    monkeypatch.chdir(tmp_path)
    done = []
    for command in ("variants", "pull", "plan", "run", "index", "watch", "verify", "report"):
        for example in EXAMPLES[command]:
            if "my-bucket" not in example:
                code, output, errors = pixelbeam(*shlex.split(one_line(example))[1:])
                assert (code, bool(output)) == (0, True), errors
                done.append(command)
    assert sorted(set(done)) == sorted(COMMANDS)
    assert len(done) == 10


def test_beam_s_options_that_are_named_are_beam_s(capsys: pytest.CaptureFixture[str]) -> None:
    named = set(re.findall(r"--[a-z]\w+", BEAM))
    assert {"--runner", "--project", "--region", "--temp_location", "--num_workers"} <= named
    assert named <= set(beam_options.beam_parser()._option_string_actions)
    text = help_of("run", capsys)
    assert text.index("\nDataflow:") < text.index("\nBeam's options:") < text.index("\nexamples:")


def test_all_of_beam_s_options_are_printed() -> None:
    command = "python -m pipelines.beam_options"
    assert f"`{command}`" in BEAM
    done = subprocess.run([sys.executable, *command.split()[1:]], capture_output=True, text=True, check=True)
    assert "--worker_zone" in done.stdout

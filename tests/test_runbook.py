"""What the runbook and its scripts name is there: commands, options, parameters, messages, files, hosts."""

from __future__ import annotations

import argparse
import functools
import re
import shlex

import pytest
import yaml
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import cli
from tests.deployed import DEPLOY, ROOT, RUNBOOK, SCRIPTS

OTHERS_OPTIONS = {
    "bq": {"--source_format", "--parquet_enable_list_inference"},
    "docker": {"--build-arg", "--entrypoint", "--file", "--tag"},
    "gcloud": {
        *("--config", "--gcs-source-staging-dir", "--limit", "--project", "--region", "--service-account"),
        *("--status", "--substitutions"),
        # `dataflow flex-template run`
        *("--disable-public-ips", "--launcher-machine-type", "--launcher-vm-timeout-secs", "--max-workers"),
        *("--parameters", "--service-account-email", "--staging-location", "--subnetwork", "--temp-location"),
        "--template-file-gcs-location",
    },
    "git": {"--short"},
    "self_check.py": {"--lock", "--beam"},
}
"""Those that the documents and scripts name; gcloud's as its help of version 528 has them, but the time-out."""


@functools.cache
def beams_options() -> frozenset[str]:
    parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return frozenset(parser._option_string_actions)


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What `--help` prints; fails where there is no such command."""
    with pytest.raises(SystemExit) as leaving:
        cli.main([*words, "--help"])
    assert leaving.value.code == 0
    return capsys.readouterr().out


def named_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text))


def commands_in(text: str) -> list[list[str]]:
    """The command lines in a document's blocks, continued lines joined."""
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    lines = re.sub(r"\\\n\s*", "", blocks).splitlines()
    return [shlex.split(line) for line in lines if re.match(r"(pixelbeam|deploy/\w+\.sh) ", line)]


@pytest.mark.parametrize("path", ["README.md", "deploy/RUNBOOK.md"])
def test_every_command_that_is_shown_can_be_given(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    commands = commands_in((ROOT / path).read_text(encoding="utf-8"))
    assert len(commands) >= 3
    for program, *words in commands:
        if program == "deploy/launch_template.sh":
            continue
        command = words.pop(0) if program == "pixelbeam" else "run"
        known = named_in(help_of([command], capsys)) | (beams_options() if command == "run" else set())
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize(
    "path",
    ["README.md", "deploy/README.md", "deploy/RUNBOOK.md", *(f"deploy/{path.name}" for path in SCRIPTS)],
)
def test_every_option_that_is_named_exists(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^    (\w+) ", help_of([], capsys), re.MULTILINE)
    assert "run" in commands
    ours = set().union(*(named_in(help_of([command], capsys)) for command in commands))
    others = set().union(*OTHERS_OPTIONS.values())
    named = named_in((ROOT / path).read_text(encoding="utf-8"))
    assert named - ours - beams_options() - others == set()


def test_every_parameter_that_is_shown_exists() -> None:
    (words,) = [words for words in commands_in(RUNBOOK) if words[0] == "deploy/launch_template.sh"]
    metadata = yaml.safe_load((DEPLOY / "flex_template/metadata.json").read_text(encoding="utf-8"))
    names = {parameter["name"] for parameter in metadata["parameters"]}
    shown = {word.partition("=")[0] for word in words[2 : words.index("--")]}
    assert {"input", "output", "variant"} <= shown <= names


@pytest.mark.parametrize(
    "message",
    [
        "TensorFlow sees no GPU",
        "memory does not suffice for one image",
        "no permission to read",
        "the store failed on",
        "is left for later",
        "stopped early",
        "not fused",
        "holds no index, and a template may not list for long",
    ],
)
def test_our_messages_in_the_runbook_are_raised(message: str) -> None:
    assert f"`{message}`" in RUNBOOK
    sources = [
        path for folder in ("transforms", "deploy/flex_template") for path in (ROOT / folder).glob("*.py")
    ]
    assert any(message in path.read_text(encoding="utf-8") for path in sources)


def test_the_readme_names_each_file() -> None:
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    for path in DEPLOY.iterdir():
        if path.name not in ("README.md", "__pycache__", "flex_template"):
            assert f"`{path.name}{'/' if path.is_dir() else ''}`" in readme, path.name
    for path in (DEPLOY / "flex_template").glob("*.*"):
        assert f"`flex_template/{path.name}`" in readme


def test_only_google_s_hosts_are_named() -> None:
    hosts = r"\b(?:[a-z0-9-]+\.)+(?:com|dev|io|net|org)\b"
    ours = [
        *DEPLOY.glob("*.*"),
        DEPLOY / "Dockerfile",
        *DEPLOY.glob("terraform/*.tf"),
        *DEPLOY.glob("flex_template/*.*"),
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in ours)
    google = ("gcr.io", "docker.pkg.dev", "googleapis.com", "google.com", "example.com")
    assert {host for host in re.findall(hosts, text) if not host.endswith(google)} == set()

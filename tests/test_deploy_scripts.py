"""The scripts that launch: shellcheck, and what they give to the programs that they end in."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.deployed import BUILD, DEPLOY, SCRIPTS, program


def test_the_scripts_pass_shellcheck() -> None:
    assert len(SCRIPTS) == 2
    done = subprocess.run(
        [program("shellcheck"), "--enable=all", "--exclude=SC2154,SC2250,SC2292", *SCRIPTS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    for script in SCRIPTS:
        assert "\nset -euo pipefail\n" in script.read_text(encoding="utf-8")
        assert os.access(script, os.X_OK)


MADE = {"PROJECT": "p", "REGION": "r", "BUCKET": "b", "IMAGE": "r-docker.pkg.dev/p/i:1", "TAG": "1"}
RUN = ["--input", "gs://in/a b", "--output", "gs://b/out", "--variant", "v"]


def run_script(
    name: str, words: list[str], folder: Path, environment: dict[str, str]
) -> tuple[int, list[str], str]:
    """A script's exit code, the words that it gave to the program that it ends in, and its stderr."""
    for stand_in in ("gcloud", "pixelbeam"):
        path = folder / stand_in
        path.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
        path.chmod(0o755)
    done = subprocess.run(
        [DEPLOY / name, *words],
        env={"PATH": f"{folder}:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_launch_fills_in_what_terraform_made(tmp_path: Path) -> None:
    code, words, _ = run_script("launch.sh", [*RUN, "--model-dir=mine"], tmp_path, MADE)
    assert code == 0
    assert words[:7] == [
        *("run", "--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/tmp"),
        *("--staging_location=gs://b/tmp/staging", "--sdk_container_image=r-docker.pkg.dev/p/i:1"),
    ]
    assert words[7:] == ["--model-dir=gs://b/models", *RUN, "--model-dir=mine"]
    private = {**MADE, "WORKER": "w@p", "SUBNETWORK": "regions/r/subnetworks/s"}
    _, words, _ = run_script("launch.sh", RUN, tmp_path, private)
    added = {
        "--service_account_email=w@p",
        "--subnetwork=regions/r/subnetworks/s",
        "--no_use_public_ips",
    }
    assert added <= set(words)


def test_launch_template_gives_each_parameter_whole(tmp_path: Path) -> None:
    words = ["nightly-1", "input=gs://in/a,gs://in/b c", "limit=10", "--", "--max-workers=3"]
    code, given, _ = run_script("launch_template.sh", words, tmp_path, {**MADE, "WORKER": "w@p"})
    assert code == 0
    assert given == [
        *("dataflow", "flex-template", "run", "nightly-1", "--project=p", "--region=r"),
        "--template-file-gcs-location=gs://b/templates/pixelbeam-1.json",
        *("--staging-location=gs://b/tmp/staging", "--temp-location=gs://b/tmp"),
        *("--launcher-machine-type=e2-standard-4", "--service-account-email=w@p"),
        *("--parameters=^|^model_dir=gs://b/models", "--parameters=^|^input=gs://in/a,gs://in/b c"),
        *("--parameters=^|^limit=10", "--max-workers=3"),
    ]
    template = f"gs://{MADE['BUCKET']}/templates/pixelbeam-{MADE['TAG']}.json"
    made = next(word for word in BUILD["steps"][3]["args"] if word.startswith("gs://"))
    assert made.replace("${_BUCKET}", "b").replace("${_TAG}", "1") == template


@pytest.mark.parametrize(
    ("script", "words", "without", "message"),
    [
        ("launch.sh", RUN, "IMAGE", "launch.sh: IMAGE is not set"),
        ("launch.sh", RUN[2:], "", "launch.sh: --input is missing"),
        ("launch.sh", [], "", "launch.sh: --input is missing"),
        ("launch_template.sh", ["job"], "TAG", "launch_template.sh: TAG is not set"),
        ("launch_template.sh", [], "", "launch_template.sh: '' is no name of a job"),
        ("launch_template.sh", ["Job"], "", "launch_template.sh: 'Job' is no name of a job"),
        ("launch_template.sh", ["job", "input"], "", "launch_template.sh: 'input' is no NAME=VALUE"),
    ],
)
def test_bad_input_is_a_usage_and_exit_2(
    script: str, words: list[str], without: str, message: str, tmp_path: Path
) -> None:
    environment = {name: value for name, value in MADE.items() if name != without}
    code, given, errors = run_script(script, words, tmp_path, environment)
    assert (code, given) == (2, [])
    assert errors.splitlines()[0] == message
    assert errors.splitlines()[1].startswith("usage: PROJECT=")

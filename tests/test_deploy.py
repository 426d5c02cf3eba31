"""Image, build and Terraform: linters and parsers; what one file takes from another is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from deploy import self_check
from pipelines import cli
from tests import dataset
from tests.deployed import BUILD, DEPLOY, ROOT, RUNBOOK, SCRIPTS, program

DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
LOCKS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "requirements").glob("*.txt")}
ROLES = {
    "roles/artifactregistry.reader",
    "roles/artifactregistry.writer",
    "roles/dataflow.developer",
    "roles/dataflow.worker",
    "roles/iam.serviceAccountUser",
    "roles/logging.logWriter",
    "roles/storage.objectUser",
    "roles/storage.objectViewer",
}


def instructions(name: str) -> list[str]:
    """What follows each instruction of this name in the Dockerfile, each on one line."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return re.findall(rf"^{name} (.*)", joined, re.MULTILINE)


def versions(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9][\w.-]*)==([\w.+]+)", LOCKS[lock], re.MULTILINE))


# The image


def test_the_dockerfile_passes_hadolint() -> None:
    done = subprocess.run(
        [program("hadolint"), "--failure-threshold=style", DEPLOY / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_image_is_pinned_and_starts_what_dataflow_expects() -> None:
    assert instructions("ENTRYPOINT") == ['["/opt/apache/beam/boot"]']
    assert instructions("USER") == []
    images = [value for value in instructions("ARG") if "_IMAGE=" in value]
    assert len(images) == 2
    assert all(re.search(r":[^:]*(\d|BEAM_VERSION\})", image) and "latest" not in image for image in images)
    for command in instructions("RUN"):
        assert "pip install" not in command or "--require-hashes" in command or "--no-index" in command
    (checked,) = [command for command in instructions("RUN") if "self_check.py" in command]
    assert checked.startswith("--network=none ")


def test_beam_is_the_same_in_image_and_locks() -> None:
    (version,) = re.findall(r"^ARG BEAM_VERSION=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert {version} == {versions(lock)["apache-beam"] for lock in ("dev", "worker", "worker-gpu")}
    assert BUILD["substitutions"]["_BEAM_VERSION"] == version
    assert f"--beam={version}" in RUNBOOK


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignore[1] == "*"
    allowed = [line[1:] for line in ignore if line.startswith("!")]
    lock = re.search(r"^ARG LOCK=(\S+)", DOCKERFILE, re.MULTILINE)
    assert lock is not None
    copied = {
        source.replace("${LOCK}", lock[1])
        for words in map(str.split, instructions("COPY"))
        if not words[0].startswith("--from")
        for source in words[:-1]
    }
    assert {"pipelines", "transforms", "deploy/flex_template/main.py", "deploy/self_check.py"} <= copied
    for source in copied:
        assert (ROOT / source).exists()
        assert any(Path(source).match(pattern) for pattern in allowed), source
    for pattern in allowed:
        assert list(ROOT.glob(pattern)), pattern


@pytest.mark.parametrize("lock", ["dev", "uv", "worker", "worker-gpu"])
def test_a_lock_holds_names_versions_and_hashes_only(lock: str) -> None:
    package = r"[a-z0-9][\w.-]*==[\w.+]+( ; [^\\]+)? \\"
    for line in LOCKS[lock].splitlines():
        assert re.fullmatch(rf"{package}|    --hash=sha256:[0-9a-f]{{64}}( \\)?", line), line


def test_only_the_gpu_s_lock_has_cuda() -> None:
    assert "nvidia-cudnn-cu12" in versions("worker-gpu")
    assert not [name for lock in ("dev", "worker") for name in versions(lock) if name.startswith("nvidia")]
    assert versions("worker").items() <= versions("worker-gpu").items()


def test_the_self_check_knows_a_wrong_package() -> None:
    lock = LOCKS["worker"]
    assert self_check.wrong_packages(lock) == []
    assert self_check.wrong_packages(re.sub(r"^rich==\S+", "rich==0.1", lock, flags=re.MULTILINE)) == [
        f"rich==0.1 is locked, {versions('worker')['rich']} is installed"
    ]
    (missing,) = self_check.wrong_packages("no-such-package==1 \\\n    --hash=sha256:0\n")
    assert "nothing is installed" in missing
    assert self_check.wrong_packages("no-such-package==1 ; sys_platform == 'nowhere' \\\n") == []


def test_the_self_check_knows_another_beam_and_a_missing_program() -> None:
    assert self_check.wrong_beam(versions("worker")["apache-beam"]) == []
    assert "the SDK image is 2.0.0" in self_check.wrong_beam("2.0.0")[0]
    assert self_check.missing_programs((sys.executable,), __file__) == []
    assert self_check.missing_programs((__file__,), "nowhere") == [
        f"{__file__} is missing",
        "nowhere is missing",
    ]


def test_the_self_check_does_a_run(tmp_path: Path, models: str, tiny_toml: str) -> None:
    assert self_check.wrong_run(tmp_path, models, tiny_toml) == []
    (variant,) = dataset.variants(tmp_path / "output")
    assert dataset.rows(variant).num_rows == self_check.PHOTOGRAPHS
    assert [row["error"] for row in dataset.failures(variant)] == ["not_an_image"]


@pytest.mark.full
def test_the_self_check_does_a_run_of_its_own_variant(tmp_path: Path, small_modules: str) -> None:
    assert self_check.wrong_run(tmp_path, small_modules) == []


def test_the_self_check_knows_a_command_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "main", lambda words: int(words[0] == "verify"))
    (wrong,) = self_check.wrong_run(tmp_path)
    assert wrong.startswith("`pixelbeam verify --deep")


# The build


def test_the_build_checks_before_it_pushes_and_pushes_before_the_template() -> None:
    assert [step["id"] for step in BUILD["steps"]] == ["build", "self-check", "push", "template"]
    build, check, push, template = (step["args"] for step in BUILD["steps"])
    assert "--file=deploy/Dockerfile" in build
    assert {"--network=none", "--user=65534", "--entrypoint=python"} <= set(check)
    image = "${_IMAGE}:${_TAG}"
    assert f"--tag={image}" in build
    assert f"--build-arg=IMAGE={image}" in build
    assert image in check
    assert push == ["push", image]
    assert f"--image={image}" in template
    assert BUILD["options"]["logging"] == "CLOUD_LOGGING_ONLY"
    assert BUILD["options"]["dynamicSubstitutions"] is True


def test_the_build_names_only_what_is_there() -> None:
    text = yaml.safe_dump({name: BUILD[name] for name in ("steps", "substitutions")})
    used = set(re.findall(r"\$\{?(_?[A-Z][A-Z_]*)\}?", text))
    builtin = {"BUILD_ID", "PROJECT_ID"}
    # Cloud Build refuses a substitution that nothing uses, and a name that nothing declares.
    assert used - builtin == set(BUILD["substitutions"])
    for argument in instructions("ARG"):
        assert re.match(r"[A-Z_]+(=|$)", argument)
    declared = {argument.partition("=")[0] for argument in instructions("ARG")}
    given = set(re.findall(r"--build-arg=(\w+)=", text))
    assert given == {"BEAM_VERSION", "LOCK", "IMAGE"}
    assert given <= declared
    for path in (
        *("deploy/Dockerfile", "deploy/flex_template/metadata.json", BUILD["substitutions"]["_LOCK"]),
    ):
        assert (ROOT / path).is_file()
    documented = set(re.findall(r"\b(_[A-Z_]+)=", RUNBOOK + (DEPLOY / "cloudbuild.yaml").read_text("utf-8")))
    assert documented <= set(BUILD["substitutions"]) | {"_IMAGE"}


# Terraform


def unquoted(value: Any) -> Any:
    """What the parser gives, without the quotes that it keeps."""
    if isinstance(value, dict):
        return {str(name).strip('"'): unquoted(each) for name, each in value.items()}
    if isinstance(value, list):
        return [unquoted(each) for each in value]
    return value.strip('"') if isinstance(value, str) else value


def terraform(name: str) -> dict[str, Any]:
    return unquoted(hcl2.loads((DEPLOY / "terraform" / name).read_text(encoding="utf-8")))


def resources() -> dict[str, dict[str, Any]]:
    """Each resource's body, by `type.name`."""
    return {
        f"{kind}.{name}": body
        for block in terraform("main.tf")["resource"]
        for kind, named in block.items()
        for name, body in named.items()
        if isinstance(body, dict)
    }


def test_terraform_s_variables_say_what_they_are_and_refuse_what_they_cannot_be() -> None:
    variables = {
        name: body for block in terraform("variables.tf")["variable"] for name, body in block.items()
    }
    text = (DEPLOY / "terraform/main.tf").read_text(encoding="utf-8")
    for name, body in variables.items():
        assert body["description"]
        assert body["type"]
        (rule,) = body["validation"]
        assert f"var.{name}" in rule["condition"]
        assert rule["error_message"].startswith(f"{name} must be")
    assert set(re.findall(r"var\.(\w+)", text)) == set(variables)


def test_service_accounts_have_the_fewest_roles_and_a_reason_for_each() -> None:
    text = (DEPLOY / "terraform/main.tf").read_text(encoding="utf-8")
    granted = {name: body for name, body in resources().items() if "_iam_" in name}
    assert {body["role"] for body in granted.values()} == ROLES
    for name, body in granted.items():
        kind, label = name.split(".")
        assert kind.endswith("_iam_member"), "a binding or a policy would take others' roles away"
        assert re.search(rf'^# .*\nresource "{kind}" "{label}"', text, re.MULTILINE), name
        if body["role"].startswith(("roles/storage", "roles/artifactregistry", "roles/iam")):
            assert kind != "google_project_iam_member", f"{name} is wider than it needs to be"


def test_the_bucket_is_closed_and_empties_what_is_temporary() -> None:
    bucket = resources()["google_storage_bucket.pixelbeam"]
    assert bucket["uniform_bucket_level_access"] is True
    assert bucket["public_access_prevention"] == "enforced"
    assert bucket["force_destroy"] is False
    (rule,) = bucket["lifecycle_rule"]
    assert rule["condition"][0]["matches_prefix"] == ["tmp/"]
    assert rule["action"][0]["type"] == "Delete"
    subnetwork = resources()["google_compute_subnetwork.pixelbeam"]
    assert subnetwork["private_ip_google_access"] is True


def test_terraform_exports_what_scripts_and_runbook_read() -> None:
    outputs = {name: body for block in terraform("outputs.tf")["output"] for name, body in block.items()}
    exported = set(re.findall(r"export (\w+)=", outputs["environment"]["value"]))
    read = {
        name
        for path in (*SCRIPTS, DEPLOY / "RUNBOOK.md", DEPLOY / "cloudbuild.yaml")
        for name in re.findall(r"\$\{?!?([A-Z]+)\b", path.read_text(encoding="utf-8"))
    }
    assert read - exported == {"IMAGE", "TAG", "PROJECT_ID"} & read
    assert exported <= read
    made = set(re.findall(r"(google_\w+\.\w+)\.", outputs["environment"]["value"]))
    assert made <= set(resources())

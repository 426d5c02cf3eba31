"""What the tests of `deploy/` read, and the linters that they run."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
RUNBOOK = (DEPLOY / "RUNBOOK.md").read_text(encoding="utf-8")
BUILD = yaml.safe_load((DEPLOY / "cloudbuild.yaml").read_text(encoding="utf-8"))
SCRIPTS = sorted(DEPLOY.glob("*.sh"))


def program(name: str) -> str:
    """A program of the development requirements."""
    path = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert path is not None, f"{name} is not installed; `make setup`"
    return path

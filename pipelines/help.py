"""What `--help` teaches beside the options: an example or two for each command, and Beam's options that matter."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from transforms.errors import UsageError

EXAMPLES = {
    "run": (
        """\
pixelbeam run --input photographs --output dataset --model-dir models \\
    --variant google/efficientnet/b0/classification/1""",
        """\
pixelbeam run --runner=DataflowRunner --project my-project --region us-central1 \\
    --temp_location gs://my-bucket/tmp --accelerator nvidia-l4 \\
    --sdk_container_image us-central1-docker.pkg.dev/my-project/pixelbeam/pixelbeam:1 \\
    --input gs://my-bucket/photographs --output gs://my-bucket/dataset \\
    --model-dir gs://my-bucket/models --variant google/efficientnet/b4/classification/1""",
    ),
    "index": (
        "pixelbeam index --input photographs --output dataset",
        """\
pixelbeam index --input 'gs://my-bucket/2026-*/**/*.jpg' --output gs://my-bucket/dataset \\
    --json""",
    ),
    "pull": (
        "pixelbeam pull --model-dir gs://my-bucket/models --variant google/efficientnet/b4/classification/1",
        """\
pixelbeam pull --model-dir models --variant google/efficientnet/b0/classification/1 \\
    --random-weights""",
    ),
    "plan": (
        """\
pixelbeam plan --input photographs --output dataset --model-dir models \\
    --variant google/efficientnet/b0/classification/1""",
        """\
pixelbeam plan --output gs://my-bucket/dataset --model-dir gs://my-bucket/models \\
    --variant google/efficientnet/b4/classification/1 --hourly-price nvidia-l4=0.90 --json""",
    ),
    "watch": ("pixelbeam watch dataset", "pixelbeam watch gs://my-bucket/dataset"),
    "verify": ("pixelbeam verify dataset", "pixelbeam verify dataset --deep --json"),
    "report": ("pixelbeam report dataset", "pixelbeam report gs://my-bucket/dataset --output dataset.html"),
    "variants": ("pixelbeam variants", "pixelbeam variants --json"),
}

BEAM = """\
Any option of Beam may follow, as Beam spells it; without --runner the run is in
this process. `python -m pipelines.beam_options` prints them all. Those that matter:

  --runner NAME               DataflowRunner; others are in docs/engines.md
  --project, --region         where the job is billed, and where its workers are
  --temp_location gs://DIR    for what the job stages; in the same region
  --sdk_container_image NAME  the workers' image, which deploy/ builds
  --max_num_workers N         the upper bound of what an hour costs
  --num_workers N             workers to begin with; default: as there are units
  --machine_type TYPE         default: keeps the GPU busy with vCPUs
  --disk_size_gb GB           of each worker; default: fits image and modules
  --service_account_email, --subnetwork, --no_use_public_ips
                              what deploy/terraform makes for the workers
  --labels KEY=VALUE          for cost reports; ours are added
  --no_wait_until_finish      submit and leave; `pixelbeam watch` comes back
"""


class Parser(argparse.ArgumentParser):
    """Never abbreviates, says what is wrong in one line, and shows what is right.

    Args:
        command: The command whose examples it shows; None for none.
        options: Of argparse.
    """

    def __init__(self, command: str | None = None, **options: Any) -> None:
        self._examples = EXAMPLES[command] if command else ()
        if command:
            options["epilog"] = "\n".join(["examples:", *(_indented(example) for example in self._examples)])
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError: with an example where something is missing."""
        message = message.removeprefix("argument ")
        if self._examples and "required" in message:
            raise UsageError(f"{message}; for example: {one_line(self._examples[0])}")
        raise UsageError(f"{message}; see `{self.prog} --help`")


def one_line(example: str) -> str:
    """A command that is continued over several lines, in one."""
    return " ".join(example.replace("\\\n", "").split())


def _indented(example: str) -> str:
    return "\n".join(f"  {line}" for line in example.splitlines())

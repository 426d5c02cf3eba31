"""What a Flex Template's launcher starts: its parameters, all of them strings, to one `pixelbeam run`.

The launcher has some minutes in all, so that it may not list for long: see `check_listing`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from pipelines import cli
from transforms import index
from transforms.errors import RunError, UsageError
from transforms.paths import absolute

LISTS = ("input", "keep", "variant")
FLAGS = ("mps", "replace", "require_gpu", "retry_failures")
TEXTS = (
    *("accelerator", "batch_size", "class_names", "image_column", "images_per_unit", "limit"),
    *("max_failure_ratio", "model_dir", "output", "precision"),
)
REQUIRED = ("input", "model_dir", "output", "variant")
BOOLEANS = {"": False, "false": False, "true": True}

MOST_LISTED_ANEW = 100_000
MOST_LISTED_AGAIN = 5_000_000
"""Images. A million are compared with their index in 20 s of CPU; Google gives a launcher 12 minutes in all, of which
pulling the image takes some."""


def main(arguments: Sequence[str]) -> int:
    """Submit the job that the parameters describe; returns the exit code of `pixelbeam run`."""
    try:
        parameters, beams = parse(arguments)
        words = ["run", *options(parameters), *beams, "--no_wait_until_finish"]
        check_listing(parameters["output"], parameters.get("limit", ""))
    except UsageError as error:
        print(f"pixelbeam: {error}", file=sys.stderr)
        return cli.EXIT_USAGE
    except RunError as error:
        print(f"pixelbeam: {error}", file=sys.stderr)
        return cli.EXIT_INCOMPLETE
    return cli.main(words)


def parse(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Our parameters that are not blank, and Beam's options as they came; UsageError where one of ours is missing."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name in (*LISTS, *FLAGS, *TEXTS):
        parser.add_argument(f"--{name}", default="")
    known, beams = parser.parse_known_args(arguments)
    parameters = {name: value.strip() for name, value in vars(known).items() if value.strip()}
    for name in REQUIRED:
        if name not in parameters:
            raise UsageError(f"the parameter {name} is missing; it has to be {name}=VALUE")
    # Workers in another image than the launcher's would unpickle what they do not have.
    image = os.environ.get("PIXELBEAM_IMAGE")
    if image and not any(option.startswith("--sdk_container_image") for option in beams):
        beams.append(f"--sdk_container_image={image}")
    return parameters, beams


def options(parameters: dict[str, str]) -> list[str]:
    """The options of `pixelbeam run` for parameters: lists are separated by commas or line ends."""
    words = []
    for name, value in parameters.items():
        option = f"--{name.replace('_', '-')}"
        if name in LISTS:
            words += [option, *filter(None, (part.strip() for part in re.split(r"[,\n]", value)))]
        elif name not in FLAGS:
            words.append(f"{option}={value}")
        elif value.lower() not in BOOLEANS:
            raise UsageError(f"the parameter {name} must be true or false, got {value!r}")
        elif BOOLEANS[value.lower()]:
            words.append(option)
    return words


def check_listing(output: str, limit: str) -> None:
    """Raise UsageError unless the launcher's listing is sure to be short.

    A run lists its inputs, and compares them with the index where there is one. So it takes a limit of at most
    `MOST_LISTED_ANEW`, or an index of at most `MOST_LISTED_AGAIN` images, which says how much there is to list.
    """
    if re.fullmatch(r"\d+", limit) and int(limit) <= MOST_LISTED_ANEW:
        return
    known = index.read(absolute(output))
    if known is None:
        raise UsageError(
            f"{output} holds no index, and a template may not list for long: run `pixelbeam index` first, from a "
            f"machine, or give a limit of at most {MOST_LISTED_ANEW}"
        )
    if known.n_images > MOST_LISTED_AGAIN:
        raise UsageError(
            f"the index of {output} has {known.n_images:,} images, too many for a template to compare: submit with "
            "`pixelbeam run` or deploy/launch.sh, from a machine"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

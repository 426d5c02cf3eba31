"""The command line's options: each command's, in groups, each with what it means, its unit and its default."""

from __future__ import annotations

import argparse
import os

from pipelines.config import PRECISIONS
from pipelines.help import BEAM, Parser

COMMANDS = {
    "run": "score images with one or more variants",
    "index": "only list the images and cut them into units",
    "pull": "fetch modules once, check, optimise and keep them",
    "plan": "tell what a run would do and take, and do nothing",
    "watch": "come back to the last run, and sum it up once it has ended",
    "verify": "prove that every image is a row or a failure",
    "report": "show what a dataset holds, as one page for a browser",
    "variants": "list the catalogue of modules",
}
"""What each is for, in one line."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(
        prog="pixelbeam",
        description="Run image models over all images of a folder or a bucket; lose none.",
        epilog="`pixelbeam COMMAND --help` explains a command's options and shows two examples.",
    )
    commands = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND", parser_class=Parser
    )
    adders = {
        "run": _add_run,
        "index": _add_index,
        "pull": _add_pull,
        "plan": _add_plan,
        "watch": _add_directory,
        "verify": _add_verify,
        "report": _add_report,
        "variants": _add_json,
    }
    for command, purpose in COMMANDS.items():
        description = f"{purpose[0].upper()}{purpose[1:]}."
        adders[command](commands.add_parser(command, command=command, help=purpose, description=description))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_images(parser)
    models = _add_models(parser)
    models.add_argument(
        "--batch-size",
        type=_whole_number,
        metavar="N",
        help="images a forward pass; default: computed from the device's memory and the modules",
    )
    models.add_argument(
        "--require-gpu",
        action="store_true",
        help="fail at once where TensorFlow sees no GPU; --accelerator implies it",
    )
    _add_output_of_run(_add_output(parser))
    dataflow = parser.add_argument_group("Dataflow", "With --runner=DataflowRunner.")
    dataflow.add_argument(
        "--accelerator",
        metavar="TYPE",
        help="the GPU of the workers, such as nvidia-l4 or nvidia-tesla-t4; default: none",
    )
    dataflow.add_argument(
        "--mps",
        action="store_true",
        help="a process for each vCPU, which share the GPU; default: one process, which shares its models",
    )
    parser.add_argument_group("Beam's options", BEAM)


def _add_output_of_run(output: argparse._ArgumentGroup) -> None:
    output.add_argument(
        "--max-failure-ratio",
        type=_number,
        default=0.1,
        metavar="R",
        help="the part of the images, from 0 to 1, that may fail: more end the run with exit code 3; default: 0.1",
    )
    output.add_argument(
        "--retry-failures", action="store_true", help="try once more what failed in earlier runs"
    )
    output.add_argument(
        "--replace",
        action="store_true",
        help="do anew what the output holds of these variants with other settings; default: refuse",
    )


def _add_index(parser: argparse.ArgumentParser) -> None:
    _add_images(parser)
    _add_output(parser)
    _add_json(parser)


def _add_pull(parser: argparse.ArgumentParser) -> None:
    _add_variants(parser).add_argument(
        "--random-weights",
        action="store_true",
        help="make modules of the same architecture without trained weights, for trials without a network",
    )


def _add_plan(parser: argparse.ArgumentParser) -> None:
    _add_images(parser, optional="; without it the index is taken as it is")
    _add_models(parser)
    _add_output(parser)
    parser.add_argument(
        "--hourly-price",
        nargs="+",
        action="extend",
        default=[],
        metavar="WORKER=P",
        help="what an hour of a worker costs, in any currency, such as nvidia-l4=0.90 or cpu=0.40; default: no price",
    )
    _add_json(parser)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    _add_directory(parser)
    parser.add_argument(
        "--deep", action="store_true", help="read every row too; default: the index and the files' footers"
    )
    _add_json(parser)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DIR", help="the --output of `pixelbeam run`, a path or a URL")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="the page; default: DIR/report.html, or report.html where DIR is a URL",
    )


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="DIR", help="the --output of `pixelbeam run`, a path or a URL")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document, whose fields docs/json.md explains"
    )


def _add_images(parser: argparse.ArgumentParser, optional: str = "") -> None:
    images = parser.add_argument_group("images")
    images.add_argument(
        "--input",
        nargs="+",
        action="extend",
        default=[],
        required=not optional,
        metavar="PATTERN",
        help="directories, globs, manifests (.txt, .csv, .parquet), containers (.tfrecord, .tar, .parquet) and "
        f"files, paths or URLs{optional}",
    )
    images.add_argument(
        "--image-column",
        metavar="NAME",
        help="what holds the images of a container; default: image/encoded in TFRecords, the one column of bytes "
        "in Parquet",
    )
    images.add_argument(
        "--keep",
        nargs="+",
        action="extend",
        default=[],
        metavar="COLUMN",
        help="columns of a manifest or of Parquet, features of TFRecords, neighbours in a tar (cls, txt, json) to "
        "carry into the rows; default: none",
    )
    images.add_argument(
        "--limit", type=_whole_number, metavar="N", help="a trial: only the first N images; default: all"
    )


def _add_models(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    models = _add_variants(parser)
    models.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="exact",
        help="exact is float32 throughout, fast is 16 bits where the device can; default: exact",
    )
    models.add_argument(
        "--class-names",
        metavar="FILE",
        help="a class name a line, a path or a URL; default: ImageNet's where `pixelbeam pull` could fetch them",
    )
    return models


def _add_variants(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    models = parser.add_argument_group("models")
    models.add_argument(
        "--variant",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME",
        help="names from `pixelbeam variants`, or TOML files of your own modules",
    )
    models.add_argument(
        "--model-dir",
        default=os.environ.get("TFHUB_CACHE_DIR") or os.path.expanduser("~/.cache/pixelbeam"),
        metavar="DIR",
        help="where modules are kept, a path or a URL; default: $TFHUB_CACHE_DIR, else ~/.cache/pixelbeam",
    )
    return models


def _add_output(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output", required=True, metavar="DIR", help="the directory of the dataset, a path or a URL"
    )
    output.add_argument(
        "--images-per-unit",
        type=_whole_number,
        metavar="N",
        help="images in a new unit, which is one output file for each variant; default: five minutes of work, at "
        "most 4,096",
    )
    return output


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from error

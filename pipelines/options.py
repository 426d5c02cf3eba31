"""The command line's options, and what they say as a configuration."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import os
from typing import Any, NoReturn

from pipelines.config import PRECISIONS, RunConfig
from transforms.errors import UsageError
from transforms.paths import absolute

RUN_EPILOG = "Any option of Beam is passed on, for instance --runner; without one the run is in this process."


class _Parser(argparse.ArgumentParser):
    """Never abbreviates, and says what is wrong in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(prog="pixelbeam", description="Run image models over all images of a folder; lose none.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_run(commands.add_parser("run", help="score images with one or more variants", epilog=RUN_EPILOG))
    index = commands.add_parser("index", help="only list the images and cut them into units")
    _add_listing(index)
    pull = commands.add_parser("pull", help="fetch modules once, check and keep them")
    _add_variants(pull)
    pull.add_argument("--random-weights", action="store_true", help="make modules without trained weights")
    plan = commands.add_parser("plan", help="tell what a run would do, and do nothing")
    _add_listing(plan, optional="; without it the index is taken as it is")
    _add_scoring(plan)
    plan.add_argument(
        "--hourly-price",
        nargs="+",
        action="extend",
        default=[],
        metavar="WORKER=P",
        help="what an hour of a worker costs, such as nvidia-l4=0.90 or cpu=0.40",
    )
    plan.add_argument("--json", action="store_true", help="for machines")
    watch = commands.add_parser("watch", help="come back to the last run, and sum it up once it has ended")
    watch.add_argument("output", help="an output directory")
    verify = commands.add_parser("verify", help="prove that every image is a row or a failure")
    verify.add_argument("output", help="an output directory")
    verify.add_argument("--deep", action="store_true", help="read every row, not only the footers")
    variants = commands.add_parser("variants", help="list the catalogue")
    variants.add_argument("--json", action="store_true", help="for machines")
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_listing(parser)
    _add_scoring(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help="images a forward pass")
    parser.add_argument(
        "--max-failure-ratio",
        type=float,
        default=0.1,
        metavar="R",
        help="more failures are an error; default: 0.1",
    )
    parser.add_argument(
        "--accelerator",
        metavar="TYPE",
        help="the GPU of Dataflow's workers, such as nvidia-l4 or nvidia-tesla-t4",
    )
    parser.add_argument(
        "--mps", action="store_true", help="on Dataflow, a process for each vCPU, which share the GPU"
    )
    parser.add_argument("--require-gpu", action="store_true", help="fail where TensorFlow sees no GPU")
    parser.add_argument(
        "--retry-failures", action="store_true", help="try once more what failed in earlier runs"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="do anew what the output holds of these variants with other settings",
    )


def _add_listing(parser: argparse.ArgumentParser, optional: str = "") -> None:
    parser.add_argument(
        "--input",
        nargs="+",
        action="extend",
        default=[],
        required=not optional,
        metavar="PATTERN",
        help=f"directories, globs, manifests (.txt, .csv, .parquet) and files{optional}",
    )
    parser.add_argument(
        "--image-column",
        metavar="NAME",
        help="what holds the images in TFRecords (image/encoded) and Parquet",
    )
    parser.add_argument(
        "--keep",
        nargs="+",
        action="extend",
        default=[],
        metavar="COLUMN",
        help="columns of a manifest, features of TFRecords or neighbours in a tar (cls, txt, json) for the rows",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where the dataset goes")
    parser.add_argument("--images-per-unit", type=int, metavar="N", help="images in an output file")
    parser.add_argument("--limit", type=int, metavar="N", help="a trial: only the first N images")


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    _add_variants(parser)
    parser.add_argument("--precision", choices=PRECISIONS, default="exact", help="default: exact")
    parser.add_argument("--class-names", metavar="FILE", help="a class name a line")


def _add_variants(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--variant",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME",
        help="TF Hub names, or TOML files of your own modules",
    )
    parser.add_argument(
        "--model-dir",
        default=os.environ.get("TFHUB_CACHE_DIR") or os.path.expanduser("~/.cache/pixelbeam"),
        metavar="DIR",
        help="where modules are kept, a directory or a URL; default: $TFHUB_CACHE_DIR, else ~/.cache/pixelbeam",
    )


def option_names(parser: argparse.ArgumentParser, command: str | None = None) -> set[str]:
    """The long options of one command, or of all."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    parsers = [commands.choices[command]] if command else list(commands.choices.values())
    return {name for each in parsers for action in each._actions for name in action.option_strings}


def hyphenate(arguments: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """Our own options written with underscores, with hyphens; Beam's are left alone."""
    ours = option_names(parser)
    hyphenated = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        ours_name = name.replace("_", "-")
        hyphenated.append(ours_name + equals + value if ours_name in ours else argument)
    return hyphenated


def config_of(known: argparse.Namespace, extra: list[str], ours: set[str]) -> RunConfig:
    """The configuration that a command's options make; what the command does not take is as usual.

    Args:
        known: Our options.
        extra: What is left for Beam.
        ours: The names of the command's options.

    Raises:
        UsageError: A value cannot be meant, or nobody knows an option.
    """
    if extra:
        _check_beam_options(extra, ours)
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in vars(known).items()
    }
    names = {field.name for field in dataclasses.fields(RunConfig)}
    return RunConfig(
        inputs=given["input"],
        variants=given["variant"],
        model_dir=absolute(given.pop("model_dir")),
        beam_options=tuple(extra),
        **{name: value for name, value in given.items() if name in names},
    )


def _check_beam_options(extra: list[str], ours: set[str]) -> None:
    _load_runner(beam_parser().parse_known_args(extra)[0].runner)
    parser = beam_parser()
    unknown = parser.parse_known_args(extra)[1]
    if unknown:
        raise UsageError(unknown_option(unknown[0], ours | set(parser._option_string_actions)))


def _load_runner(runner: str | None) -> None:
    """Import a runner that is given by its full name: the options of DaskRunner, for one, are known only then."""
    module, _, name = (runner or "").rpartition(".")
    if module:
        try:
            getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"--runner {runner} cannot be loaded: {error}") from error


def beam_parser() -> argparse.ArgumentParser:
    """A parser of every option that Beam knows."""
    from apache_beam.options.pipeline_options import PipelineOptions

    parser = _Parser(prog="pixelbeam run", add_help=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return parser


def unknown_option(argument: str, known: set[str]) -> str:
    """What to say about an argument that nobody knows."""
    name = argument.partition("=")[0]
    nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]}?" if name.startswith("-") and nearest else "see `pixelbeam --help`"
    return f"unknown argument {argument!r}; {hint}"

"""The command line: arguments to a configuration; a command is imported when it is called."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from pipelines.config import PRECISIONS, RunConfig
from pipelines.quiet import start_tensorflow
from pipelines.supervise import supervise
from transforms.errors import RunError, UsageError
from transforms.paths import absolute

EXIT_INCOMPLETE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Never abbreviates, and says what is wrong in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def console() -> int:
    """The command as it is installed: `main`, of which `run` has a parent that outlives a crash; its exit code."""
    if sys.argv[1:2] == ["run"]:
        return supervise(main)
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 not complete, 2 wrong usage, 3 too many failures."""
    # TensorFlow's C++ side reports routine matters as warnings; its errors still come through.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(level=logging.ERROR)
    # Schedulers and containers stop a process by SIGTERM; it ends like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except UsageError as error:
        print(f"pixelbeam: {error}", file=sys.stderr)
        return EXIT_USAGE
    except RunError as error:
        print(f"pixelbeam: {error}", file=sys.stderr)
        return EXIT_INCOMPLETE
    except OSError as error:
        print(f"pixelbeam: {error.strerror or error}: {error.filename or 'no file named'}", file=sys.stderr)
        return EXIT_INCOMPLETE
    except KeyboardInterrupt:
        print("pixelbeam: interrupted; run the same command again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED


def _dispatch(arguments: list[str]) -> int:
    parser = build_parser()
    known, extra = parser.parse_known_args(_hyphenate(arguments, parser))
    if extra and known.command != "run":
        raise UsageError(_unknown_option(extra[0], option_names(parser, known.command)))
    if known.command == "run":
        config = _run_config(known, extra, option_names(parser, "run"))
        _check_early(config)
        start_tensorflow()
        from pipelines.run import run

        return run(replace(config, output=absolute(config.output)))
    if known.command == "index":
        from pipelines.commands import index
        from transforms.containers import Layout

        layout = Layout(known.image_column, tuple(known.keep))
        return index.main(tuple(known.input), known.output, layout, known.images_per_unit, known.limit)
    if known.command == "pull":
        start_tensorflow()
        from pipelines.commands import pull

        return pull.main(tuple(known.variant), known.model_dir, known.random_weights)
    if known.command == "verify":
        from pipelines.commands import verify

        return verify.main(known.output, known.deep)
    from pipelines.commands import variants

    return variants.main(known.json)


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
    verify = commands.add_parser("verify", help="prove that every image is a row or a failure")
    verify.add_argument("output", help="an output directory")
    verify.add_argument("--deep", action="store_true", help="read every row, not only the footers")
    variants = commands.add_parser("variants", help="list the catalogue")
    variants.add_argument("--json", action="store_true", help="for machines")
    return parser


def _check_early(config: RunConfig) -> None:
    """What can be told wrong before TensorFlow is loaded, which takes seconds."""
    from pipelines.listing import check_output
    from transforms.listing import check_patterns
    from transforms.variants import find

    check_output(config.output)
    check_patterns(config.inputs)
    for spec in config.variants:
        find(spec)


RUN_EPILOG = "Any option of Beam is passed on, for instance --runner; without one the run is in this process."


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_listing(parser)
    _add_variants(parser)
    parser.add_argument("--precision", choices=PRECISIONS, default="exact", help="default: exact")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images a forward pass")
    parser.add_argument("--class-names", metavar="FILE", help="a class name a line")
    parser.add_argument(
        "--max-failure-ratio",
        type=float,
        default=0.1,
        metavar="R",
        help="more failures are an error; default: 0.1",
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


def _add_listing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input",
        nargs="+",
        action="extend",
        required=True,
        metavar="PATTERN",
        help="directories, globs, manifests (.txt, .csv, .parquet) and files",
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
        help="where modules are kept; default: $TFHUB_CACHE_DIR, else ~/.cache/pixelbeam",
    )


def option_names(parser: argparse.ArgumentParser, command: str | None = None) -> set[str]:
    """The long options of one command, or of all."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    parsers = [commands.choices[command]] if command else list(commands.choices.values())
    return {name for each in parsers for action in each._actions for name in action.option_strings}


def _hyphenate(arguments: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """Our own options written with underscores, with hyphens; Beam's are left alone."""
    ours = option_names(parser)
    hyphenated = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        ours_name = name.replace("_", "-")
        hyphenated.append(ours_name + equals + value if ours_name in ours else argument)
    return hyphenated


def _run_config(known: argparse.Namespace, extra: list[str], ours: set[str]) -> RunConfig:
    if extra:
        _check_beam_options(extra, ours)
    return RunConfig(
        inputs=tuple(known.input),
        output=known.output,
        variants=tuple(known.variant),
        model_dir=absolute(known.model_dir),
        precision=known.precision,
        image_column=known.image_column,
        keep=tuple(known.keep),
        images_per_unit=known.images_per_unit,
        batch_size=known.batch_size,
        class_names=known.class_names,
        max_failure_ratio=known.max_failure_ratio,
        retry_failures=known.retry_failures,
        replace=known.replace,
        require_gpu=known.require_gpu,
        limit=known.limit,
        beam_options=tuple(extra),
    )


def _check_beam_options(extra: list[str], ours: set[str]) -> None:
    parser = beam_parser()
    unknown = parser.parse_known_args(extra)[1]
    if unknown:
        raise UsageError(_unknown_option(unknown[0], ours | set(parser._option_string_actions)))


def beam_parser() -> argparse.ArgumentParser:
    """A parser of every option that Beam knows."""
    from apache_beam.options.pipeline_options import PipelineOptions

    parser = _Parser(prog="pixelbeam run", add_help=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return parser


def _unknown_option(argument: str, known: set[str]) -> str:
    name = argument.partition("=")[0]
    nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]}?" if name.startswith("-") and nearest else "see `pixelbeam --help`"
    return f"unknown argument {argument!r}; {hint}"


if __name__ == "__main__":
    sys.exit(console())

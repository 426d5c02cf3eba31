"""Beam's options: which there are, and what is wrong with those that were given.

`python -m pipelines.beam_options` prints them all.
"""

from __future__ import annotations

import argparse
import difflib
import importlib

from pipelines.help import Parser
from transforms.errors import UsageError


def check(given: list[str], ours: set[str]) -> None:
    """Raise UsageError for an option that neither Beam nor the command has.

    Args:
        given: What is left for Beam.
        ours: The names of the command's options, among which the nearest is looked for, too.
    """
    _load_runner(beam_parser().parse_known_args(given)[0].runner)
    parser = beam_parser()
    unknown = parser.parse_known_args(given)[1]
    if unknown:
        raise UsageError(unknown_option(unknown[0], ours | set(parser._option_string_actions), "run"))


def beam_parser() -> argparse.ArgumentParser:
    """A parser of every option that Beam knows."""
    from apache_beam.options.pipeline_options import PipelineOptions

    parser = Parser(prog="pixelbeam run", add_help=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return parser


def unknown_option(argument: str, known: set[str], command: str) -> str:
    """What to say about an argument that nobody knows, given the options that the command knows."""
    near = nearest(argument.partition("=")[0], known) if argument.startswith("-") else None
    if near:
        return f"unknown argument {argument!r}; did you mean {near}?"
    option = "an option goes before a value" if "--input" in known else "one directory is enough"
    hint = "" if argument.startswith("-") else f"{option}, quotes go around a name with spaces; "
    return f"unknown argument {argument!r}; {hint}see `pixelbeam {command} --help`"


def nearest(word: str, known: set[str]) -> str | None:
    """The known word that is most like this one; None where none is."""
    return next(iter(difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)), None)


def _load_runner(runner: str | None) -> None:
    """Import a runner that is given by its full name: the options of DaskRunner, for one, are known only then."""
    module, _, name = (runner or "").rpartition(".")
    if module:
        try:
            getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"--runner {runner} cannot be loaded: {error}; correct the name, or install what it needs"
            ) from error


if __name__ == "__main__":
    beam_parser().print_help()

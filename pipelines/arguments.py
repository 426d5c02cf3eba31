"""From arguments to a configuration: options in either spelling, ours checked, Beam's passed on."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from pipelines import beam_options
from pipelines.config import RunConfig
from transforms.errors import UsageError
from transforms.paths import absolute


def option_names(parser: argparse.ArgumentParser, command: str | None = None) -> set[str]:
    """The long options of one command, or of all."""
    each = parsers(parser)
    chosen = [each[command]] if command else list(each.values())
    return {name for its in chosen for action in its._actions for name in action.option_strings}


def check_command(arguments: list[str], parser: argparse.ArgumentParser) -> None:
    """Raise UsageError where the first word should be a command and is none."""
    known = parsers(parser)
    if not arguments:
        raise UsageError(f"give a command: {', '.join(known)}; `pixelbeam --help` explains them")
    if arguments[0] not in known and not arguments[0].startswith("-"):
        near = beam_options.nearest(arguments[0], set(known))
        hint = f"did you mean {near}?" if near else f"there are {', '.join(known)}"
        raise UsageError(f"no command is called {arguments[0]!r}; {hint}")


def parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(commands.choices)


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
        beam_options.check(extra, ours)
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

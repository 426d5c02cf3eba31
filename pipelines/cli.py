"""The command line: a command is imported when it is called."""

from __future__ import annotations

import logging
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipelines.arguments import check_command, config_of, hyphenate, option_names
from pipelines.beam_options import unknown_option
from pipelines.config import RunConfig
from pipelines.options import build_parser
from pipelines.quiet import start_tensorflow
from pipelines.supervise import supervise
from transforms.errors import RunError, UsageError
from transforms.paths import absolute

EXIT_INCOMPLETE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def console() -> int:
    """The command as it is installed: `main`, of which `run` has a parent that outlives a crash; its exit code."""
    if sys.argv[1:2] == ["run"]:
        return supervise(main)
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 not complete, 2 wrong usage, 3 too many failures."""
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
        what = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)
        print(f"pixelbeam: {what}; mend that and run the same command again", file=sys.stderr)
        return EXIT_INCOMPLETE
    except KeyboardInterrupt as interrupt:
        what = str(interrupt) or "interrupted; run the same command again to go on"
        print(f"pixelbeam: {what}", file=sys.stderr)
        return EXIT_INTERRUPTED


def _dispatch(arguments: list[str]) -> int:
    parser = build_parser()
    check_command(arguments, parser)
    known, extra = parser.parse_known_args(hyphenate(arguments, parser))
    if known.command == "run":
        return _run(config_of(known, extra, option_names(parser, "run")))
    if extra:
        raise UsageError(unknown_option(extra[0], option_names(parser, known.command), known.command))
    return _COMMANDS[known.command](known)


def _run(config: RunConfig) -> int:
    _check_early(config)
    start_tensorflow()
    from pipelines.run import run

    return run(replace(config, output=absolute(config.output)))


def _index(known: Namespace) -> int:
    from pipelines.commands import index
    from transforms.containers import Layout

    layout = Layout(known.image_column, tuple(known.keep))
    return index.main(
        tuple(known.input), known.output, layout, known.images_per_unit, known.limit, known.json
    )


def _pull(known: Namespace) -> int:
    _check_models(known.model_dir, known.variant)
    start_tensorflow()
    from pipelines.commands import pull

    return pull.main(tuple(known.variant), known.model_dir, known.random_weights)


def _plan(known: Namespace) -> int:
    config = config_of(known, [], set())
    _check_early(config)
    start_tensorflow()
    from pipelines.commands import plan
    from pipelines.costs import check_prices

    return plan.main(config, check_prices(known.hourly_price), known.json)


def _watch(known: Namespace) -> int:
    start_tensorflow()
    from pipelines.commands import watch

    return watch.main(known.output)


def _verify(known: Namespace) -> int:
    from pipelines.commands import verify

    return verify.main(known.output, known.deep, known.json)


def _report(known: Namespace) -> int:
    from pipelines.commands import report

    return report.main(known.dataset, known.output)


def _variants(known: Namespace) -> int:
    from pipelines.commands import variants

    return variants.main(known.json)


_COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "index": _index,
    "pull": _pull,
    "plan": _plan,
    "watch": _watch,
    "verify": _verify,
    "report": _report,
    "variants": _variants,
}


def _check_early(config: RunConfig) -> None:
    """What can be told wrong before TensorFlow is loaded, which takes seconds."""
    from pipelines.directories import check_output
    from transforms.listing import check_patterns

    check_output(config.output, config.inputs)
    check_patterns(config.inputs)
    _check_models(config.model_dir, config.variants)


def _check_models(model_dir: str, variants: Sequence[str]) -> None:
    from pipelines.directories import check_model_dir
    from transforms.variants import find

    check_model_dir(model_dir)
    for spec in variants:
        find(spec)


if __name__ == "__main__":
    sys.exit(console())

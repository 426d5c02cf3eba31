"""A parent for the command, which outlives what no exception can catch and says in one line what to do."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from transforms.watchdog import EXIT_HUNG

EXIT_INCOMPLETE = 1
EXIT_INTERRUPTED = 130
EXIT_WORKER_DIED = 76
"""Of the child, where the runner has processes of its own and one of them died."""

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""

_FORWARDED = (signal.SIGTERM, signal.SIGINT)
_SHOW_CURSOR = "\n\x1b[?25h"
"""ECMA-48; the live line hides it."""


def supervise(main: Callable[[], int]) -> int:
    """Run `main` in a child process; returns its exit code, or 1 and a line on stderr where it died or hung.

    To be called before anything heavy is imported and before there are threads. SIGTERM is passed on to the child,
    whose `main` may turn it into an orderly end, and SIGINT where it came to this process alone. If this process
    dies, so does the child (on Linux).
    """
    _flush()
    # Neither process may be interrupted before it has its own way to deal with it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _die_with(parent)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        _leave_with(main)
    _forward_signals(child)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    _, status = os.waitpid(child, 0)
    # Its number may be another process's now.
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    return _exit_code(os.waitstatus_to_exitcode(status))


def _leave_with(main: Callable[[], int]) -> NoReturn:
    """Run `main` and end this process with its exit code, whatever its threads are doing.

    The interpreter would wait for all threads, and a thread inside of a hung device never ends.
    """
    code = EXIT_INCOMPLETE
    try:
        code = main()
    except SystemExit as leaving:
        code = _code_of(leaving)
    except KeyboardInterrupt:
        # `main` has its own line for the first one; this one came while it was at that.
        code = EXIT_INTERRUPTED
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        for number in _FORWARDED:
            signal.signal(number, signal.SIG_IGN)
        atexit._run_exitfuncs()
        _flush()
        os._exit(code)


def _code_of(leaving: SystemExit) -> int:
    if isinstance(leaving.code, str):
        print(leaving.code, file=sys.stderr)
        return EXIT_INCOMPLETE
    return leaving.code or 0


def _exit_code(code: int) -> int:
    """The command's exit code for the child's, which is negative where a signal ended it."""
    if code == EXIT_HUNG:
        _say("the model did not come back from the device")
    elif code == EXIT_WORKER_DIED:
        _say("a worker process died")
    elif code < 0:
        hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        _say(f"the process died ({signal.Signals(-code).name}{hint})")
    else:
        return code
    return EXIT_INCOMPLETE


def _say(what: str) -> None:
    after_live_line = _SHOW_CURSOR if sys.stderr.isatty() else ""
    advice = "run the same command again: a unit that died twice is done one image at a time"
    print(f"{after_live_line}pixelbeam: {what}; what was committed stays; {advice}", file=sys.stderr)


def _forward_signals(child: int) -> None:
    def forward(number: int, _: FrameType | None) -> None:
        # A terminal sends Ctrl-C to both processes.
        if number == signal.SIGTERM or not _in_foreground():
            os.kill(child, number)

    for number in _FORWARDED:
        signal.signal(number, forward)


def _in_foreground() -> bool:
    """Whether this process is what Ctrl-C on its terminal is sent to."""
    try:
        with open("/dev/tty", "rb") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies, so that none is left over; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            # It died before it was watched.
            os._exit(EXIT_INCOMPLETE)


def _flush() -> None:
    """Write out what Python's streams hold, which a fork would double and `os._exit` would lose."""
    for stream in (sys.stdout, sys.stderr):
        # Where nobody reads it any more there is nothing to be done.
        with suppress(OSError):
            stream.flush()

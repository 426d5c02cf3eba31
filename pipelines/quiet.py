"""Keeping what TensorFlow and libjpeg write to stderr, which no setting of theirs turns off, out of sight."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TextIO

NOTICES = (
    "absl::InitializeLog()",
    "oneDNN custom operations are on",
    "Could not find cuda drivers on your machine",
    "failed call to cuInit",
)


@contextmanager
def stderr_aside() -> Iterator[TextIO]:
    """Drop all that this process writes to stderr; gives the real one.

    libjpeg writes a line for each damaged image, and a worker in this process the traceback of each error that
    the runner then raises.
    """
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w") as real, open(os.devnull, "w") as dropped, redirect_stderr(dropped):
        os.dup2(dropped.fileno(), 2)
        try:
            yield real
        finally:
            os.dup2(real.fileno(), 2)


def start_tensorflow() -> None:
    """Import TensorFlow and let it look for devices; of what its C++ side writes to stderr, notices are dropped."""
    # Its C++ side reports routine matters as warnings; its errors still come through.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            from transforms import devices

            devices.configure()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                if not any(notice in line for notice in NOTICES):
                    print(line, file=sys.stderr)

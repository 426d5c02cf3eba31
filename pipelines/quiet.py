"""Starting TensorFlow without its notices, which no setting of its own turns off."""

from __future__ import annotations

import os
import sys
import tempfile

NOTICES = (
    "absl::InitializeLog()",
    "oneDNN custom operations are on",
    "Could not find cuda drivers on your machine",
    "failed call to cuInit",
)


def start_tensorflow() -> None:
    """Import TensorFlow and let it look for devices; of what its C++ side writes to stderr, notices are dropped."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                if not any(notice in line for notice in NOTICES):
                    print(line, file=sys.stderr)

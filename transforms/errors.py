"""The three ways in which something can be wrong, told apart by who has to act."""

from __future__ import annotations


class BadImage(Exception):
    """One image cannot be done; the run goes on and the image becomes a `Failure`.

    Args:
        error: A short, stable kind for grouping, such as `truncated` or `not_found`.
        message: What is wrong with this image, in one line.
    """

    def __init__(self, error: str, message: str) -> None:
        super().__init__(error, message)
        self.error = error
        self.message = message

    def __str__(self) -> str:
        return f"{self.error}: {self.message}"


class UsageError(Exception):
    """The command cannot mean what it says (exit code 2). The text is one line: what, where, what to do."""


class RunError(Exception):
    """The command was right but cannot be carried out (exit code 1). The text is one line: what, where, what to do."""

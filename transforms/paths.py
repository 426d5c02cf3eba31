"""Paths and URLs as text."""

from __future__ import annotations

import os


def is_remote(path: str) -> bool:
    """Whether it is a URL; a path without a scheme is on a local disk."""
    return "://" in path


def absolute(path: str) -> str:
    """The path from the root; a URL without a slash at its end."""
    return path.rstrip("/") if is_remote(path) else os.path.abspath(path)

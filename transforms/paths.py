"""Paths and URLs as text."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote_to_bytes

_ON_THIS_MACHINE = re.compile(r"file://(localhost)?(?=/)", re.IGNORECASE)


def is_remote(path: str) -> bool:
    """Whether it is a URL; a path without a scheme is on a local disk."""
    return "://" in path


def without_file_scheme(path: str) -> str:
    """The path that a `file://` URL stands for, with %20 and the like decoded (RFC 8089); any other path as it is."""
    scheme = _ON_THIS_MACHINE.match(path)
    return os.fsdecode(unquote_to_bytes(path[scheme.end() :])) if scheme else path


def as_text(name: str) -> str:
    r"""The name with bytes that are not UTF-8 spelt out, as `\xe9`: neither Parquet nor a page can hold them."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def absolute(path: str) -> str:
    """The path from the root; a URL without a slash at its end, but of `file://` the path."""
    path = without_file_scheme(path)
    return path.rstrip("/") if is_remote(path) else os.path.abspath(path)


def from_here(path: str) -> str:
    """The path as a person in the working directory would type it, where it is below that; else as it is."""
    return path.removeprefix(os.path.join(os.getcwd(), ""))

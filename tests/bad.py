"""Images that are bad in known ways, each with the reason that its failure must give."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests import photos

PHOTO = photos.scene(90, 120, seed=5)
JPEG = photos.jpeg(PHOTO)
PNG = photos.encode(PHOTO, "PNG")
GIF = photos.encode(PHOTO, "GIF")
WEBP = photos.encode(PHOTO, "WEBP")


def png_claiming(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes of pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(bytes(100)), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


CONTENTS: dict[str, tuple[bytes, tuple[str, str]]] = {
    "empty.jpg": (b"", ("decode", "empty")),
    "text.jpg": (b"milk, bread, coffee\n", ("decode", "not_an_image")),
    "page.png": (b"<html><body>404</body></html>", ("decode", "not_an_image")),
    "noise.jpg": (np.random.default_rng(0).bytes(2000), ("decode", "not_an_image")),
    "cut.jpg": (JPEG[: len(JPEG) * 3 // 10], ("decode", "truncated")),
    "cut.png": (PNG[: len(PNG) // 2], ("decode", "truncated")),
    "cut.gif": (GIF[: len(GIF) // 2], ("decode", "truncated")),
    "cut.webp": (WEBP[: len(WEBP) // 2], ("decode", "truncated")),
    "bomb.png": (png_claiming(60_000, 60_000), ("decode", "too_many_pixels")),
}

AFTER_LISTING: dict[str, tuple[Callable[[Path], object], tuple[str, str]]] = {
    "vanishes.jpg": (lambda path: path.unlink(), ("fetch", "not_found")),
    "grows.jpg": (lambda path: path.write_bytes(JPEG + b" "), ("fetch", "changed")),
    "becomes-a-folder.jpg": (lambda path: (path.unlink(), path.mkdir()), ("fetch", "not_a_file")),
}
"""What happens to a good image between listing and fetching."""

REASONS = {name: reason for name, (_, reason) in {**CONTENTS, **AFTER_LISTING}.items()}


def write(folder: Path, name: str, number: int) -> Path:
    """The bad image called `name`, in its state at listing."""
    path = folder / f"{number:03d}-{name}"
    path.write_bytes(CONTENTS[name][0] if name in CONTENTS else JPEG)
    return path


def strike(path: Path) -> None:
    """What happens to it after listing, if it is of that kind."""
    name = path.name.partition("-")[2]
    if name in AFTER_LISTING:
        AFTER_LISTING[name][0](path)

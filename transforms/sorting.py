"""Images in the order of an index, sorted through files on the local disk: memory does not grow with their number."""

from __future__ import annotations

import heapq
import itertools
import os
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from transforms.records import ImageRef

IMAGES_IN_MEMORY = 100_000
IMAGES_A_BLOCK = 1000


def order(ref: ImageRef) -> tuple[str, int, str]:
    """What images are sorted by: files by uri, what lies in a container by where it lies."""
    return (ref.place.container, ref.place.offset, ref.uri) if ref.place else (ref.uri, -1, ref.uri)


@dataclass(frozen=True)
class SortedImages:
    """Sorted runs of images in files, merged as they are drawn, any number of times.

    Attributes:
        paths: The files; of equal images that in the first of them was listed first.
    """

    paths: tuple[str, ...]

    def __iter__(self) -> Iterator[ImageRef]:
        return heapq.merge(*map(_read_file, self.paths), key=order)


def sort_images(refs: Iterable[ImageRef], folder: str) -> SortedImages:
    """The images sorted, equal ones in the order in which they were listed, through files in `folder`."""
    paths: list[str] = []
    remaining = iter(refs)
    while run := list(itertools.islice(remaining, IMAGES_IN_MEMORY)):
        run.sort(key=order)
        paths.append(os.path.join(folder, f"{len(paths):06d}"))
        with open(paths[-1], "wb") as file:
            write_images(run, file)
    return SortedImages(tuple(paths))


def write_images(refs: Iterable[ImageRef], file: BinaryIO) -> int:
    """Append images to a file, for `read_images` of this process; returns how many."""
    count = 0
    remaining = iter(refs)
    while block := list(itertools.islice(remaining, IMAGES_A_BLOCK)):
        # Tuples are read twice as fast as objects.
        fields = [(ref.uri, ref.size, ref.version, ref.place, ref.kept) for ref in block]
        pickle.dump(fields, file, pickle.HIGHEST_PROTOCOL)
        count += len(block)
    return count


def read_images(file: BinaryIO) -> Iterator[ImageRef]:
    """The images of a file that `write_images` wrote, from its beginning."""
    file.seek(0)
    while True:
        try:
            block = pickle.load(file)
        except EOFError:
            return
        yield from itertools.starmap(ImageRef, block)


def _read_file(path: str) -> Iterator[ImageRef]:
    with open(path, "rb") as file:
        yield from read_images(file)

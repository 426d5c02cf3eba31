"""A listing compared with an index: what is new, changed, repeated and gone."""

from __future__ import annotations

import heapq
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.index import Index, kept_columns, refs_of
from transforms.paths import is_remote
from transforms.records import ImageRef
from transforms.sorting import order
from transforms.storage import read

NAMED_GONE = 5


@dataclass(frozen=True)
class Changes:
    """What an update found.

    Attributes:
        new: Images that were not in the index.
        changed: Images that were, with another size or version, or other values to keep.
        duplicates: Images listed more than once, counted each time after the first.
        gone: Images in the index that were not listed.
        first_gone: The uris of a few of them.
    """

    new: int
    changed: int
    duplicates: int
    gone: int
    first_gone: tuple[str, ...] = field(default=(), compare=False)


class Comparison:
    """Tells new, changed, repeated and missing images from those that an index holds already.

    Both sides are sorted and are gone through once, side by side; only the changed images are held.

    Args:
        current: The index, if there is one.
        kept: The columns that are kept from the sources.
        folder: On the local disk, for copies of the index's parts.
    """

    def __init__(self, current: Index | None, kept: pa.Schema, folder: str) -> None:
        self.kept = kept
        self._paths = current.part_paths() if current else []
        self._folder = folder
        self._changed: dict[str, ImageRef] = {}
        self._new = self._duplicates = self._gone = 0
        self._first_gone: list[str] = []
        self.stale = {path for path in self._paths if kept_columns(path) != kept}
        """Parts to be written anew."""

    @property
    def changes(self) -> Changes:
        """What was found, once all new images are drawn."""
        return Changes(self._new, len(self._changed), self._duplicates, self._gone, tuple(self._first_gone))

    def new_images(self, listed: Iterable[ImageRef]) -> Iterator[ImageRef]:
        """The images that the index does not hold, in order, each once.

        Args:
            listed: Sorted by `sorting.order`; of equal ones the first counts.
        """
        known = heapq.merge(*map(self._part, self._paths), key=lambda each: order(each[0]))
        before, path = next(known, (None, ""))
        for ref in self._each_once(listed):
            while before is not None and order(before) < order(ref):
                self._count_gone(before)
                before, path = next(known, (None, ""))
            if before is None or before.uri != ref.uri:
                self._new += 1
                yield ref
                continue
            if ref.version is not None and ref != before:
                self._changed[ref.uri] = ref
                self.stale.add(path)
            before, path = next(known, (None, ""))
        while before is not None:
            self._count_gone(before)
            before, path = next(known, (None, ""))

    def _count_gone(self, ref: ImageRef) -> None:
        self._gone += 1
        if len(self._first_gone) < NAMED_GONE:
            self._first_gone.append(ref.uri)

    def _each_once(self, listed: Iterable[ImageRef]) -> Iterator[ImageRef]:
        for _, equal in itertools.groupby(listed, key=order):
            first, *others = equal
            self._duplicates += len(others)
            yield first

    def updated_units(self, path: str) -> Iterator[list[ImageRef]]:
        """A part's units as they are now."""
        for unit in self._units(path):
            yield [self._changed.get(ref.uri, ref) for ref in unit]

    def _part(self, path: str) -> Iterator[tuple[ImageRef, str]]:
        return ((ref, path) for unit in self._units(path) for ref in unit)

    def _units(self, path: str) -> Iterator[list[ImageRef]]:
        """The images of a part's units; of columns that it does not keep the values are not known."""
        others = path in self.stale and kept_columns(path) != self.kept
        unknown: dict[str, Any] = {"kept": (None,) * len(self.kept)}
        with pq.ParquetFile(self._local(path)) as part:
            for group in range(part.num_row_groups):
                refs = refs_of(part.read_row_group(group))
                yield [replace(ref, **unknown) for ref in refs] if others else refs

    def _local(self, path: str) -> str:
        """The part on the local disk; in a store each of its row groups would be a few requests."""
        if not is_remote(path):
            return path
        local = os.path.join(self._folder, path.split("://")[1].replace("/", "-")[-200:])
        if not os.path.exists(local):
            with open(local, "wb") as file:
                file.write(read(path))
        return local

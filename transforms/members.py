"""What files bring along: the images in those that are containers, and the columns that are kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pyarrow as pa

from transforms import containers, image_tables
from transforms.containers import Layout
from transforms.errors import RunError, UsageError
from transforms.ordered import ordered_map
from transforms.records import ImageRef, Place
from transforms.storage import open_stream

SCANNED_AT_ONCE = 8


class KeptColumns:
    """The columns that images carry along from their sources, with the types that these tell."""

    def __init__(self, names: Sequence[str]) -> None:
        self._types = {name: pa.null() for name in names}

    def add(self, source: str, types: pa.Schema) -> None:
        """Take the types of one source; UsageError where another source has others."""
        for field in types:
            known = self._types[field.name]
            if pa.types.is_null(known):
                self._types[field.name] = field.type
            elif not pa.types.is_null(field.type) and field.type != known:
                raise UsageError(
                    f"--keep {field.name}: it is {field.type} in {source}, but {known} in another input; "
                    "make them alike, or leave it out"
                )

    def schema(self) -> pa.Schema:
        """Names and types, once everything is listed; UsageError for a column that no source has."""
        for name, its_type in self._types.items():
            if pa.types.is_null(its_type):
                raise UsageError(
                    f"--keep {name}: no input has such a column; correct the name or leave it out"
                )
        return pa.schema(list(self._types.items()))


def is_container(path: str, layout: Layout) -> bool:
    """Whether the file holds images; a Parquet file may also be a manifest, and is looked into.

    Raises:
        UsageError: A Parquet file is neither.
    """
    kind = containers.kind_of(path)
    if kind != "parquet":
        return kind is not None
    with open_stream(path) as file:
        return image_tables.has_images(file, path, layout)


def with_members(refs: Iterable[ImageRef], layout: Layout, kept: KeptColumns) -> Iterator[ImageRef]:
    """The files as they come, but for a container the images in it, in order; several are scanned at a time.

    Args:
        refs: Files.
        layout: How to look at containers.
        kept: Is told the types of the columns that containers have.

    Raises:
        UsageError: The layout does not fit a container.
        RunError: A container cannot be read.
    """
    scan = partial(_scan, layout=layout, kept=kept)
    with ThreadPoolExecutor(SCANNED_AT_ONCE, thread_name_prefix="scan") as pool:
        for are_containers, run in itertools.groupby(refs, key=_may_be_scanned):
            if are_containers:
                yield from itertools.chain.from_iterable(ordered_map(pool, scan, run, SCANNED_AT_ONCE))
            else:
                yield from run


def _may_be_scanned(ref: ImageRef) -> bool:
    # What is not there is a failure by itself.
    return ref.version is not None and containers.kind_of(ref.uri) is not None


def _scan(ref: ImageRef, layout: Layout, kept: KeptColumns) -> list[ImageRef]:
    try:
        if not is_container(ref.uri, layout):
            raise UsageError(f"{ref.uri} is a manifest; name it by itself, in no glob and no manifest")
        with open_stream(ref.uri) as file:
            kept.add(ref.uri, containers.kept_types(file, ref.uri, layout))
        with open_stream(ref.uri) as file:
            return [
                replace(
                    ref,
                    uri=f"{ref.uri}::{member.name}",
                    size=member.size,
                    place=Place(ref.uri, member.offset, layout.image_column),
                    kept=member.kept,
                )
                for member in containers.scan(file, ref.uri, layout)
            ]
    except OSError as error:
        raise RunError(
            f"cannot read {ref.uri}: {error.strerror or error}; mend it or leave it out"
        ) from error

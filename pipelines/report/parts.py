"""A variant's rows files: how many units are done, and what the footers of some or all of them say."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from pipelines.report import sampling
from transforms import storage
from transforms.errors import RunError
from transforms.footers import Footer, read_footer_and_groups, united
from transforms.tables import rounds, rows_directory

FOOTERS_AT_ONCE = 64


@dataclass(frozen=True)
class Part:
    """One rows file.

    Attributes:
        path: Full path or URL.
        footer: What it says of itself.
        rows_in_groups: Rows in each row group.
    """

    path: str
    footer: Footer
    rows_in_groups: tuple[int, ...]


@dataclass(frozen=True)
class UnitParts:
    """The rows files of one unit, by round."""

    parts: tuple[Part, ...]

    @cached_property
    def footer(self) -> Footer:
        """What the rounds say together."""
        return united([part.footer for part in self.parts])


@dataclass(frozen=True)
class Parts:
    """A variant's rows files.

    Attributes:
        directory: The variant's directory name.
        units_done: Units that have a rows file.
        units: Those whose footers were read, by number; all of them or a sample.
        unreadable: What is wrong with files that cannot be read, one line each.
    """

    directory: str
    units_done: int
    units: tuple[UnitParts, ...]
    unreadable: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether every footer was read."""
        return len(self.units) + len(self.unreadable) >= self.units_done

    @cached_property
    def footers(self) -> list[Footer]:
        """What each unit's rounds say together."""
        return [unit.footer for unit in self.units]

    @cached_property
    def newest(self) -> Footer | None:
        """The footer of the unit that was done last; None where none was read."""
        return max(self.footers, key=lambda footer: footer.finished, default=None)

    @cached_property
    def alike(self) -> list[UnitParts]:
        """The units that were made with the settings of the newest one: only their rows may be compared."""
        return [unit for unit in self.units if self.newest and unit.footer.settings == self.newest.settings]

    @property
    def scale(self) -> float:
        """What to multiply a sum over `footers` by for all units that are done."""
        return self.units_done / len(self.units) if self.units and not self.is_whole else 1.0


def read_parts(output: str, directory: str, n_units: int, on_read: Callable[[int], None]) -> Parts:
    """List a variant's rows files and read footers, of at most `sampling.UNITS` units.

    Args:
        output: The output directory.
        directory: The variant's directory name.
        n_units: Units in the index; files of others are no part of the dataset.
        on_read: Told how many were read so far.
    """
    folder = os.path.join(output, rows_directory(directory))
    by_unit: dict[int, list[list[str]]] = defaultdict(list)
    for (unit, _), names in rounds(storage.list_names(folder, "part-")).items():
        if unit < n_units:
            by_unit[unit].append(names)
    chosen = sampling.pick(sorted(by_unit), sampling.UNITS, str)
    units, unreadable = [], []
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        read = pool.map(lambda number: _read_unit(folder, by_unit[number]), chosen)
        for count, found in enumerate(read, 1):
            on_read(count)
            if isinstance(found, UnitParts):
                units.append(found)
            else:
                unreadable.append(found)
    return Parts(directory, len(by_unit), tuple(units), tuple(unreadable))


def _read_unit(folder: str, by_fingerprint: Sequence[Sequence[str]]) -> UnitParts | str:
    """The unit's files that count, or why they cannot be read; of two fingerprints the newer one supersedes."""
    read = [_read_rounds(folder, names) for names in by_fingerprint]
    found = [each for each in read if isinstance(each, UnitParts)]
    # One that cannot be read may have been deleted by whoever superseded it.
    return max(found, key=lambda unit: unit.footer.finished) if found else read[0]


def _read_rounds(folder: str, names: Sequence[str]) -> UnitParts | str:
    try:
        return UnitParts(tuple(_read(folder, names)))
    except RunError as error:
        return str(error)


def _read(folder: str, names: Sequence[str]) -> Iterator[Part]:
    for name in names:
        path = os.path.join(folder, name)
        yield Part(path, *read_footer_and_groups(path))

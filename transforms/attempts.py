"""Who died over what: a marker for each attempt at a unit, which an orderly end removes and a crash cannot.

No exception tells of a crash in a decoder or of the kernel's out-of-memory kill; what the dead process left behind
does. To run the same command again is a run of another name, so the markers of all runs count.
"""

from __future__ import annotations

import os
import uuid

from transforms import storage

DIRECTORY = "_attempts"


def begin(output: str, run_id: str, unit_number: int) -> str:
    """Leave a marker of this attempt at a unit, and return it; each attempt leaves its own."""
    name = f"{_prefix(unit_number)}{run_id}.{uuid.uuid4().hex[:8]}"
    marker = os.path.join(output, DIRECTORY, name)
    storage.create(marker)
    return marker


def end(marker: str) -> None:
    """Remove an attempt's marker: the process outlived it, whether it came to anything or not."""
    storage.delete(marker)


def count(output: str, unit_number: int) -> int:
    """How many attempts at a unit began and came to no orderly end, or are still under way, whichever run's."""
    return len(storage.list_names(os.path.join(output, DIRECTORY), _prefix(unit_number)))


def forget(output: str, run_id: str) -> None:
    """Remove the markers of one run, which came to an orderly end: a success, an error of ours, Ctrl-C.

    May run twice, and beside other runs: it touches no markers but its own.
    """
    directory = os.path.join(output, DIRECTORY)
    for name in storage.list_names(directory):
        if name.split(".")[1:2] == [run_id]:
            storage.delete(os.path.join(directory, name))


def sweep(output: str) -> None:
    """Remove all markers: every unit is committed, so nobody has to know any more what died on the way there."""
    storage.delete_directory(os.path.join(output, DIRECTORY))


def _prefix(unit_number: int) -> str:
    return f"part-{unit_number:06d}."

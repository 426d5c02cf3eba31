"""What a rows file says of itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from transforms.errors import RunError
from transforms.fingerprints import Settings, add_hash_sums
from transforms.metadata import read_metadata
from transforms.records import ModelFacts, StepSeconds

FOOTER_KEY = b"pixelbeam"


@dataclass(frozen=True)
class Footer:
    """What a rows file says of itself, in its Parquet metadata.

    Attributes:
        variant: TF Hub name.
        handle: Where the module came from.
        random_weights: The module was made without trained weights.
        settings: What decided the rows besides the images.
        fingerprint: As in the file's name.
        unit: The unit's number.
        members: Hash of the unit's images as they were done.
        rows: Images in this file.
        rows_hash_sum: Sum modulo 2^128 of their uri hashes.
        failures: Images that have no row.
        failures_hash_sum: Sum modulo 2^128 of their uri hashes.
        failures_file: Where they are, relative to the output directory; None where there are none.
        failures_by: How many for each `step: error`.
        seconds: Spent in each step, summed over threads.
        model: How the module was run: its graph as loaded, frozen or folded, and how far that may be off.
        run: The run that wrote the file.
        started: Unix time in seconds when the unit's first image was asked for.
        finished: Unix time in seconds when the last one was written.
        packages: Versions of the packages that decide the result.
        round: 0 for the whole unit; 1, 2, ... for what failed in the round before.
    """

    variant: str
    handle: str
    random_weights: bool
    settings: Settings
    fingerprint: str
    unit: int
    members: str
    rows: int
    rows_hash_sum: str
    failures: int
    failures_hash_sum: str
    failures_file: str | None
    failures_by: dict[str, int]
    seconds: StepSeconds
    model: ModelFacts
    run: str
    started: float
    finished: float
    packages: dict[str, str]
    round: int = 0

    def to_metadata(self) -> dict[bytes, bytes]:
        """As Parquet key-value metadata."""
        return {FOOTER_KEY: json.dumps(asdict(self)).encode()}

    @staticmethod
    def from_metadata(metadata: dict[bytes, bytes]) -> Footer:
        """The reverse of `to_metadata`; raises KeyError, TypeError or ValueError where it is not ours."""
        fields = json.loads(metadata[FOOTER_KEY])
        return Footer(**{**fields, "seconds": StepSeconds(**fields["seconds"])})


def read_footer(path: str) -> Footer:
    """The footer of a rows file; RunError where the file is broken or not ours."""
    return read_footer_and_rows(path)[0]


def read_footer_and_rows(path: str) -> tuple[Footer, int]:
    """The footer of a rows file and how many rows it really has, in one request; raises like `read_footer`."""
    footer, rows_in_groups = read_footer_and_groups(path)
    return footer, sum(rows_in_groups)


def read_footer_and_groups(path: str) -> tuple[Footer, tuple[int, ...]]:
    """The footer of a rows file and the rows in each of its row groups, in one request; raises like `read_footer`."""
    try:
        metadata = read_metadata(path)
        groups = range(metadata.num_row_groups)
        rows_in_groups = tuple(int(metadata.row_group(group).num_rows) for group in groups)
        return Footer.from_metadata(metadata.metadata or {}), rows_in_groups
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{path} is no rows file of ours ({reason}); delete it and run again") from error


def united(footers: Sequence[Footer]) -> Footer:
    """What the rounds of a unit say together: the rows of all, the failures and everything else of the last."""
    return replace(
        footers[-1],
        rows=sum(footer.rows for footer in footers),
        rows_hash_sum=add_hash_sums(*(footer.rows_hash_sum for footer in footers)),
    )

"""A Parquet file's metadata, without the rest of the file."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.storage import read_tail

TAIL_BYTES = 1 << 16


def read_metadata(path: str) -> Any:
    """A Parquet file's metadata, in one request where it takes no more than `TAIL_BYTES`.

    Raises:
        FileNotFoundError: There is no such file.
        pa.ArrowInvalid: It is no Parquet file.
    """
    tail = read_tail(path, TAIL_BYTES)
    n_bytes = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] != b"PAR1":
        raise pa.ArrowInvalid("it does not end as a Parquet file does")
    if n_bytes > len(tail):
        tail = read_tail(path, n_bytes)
    # Only the metadata is looked at, and it lies at the end.
    return pq.read_metadata(pa.BufferReader(b"PAR1" + tail[-n_bytes:]))

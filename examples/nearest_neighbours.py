r"""Which images look like this one? A nearest-neighbour index of the features, with faiss.

    pip install faiss-cpu pyarrow
    python examples/nearest_neighbours.py dataset/variant=google-efficientnet-b4-classification-1 \
        photographs/coffee/00.jpg

The image is one of the dataset; the end of its uri will do where no other ends so. Prints the nearest images, the
nearest first: cosine similarity and uri. Features are added to the index batch by batch, so that the dataset may be
larger than memory; the index itself is in memory. `Flat` is exact and takes 4 bytes for each number. For millions of
images give a compressed one as faiss spells it, such as `--index OPQ64,IVF4096,PQ64` (64 bytes an image): it is trained
on a random sample first. `faiss.write_index` keeps an index for the next time.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

try:
    import faiss
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds
except ImportError as error:
    sys.exit(f"{error}: pip install faiss-cpu pyarrow")

TRAINED_ON = 100_000


def main() -> None:
    """Read the arguments, build the index, print the neighbours."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", help="a directory DATASET/variant=NAME")
    parser.add_argument("uri", help="the image to start from: its uri or the end of it")
    parser.add_argument("--count", type=int, default=10, help="neighbours to print; default: 10")
    parser.add_argument("--index", default="Flat", help="a factory string of faiss; default: Flat")
    options = parser.parse_args()

    try:
        rows = ds.dataset(options.variant, format="parquet")
        query = ending_in(options.uri, rows)
    except (OSError, pa.ArrowException) as error:
        parser.error(f"no rows with features in {options.variant}: {str(error).splitlines()[0]}")
    if not query:
        parser.error(f"{options.variant} has no row of {options.uri}")
    start, *others = query["uri"].to_pylist()
    if others:
        parser.error(f"{len(query):,} rows end in {options.uri}: {', '.join([start, *others[:4]])}")

    index, uris = build(rows, options.index)
    similarities, positions = index.search(directions(query["features"]), options.count + 1)
    for similarity, position in zip(similarities[0], positions[0], strict=True):
        if position >= 0 and uris[position].as_py() != start:
            print(f"{similarity:.4f}  {uris[position]}")


def ending_in(name: str, rows: ds.Dataset) -> pa.Table:
    """`uri` and `features` of the row of that uri, or else of all rows whose uri ends in these folders and file."""
    end = rf"(^|[/:]){re.escape(name.lstrip('./'))}$"
    found = rows.to_table(columns=["uri", "features"], filter=pc.match_substring_regex(pc.field("uri"), end))
    return found.filter(pc.equal(found["uri"], name)) or found


def build(rows: ds.Dataset, kind: str) -> tuple[Any, pa.ChunkedArray]:
    """An index of all features, and the uris in its order."""
    width = rows.schema.field("features").type.list_size
    index = faiss.index_factory(width, kind, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        count = rows.count_rows()
        chosen = np.random.default_rng(0).choice(count, min(count, TRAINED_ON), replace=False)
        index.train(directions(rows.take(np.sort(chosen), columns=["features"])["features"]))
    uris = []
    for batch in rows.to_batches(columns=["uri", "features"], batch_readahead=2, fragment_readahead=1):
        index.add(directions(batch["features"]))
        uris.append(batch["uri"])
    return index, pa.chunked_array(uris, pa.string())


def directions(features: pa.Array | pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The features as float32 `[n, width]` of length one: their inner products are cosines."""
    vectors = features.combine_chunks() if isinstance(features, pa.ChunkedArray) else features
    matrix = vectors.flatten().to_numpy().reshape(len(vectors), vectors.type.list_size).copy()
    faiss.normalize_L2(matrix)
    return matrix


if __name__ == "__main__":
    main()

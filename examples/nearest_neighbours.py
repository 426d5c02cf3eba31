r"""Which images look like this one? A nearest-neighbour index of the features, with faiss.

    pip install faiss-cpu pyarrow
    python examples/nearest_neighbours.py dataset/variant=google-efficientnet-b4-classification-1 \
        "$PWD/photographs/coffee/00.jpg"

Prints the nearest images, the nearest first: cosine similarity and uri. Features are added to the index batch by batch,
so that the dataset may be larger than memory; the index itself is in memory. `Flat` is exact and takes 4 bytes for each
number. For millions of images give a compressed one as faiss spells it, such as `--index OPQ64,IVF4096,PQ64` (64 bytes
an image): it is trained on a random sample first. `faiss.write_index` keeps an index for the next time.
"""

from __future__ import annotations

import argparse
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

TRAINED_ON = 100_000


def main() -> None:
    """Read the arguments, build the index, print the neighbours."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", help="a directory DATASET/variant=NAME")
    parser.add_argument("uri", help="the image to start from, as its row names it")
    parser.add_argument("--count", type=int, default=10, help="neighbours to print; default: 10")
    parser.add_argument("--index", default="Flat", help="a factory string of faiss; default: Flat")
    options = parser.parse_args()

    rows = ds.dataset(options.variant, format="parquet")
    query = rows.to_table(columns=["features"], filter=pc.field("uri") == options.uri)
    if not query.num_rows:
        parser.error(f"{options.variant} has no row of {options.uri}")

    index, uris = build(rows, options.index)
    similarities, positions = index.search(directions(query["features"]), options.count + 1)
    for similarity, position in zip(similarities[0], positions[0], strict=True):
        if position >= 0 and uris[position].as_py() != options.uri:
            print(f"{similarity:.4f}  {uris[position]}")


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

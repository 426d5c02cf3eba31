r"""Do two models agree, and what do they know together? Two variants joined with polars.

    pip install polars
    python examples/join_variants.py --output both.parquet \
        dataset/variant=google-efficientnet-b4-classification-1 \
        dataset/variant=tensorflow-efficientnet-b3-classification-1

Joins on uri and sha256, so that an image that changed between two runs meets no other state of itself. Prints how many
images have a row in both; where both variants are classifiers, for how many the best class is the same. `--output`
writes a Parquet file of uri, sha256 and the features of both, one after the other. The join streams.
"""

from __future__ import annotations

import argparse
import sys

try:
    import polars as pl
except ImportError as error:
    sys.exit(f"{error}: pip install polars")

KEY = ["uri", "sha256"]


def main() -> None:
    """Read the arguments, join, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", help="a directory DATASET/variant=NAME")
    parser.add_argument("second", help="another")
    parser.add_argument("--output", metavar="FILE", help="write the features of both there")
    options = parser.parse_args()

    first, second = (pl.scan_parquet(f"{path}/*.parquet") for path in (options.first, options.second))
    try:
        columns = set(first.collect_schema()) & set(second.collect_schema())
    except (OSError, pl.exceptions.PolarsError) as error:
        parser.error(f"no rows: {str(error).splitlines()[0]}")
    both = first.join(second, on=KEY, suffix="_second")

    counts = {"images in both": pl.len()}
    if "top_classes" in columns:
        best, other = (
            pl.col(name).list.first().struct["index"] for name in ("top_classes", "top_classes_second")
        )
        counts["of the same class"] = (best == other).sum()
    for name, count in both.select(**counts).collect(engine="streaming").row(0, named=True).items():
        print(f"{name}: {count:,}")
    if options.output:
        features = pl.concat_arr("features", "features_second").alias("features")
        both.select(*KEY, features).sink_parquet(options.output)


if __name__ == "__main__":
    main()

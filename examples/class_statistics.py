"""How often and how surely is each class given? With polars.

    pip install polars
    python examples/class_statistics.py dataset/variant=google-efficientnet-b4-classification-1

Prints a table, the most frequent class first: class, its name where the dataset has names, images that have it as their
best class, mean and lowest probability. The scan is lazy and streams: only one column is read, a part at a time.
"""

from __future__ import annotations

import argparse
import sys

try:
    import polars as pl
except ImportError as error:
    sys.exit(f"{error}: pip install polars")


def main() -> None:
    """Read the arguments, aggregate, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", help="a classifier's directory, DATASET/variant=NAME")
    options = parser.parse_args()

    statistics = (
        pl.scan_parquet(f"{options.variant}/*.parquet")
        .select(pl.col("top_classes").list.first().struct.unnest())
        .group_by(pl.col("index").alias("class"))
        .agg(
            pl.col("name").first(),
            pl.len().alias("images"),
            pl.col("probability").mean().alias("mean"),
            pl.col("probability").min().alias("lowest"),
        )
        .sort(["images", "class"], descending=[True, False])
    )
    try:
        table = statistics.collect(engine="streaming")
    except (OSError, pl.exceptions.PolarsError) as error:
        parser.error(f"no classifier's rows in {options.variant}: {str(error).splitlines()[0]}")
    with pl.Config(
        tbl_rows=-1,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_cell_numeric_alignment="RIGHT",
        float_precision=4,
    ):
        print(table)


if __name__ == "__main__":
    main()

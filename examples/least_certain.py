"""Which images is the model least certain of? With pandas.

    pip install pandas pyarrow
    python examples/least_certain.py dataset/variant=google-efficientnet-b4-classification-1

Prints the images with the smallest margin between their best and their second class: margin, both classes, uri. Only
two columns are read, so that logits and features stay on the disk.
"""

from __future__ import annotations

import argparse

import pandas as pd


def main() -> None:
    """Read the arguments, sort, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", help="a classifier's directory, DATASET/variant=NAME")
    parser.add_argument("--count", type=int, default=10, help="images to print; default: 10")
    options = parser.parse_args()

    rows = pd.read_parquet(options.variant, columns=["uri", "top_classes"])
    first, second = (pd.json_normalize(rows["top_classes"].str[rank].tolist()) for rank in (0, 1))
    rows["margin"] = first["probability"] - second["probability"]
    rows["best"] = first["name"].fillna(first["index"].astype(str))
    rows["second"] = second["name"].fillna(second["index"].astype(str))

    least = rows.nsmallest(options.count, "margin")
    print(least[["margin", "best", "second", "uri"]].to_string(index=False, float_format="%.4f"))


if __name__ == "__main__":
    main()

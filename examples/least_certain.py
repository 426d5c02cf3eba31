"""Which images is the model least certain of? With pandas.

    pip install pandas pyarrow
    python examples/least_certain.py dataset/variant=google-efficientnet-b4-classification-1

Prints the images with the smallest margin between their best and their second class: margin, both classes, uri. Only
two columns are read, so that logits and features stay on the disk.
"""

from __future__ import annotations

import argparse
import sys

try:
    import pandas as pd
except ImportError as error:
    sys.exit(f"{error}: pip install pandas pyarrow")


def main() -> None:
    """Read the arguments, sort, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", help="a classifier's directory, DATASET/variant=NAME")
    parser.add_argument("--count", type=int, default=10, help="images to print; default: 10")
    options = parser.parse_args()

    try:
        rows = pd.read_parquet(options.variant, columns=["uri", "top_classes"])
    except (ImportError, OSError, ValueError) as error:
        parser.error(f"no classifier's rows in {options.variant}: {str(error).splitlines()[0]}")
    if rows.empty or rows["top_classes"].str.len().min() < 2:
        sys.exit(f"{options.variant}: no image with a best and a second class")
    first, second = (pd.json_normalize(rows["top_classes"].str[rank].tolist()) for rank in (0, 1))
    rows["margin"] = first["probability"] - second["probability"]
    rows["best"] = first["name"].fillna(first["index"].astype(str))
    rows["second"] = second["name"].fillna(second["index"].astype(str))

    least = rows.nsmallest(options.count, "margin")[["margin", "best", "second", "uri"]]
    for column in ("best", "second", "uri"):
        least[column] = least[column].str.ljust(least[column].str.len().max())
    print(least.to_string(index=False, justify="left", float_format="%.4f"))


if __name__ == "__main__":
    main()

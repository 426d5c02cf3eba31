"""Which classes are the images of each folder? With DuckDB.

    pip install duckdb
    python examples/top_classes_by_folder.py dataset/variant=google-efficientnet-b4-classification-1

Prints a table: folder, class, its name where the dataset has names, how many of the folder's images have it as their
best class, and the mean probability; the three most frequent classes of each folder.
"""

from __future__ import annotations

import argparse
import sys

try:
    import duckdb
except ImportError as error:
    sys.exit(f"{error}: pip install duckdb")

QUERY = """
    SELECT
        regexp_extract(uri, '([^/]+)/[^/]+$', 1) AS folder,
        top_classes[1].index AS class,
        any_value(top_classes[1].name) AS name,
        count(*) AS images,
        round(avg(top_classes[1].probability), 4) AS mean_probability
    FROM read_parquet($files)
    GROUP BY folder, class
    QUALIFY row_number() OVER (PARTITION BY folder ORDER BY images DESC, class) <= 3
    ORDER BY folder, images DESC, class
"""


def main() -> None:
    """Read the arguments, ask, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", help="a classifier's directory, DATASET/variant=NAME")
    options = parser.parse_args()
    try:
        with duckdb.connect() as connection:
            found = connection.from_query(QUERY, params={"files": f"{options.variant}/*.parquet"})
            found.show(max_rows=10_000)
    except duckdb.Error as error:
        parser.error(f"no classifier's rows in {options.variant}: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    main()

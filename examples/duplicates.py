"""Which files are the same image, byte for byte? With DuckDB, by sha256.

    pip install duckdb
    python examples/duplicates.py dataset/variant=google-efficientnet-b4-classification-1

Prints one line for each image that is there more than once: the uri to keep, the first in order, and below it the
others; then how many files and bytes could go. Any variant will do: sha256 is of the file, not of the scores.
"""

from __future__ import annotations

import argparse
import sys

try:
    import duckdb
except ImportError as error:
    sys.exit(f"{error}: pip install duckdb")

QUERY = """
    SELECT list(uri ORDER BY uri) AS uris, any_value(size) AS size
    FROM read_parquet($files)
    GROUP BY sha256
    HAVING count(*) > 1
    ORDER BY uris[1]
"""


def main() -> None:
    """Read the arguments, ask, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", help="a directory DATASET/variant=NAME")
    options = parser.parse_args()

    try:
        found = duckdb.execute(QUERY, {"files": f"{options.variant}/*.parquet"}).fetchall()
    except duckdb.Error as error:
        parser.error(f"no rows in {options.variant}: {str(error).splitlines()[0]}")
    for (keep, *others), _ in found:
        print(keep)
        for uri in others:
            print(f"    {uri}")
    files = sum(len(uris) - 1 for uris, _ in found)
    freed = sum((len(uris) - 1) * size for uris, size in found)
    print(f"files that repeat another one: {files:,}, {freed:,} bytes")


if __name__ == "__main__":
    main()

"""Which classes are the images of each folder, and how long are their feature vectors? With Spark.

    pip install pyspark
    python examples/classes_with_spark.py dataset/variant=google-efficientnet-b4-classification-1

Needs Java. Prints two tables: folder, class, images and mean probability of the best class; and folder and mean length
of the feature vectors. Spark runs in this process; on a cluster start the script with spark-submit.
"""

from __future__ import annotations

import argparse
import sys

try:
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as F  # noqa: N812
except ImportError as error:
    sys.exit(f"{error}: pip install pyspark")


def main() -> None:
    """Read the arguments, ask, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", help="a classifier's directory, DATASET/variant=NAME")
    options = parser.parse_args()

    spark = SparkSession.builder.appName("pixelbeam").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    rows = spark.read.parquet(f"{options.variant}/*.parquet").withColumn(
        "folder", F.regexp_extract("uri", "([^/]+)/[^/]+$", 1)
    )
    best = F.col("top_classes")[0]
    classes = rows.groupBy("folder", best["index"].alias("class")).agg(
        F.count("*").alias("images"), F.round(F.mean(best["probability"]), 4).alias("mean_probability")
    )
    classes.orderBy("folder", F.desc("images"), "class").show(100, truncate=False)

    squares = F.aggregate("features", F.lit(0.0), lambda total, x: total + x * x)
    lengths = rows.groupBy("folder").agg(F.round(F.mean(F.sqrt(squares)), 4).alias("mean_length"))
    lengths.orderBy("folder").show(100, truncate=False)
    spark.stop()


if __name__ == "__main__":
    try:
        main()
    except PySparkException as error:
        sys.exit(str(error).splitlines()[0])

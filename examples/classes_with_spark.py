"""The classes of each folder, and the features as a vector of Spark's ML. With Spark.

    pip install pyspark        # 4 or newer, and Java 17 or newer
    python examples/classes_with_spark.py dataset/variant=google-efficientnet-b4-classification-1

Prints two tables: folder, class, images and mean probability of the best class; and by folder the mean length of the
feature vectors. Spark in this process; on a cluster start it with spark-submit.
"""

from __future__ import annotations

import argparse

from pyspark.ml.functions import array_to_vector
from pyspark.ml.stat import Summarizer
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812


def main() -> None:
    """Read the arguments, ask, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", help="a classifier's directory, DATASET/variant=NAME")
    options = parser.parse_args()

    spark = SparkSession.builder.appName("pixelbeam").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    rows = spark.read.parquet(options.variant).withColumn(
        "folder", F.regexp_extract("uri", "([^/]+)/[^/]+$", 1)
    )
    best = F.col("top_classes")[0]
    classes = rows.groupBy("folder", best["index"].alias("class")).agg(
        F.count("*").alias("images"), F.round(F.mean(best["probability"]), 4).alias("mean_probability")
    )
    classes.orderBy("folder", F.desc("images"), "class").show(100, truncate=False)

    vectors = rows.select("folder", array_to_vector("features").alias("features"))
    means = vectors.groupBy("folder").agg(Summarizer.mean(F.col("features")).alias("mean_features"))
    means.orderBy("folder").show(100, truncate=100)
    spark.stop()


if __name__ == "__main__":
    main()

"""How much do the features know of my labels? A linear probe with scikit-learn.

    pip install scikit-learn pyarrow
    python examples/linear_probe.py dataset/variant=google-efficientnet-b4-classification-1

Labels are the names of the folders, or a column that `pixelbeam run --keep` carried along: `--label COLUMN`. A quarter
of the images is held out, each label in proportion; copies of one image are all on the same side. Prints the number of
images and labels, the accuracy on the held-out images of always saying the most frequent label, and of the probe.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

try:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
except ImportError as error:
    sys.exit(f"{error}: pip install scikit-learn pyarrow")

Positions = np.ndarray[Any, np.dtype[np.int64]]
FOLDER = r"(?P<folder>[^/]+)/[^/]+$"


def main() -> None:
    """Read the arguments, train, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", help="a directory DATASET/variant=NAME")
    parser.add_argument("--label", metavar="COLUMN", help="column of the labels; default: the image's folder")
    options = parser.parse_args()

    columns = ["uri", "sha256", "features", *([options.label] if options.label else [])]
    try:
        rows = ds.dataset(options.variant, format="parquet").to_table(columns=columns).sort_by("uri")
    except (OSError, pa.ArrowException) as error:
        parser.error(f"no such rows in {options.variant}: {str(error).splitlines()[0]}")
    features = np.stack(rows["features"].to_numpy())
    labels = label_of(rows, options.label).to_numpy(zero_copy_only=False)
    images = rows["sha256"].to_numpy()

    train, held_out = split(labels, images)
    print(f"{len(labels):,} images, {len(held_out):,} of them held out; {len(set(labels)):,} labels")
    for name, model in (
        ("most frequent label", DummyClassifier(strategy="most_frequent")),
        ("linear probe", make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))),
    ):
        accuracy = model.fit(features[train], labels[train]).score(features[held_out], labels[held_out])
        print(f"{name}: accuracy {accuracy:.3f}")


def split(labels: Any, images: Any) -> tuple[Positions, Positions]:
    """Positions to train on and those to hold out, a quarter of each label; equal `images` stay together."""
    folds = StratifiedGroupKFold(n_splits=4, shuffle=True, random_state=0)
    return next(folds.split(labels, labels, groups=images))


def label_of(rows: pa.Table, column: str | None) -> pa.ChunkedArray:
    """The labels: a column's values as text, or the folders of the images."""
    if column:
        return pc.cast(rows[column], pa.string())
    return pc.struct_field(pc.extract_regex(rows["uri"], FOLDER), "folder")


if __name__ == "__main__":
    main()

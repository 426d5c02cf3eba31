"""A plain loop without Beam, as a good engineer writes it by hand: tf.data, a loaded module, Parquet.

It does less than the pipeline: no failures, no orientation, no checksums, no resuming, and of a classifier only the
signature's own output, where the pipeline writes logits and features.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from benchmarks.child import Figures, Parts
from transforms.listing import Found, list_images
from transforms.variants import Variant, find

BATCH = 32
ROWS_A_GROUP = 2048


def parts(inputs: list[str], limit: int, variants: list[str], model_dir: str, spawned: float) -> Parts:
    """For `benchmarks.child`: one loop a variant, with TensorFlow's default threads."""
    del spawned
    paths = [ref.uri for ref in list_images(tuple(inputs), Found())][:limit]
    measures = {}
    for spec in variants:
        variant = find(spec)
        call = signature(variant, model_dir)
        loop(paths[:BATCH], variant, call)
        measures[f"plain {variant.name}"] = _measure(paths, variant, call)
    return Parts(measures)


def _measure(paths: list[str], variant: Variant, call: Callable[[Any], Any]) -> Callable[[], Figures]:
    def measure() -> Figures:
        started = time.perf_counter()
        rows = loop(paths, variant, call)
        return {"seconds": time.perf_counter() - started, "images": len(paths), "rows": rows}

    return measure


def signature(variant: Variant, model_dir: str) -> Callable[[Any], Any]:
    """The module's published signature as a function of a batch."""
    at = variant.handle if os.path.isdir(variant.handle) else os.path.join(model_dir, variant.directory)
    loaded = tf.saved_model.load(at, tags=[] if variant.format == "tf1-hub" else None)
    serving = loaded.signatures["default" if variant.format == "tf1-hub" else "serving_default"]
    (name,) = serving.structured_input_signature[1]
    (output,) = serving.structured_outputs

    def call(images: Any) -> Any:
        # A loaded function does not keep what it was loaded from alive.
        assert loaded is not None
        return serving(**{name: images})[output]

    return call


def loop(paths: list[str], variant: Variant, call: Callable[[Any], Any]) -> int:
    """Score the files into one Parquet file and throw it away; returns its rows."""
    dataset = tf.data.Dataset.from_tensor_slices(paths)
    dataset = dataset.map(reader(variant), num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE)
    folder = tempfile.mkdtemp(prefix="pixelbeam-plain-")
    try:
        path = os.path.join(folder, "scores.parquet")
        _write(path, dataset, call)
        return int(pq.read_metadata(path).num_rows)
    finally:
        shutil.rmtree(folder)


def reader(variant: Variant) -> Callable[[Any], Any]:
    """The published preprocessing of a JPEG's path, in the graph of a tf.data map."""
    low, high = variant.input_range

    def read(path: Any) -> Any:
        data = tf.io.read_file(path)
        if variant.resize == "squash_bilinear":
            whole = tf.io.decode_jpeg(data, channels=3)[tf.newaxis]
            resized = tf.image.resize(whole, [variant.size, variant.size])
        else:
            square = tf.io.decode_and_crop_jpeg(data, _window(data, variant.size), channels=3)[tf.newaxis]
            v1 = tf.compat.v1.image
            resize = v1.resize_bicubic if variant.resize == "center_crop_bicubic" else v1.resize_bilinear
            resized = resize(square, [variant.size, variant.size])
        image = tf.ensure_shape(resized[0], [variant.size, variant.size, 3]) / 255
        return path, image * (high - low) + low

    return read


def _window(data: Any, size: int) -> Any:
    """The centre square, `size / (size + 32)` of the shorter edge: top, left, height and width in pixels."""
    shape = tf.io.extract_jpeg_shape(data)
    height, width = shape[0], shape[1]
    side = tf.cast(size / (size + 32) * tf.cast(tf.minimum(height, width), tf.float32), tf.int32)
    return tf.stack([(height - side + 1) // 2, (width - side + 1) // 2, side, side])


def _write(path: str, dataset: Any, call: Callable[[Any], Any]) -> None:
    writer: pq.ParquetWriter | None = None
    uris: list[str] = []
    scores: list[Any] = []

    def flush() -> None:
        nonlocal writer
        values = pa.FixedSizeListArray.from_arrays(np.concatenate(scores).ravel(), scores[0].shape[1])
        table = pa.table({"uri": uris, "scores": values})
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=False)
        writer.write_table(table, row_group_size=ROWS_A_GROUP)
        uris.clear()
        scores.clear()

    for names, images in dataset:
        scores.append(call(images).numpy())
        uris.extend(name.decode() for name in names.numpy())
        if len(uris) >= ROWS_A_GROUP:
            flush()
    if uris:
        flush()
    if writer:
        writer.close()

"""What is no module, or not the one that the catalogue promises: one clear line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tests.tiny_modules import (
    TF2,
    TF2_FEATURES,
    tf2_features,
    tf2_logits,
    tiny_variant,
    write_tf1_hub,
    write_tf2,
)
from transforms import modules
from transforms.errors import RunError


def cut(path: Path) -> None:
    """Cuts the variables of a module in half."""
    for data in path.glob("variables/*.data-*"):
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def then(write: Callable[[Path], None], spoil: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Writes a module and spoils it."""

    def write_and_spoil(path: Path) -> None:
        write(path)
        spoil(path)

    return write_and_spoil


def nothing(path: Path) -> None:
    """Leaves the directory empty."""


def no_variables(path: Path) -> None:
    shutil.rmtree(path / "variables")


def served_tf1(path: Path) -> None:
    """A TF1 SavedModel that is no hub module."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.zeros([1], name="nothing")
        builder = tf.compat.v1.saved_model.Builder(str(path / "model"))
        builder.add_meta_graph_and_variables(session, ["serve"])
        builder.save()
    (path / "model" / "saved_model.pb").rename(path / "saved_model.pb")


def tf2(call: Any, **options: Any) -> Callable[[Path], None]:
    return lambda path: write_tf2(path, call, **options)


def two_outputs(inputs: Any, kernel: Any) -> Any:
    return {"a": tf2_logits(inputs, kernel), "b": tf2_features(inputs, kernel)}


def map_of_features(inputs: Any, kernel: Any) -> Any:
    return tf.nn.conv2d(inputs, kernel, 2, "SAME")


def only_large(inputs: Any, kernel: Any) -> Any:
    with tf.control_dependencies([tf.debugging.assert_greater(tf.shape(inputs)[1], 100)]):
        return tf2_features(inputs, kernel)


BAD_MODULES = {
    "empty directory": (nothing, tiny_variant(), "saved_model.pb was looked for, there is nothing"),
    "other files": (
        lambda path: (path / "weights.h5").touch(),
        tiny_variant(),
        r"saved_model.pb was looked for, there is \['weights.h5'\]",
    ),
    "garbage": (
        lambda path: (path / "saved_model.pb").write_bytes(b"\xff" * 99),
        tiny_variant(),
        "cannot be read",
    ),
    "empty file": (lambda path: (path / "saved_model.pb").touch(), tiny_variant(), r"there is \[\]"),
    "no hub module": (
        served_tf1,
        tiny_variant(),
        r"a MetaGraph without tags was looked for, there is \[\['serve'\]\]",
    ),
    "variables missing": (then(write_tf1_hub, no_variables), tiny_variant(), "TensorFlow cannot load it"),
    "variables cut": (then(write_tf1_hub, cut), tiny_variant(), "TensorFlow cannot load it"),
    "TF2 variables missing": (then(tf2(tf2_logits), no_variables), TF2, "TensorFlow cannot load it"),
    "TF2 variables cut": (then(tf2(tf2_logits), cut), TF2, "TensorFlow cannot load it"),
    "TF1 for TF2": (
        write_tf1_hub,
        TF2,
        "the format is tf1-hub, the catalogue says tf2; correct format of",
    ),
    "TF2 for TF1": (tf2(tf2_logits), tiny_variant(), "the format is tf2, the catalogue says tf1-hub"),
    "TF1 signature missing": (
        lambda path: write_tf1_hub(path, signatures=("default", "image_feature_vector")),
        tiny_variant(),
        r"signature 'image_classification' was looked for, there is \['default', 'image_feature_vector'\]",
    ),
    "TF1 output missing": (
        lambda path: write_tf1_hub(path, output="logits"),
        tiny_variant(),
        r"output of signature 'image_classification' 'default' was looked for, there is \['logits'\]",
    ),
    "TF2 signature missing": (
        tf2(tf2_logits, signature="predict"),
        TF2,
        r"signature 'serving_default' was looked for, there is \['predict'\]",
    ),
    "two outputs": (
        tf2(two_outputs),
        TF2,
        r"one input and one output was looked for, there are \['inputs'\] and",
    ),
    "classes": (
        write_tf1_hub,
        tiny_variant(n_classes=(9, 8)),
        r"logits .* \(1, 7\), the catalogue says \(1, 9 or 8\)",
    ),
    "features": (
        tf2(tf2_logits),
        tiny_variant(format="tf2", n_features=(4,)),
        r"features .* \(1, 5\), .* \(1, 4\)",
    ),
    "not pooled": (
        tf2(map_of_features),
        tiny_variant(format="tf2", outputs=("features",), n_features=()),
        r"features of one image have shape \(1, 16, 16, 5\), the catalogue says \(1, any\)",
    ),
    "size": (
        tf2(tf2_features, shape=[None, 24, 24, 3]),
        TF2_FEATURES,
        r"shape \(None, 24, 24, 3\), the catalogue says float32 \(None, 32, 32, 3\)",
    ),
    "dtype": (
        tf2(lambda inputs, kernel: tf2_features(tf.cast(inputs, tf.float32), kernel), dtype=tf.uint8),
        TF2_FEATURES,
        "takes uint8 images",
    ),
    "fails": (tf2(only_large), TF2_FEATURES, "fails on an image of 32x32"),
    "sigmoid": (
        tf2(lambda inputs, kernel: tf.sigmoid(tf2_logits(inputs, kernel))),
        TF2,
        "ends in a sigmoid, the catalogue says softmax",
    ),
    "no dense layer": (
        tf2(lambda inputs, kernel: 2 * tf2_logits(inputs, kernel)),
        TF2,
        "features were looked for before a closing MatMul, there is a Mul",
    ),
}


@pytest.mark.parametrize(("write", "variant", "message"), BAD_MODULES.values(), ids=BAD_MODULES)
def test_a_bad_module_is_one_clear_line(tmp_path: Path, write: Any, variant: Any, message: str) -> None:
    write(tmp_path)
    with pytest.raises(RunError, match=message) as raised:
        modules.load(str(tmp_path), variant)
    assert str(raised.value).startswith(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_a_missing_directory_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such directory"):
        modules.load(str(tmp_path / "nowhere"), tiny_variant())


def test_a_module_with_a_table_is_one_line(tmp_path: Path) -> None:
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([0, 1], [2.0, 3.0]), 1.0)

    class WithTable(tf.Module):
        def __init__(self) -> None:
            self.table = table

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, name="inputs")])
        def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
            return tf.reduce_mean(inputs, [1, 2]) * self.table.lookup(tf.constant(0))

    module = WithTable()
    tf.saved_model.save(module, str(tmp_path), signatures=module.__call__)
    with pytest.raises(RunError, match="holds what its graph alone does not, such as a table"):
        modules.load(str(tmp_path), tiny_variant(format="tf2", outputs=("features",)))

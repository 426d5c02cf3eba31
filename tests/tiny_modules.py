"""Modules of both formats with a network of one convolution, written by raw operations in a moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from transforms import modules
from transforms.variants import Variant

SIZE = 32
N_CLASSES = 7
N_FEATURES = 5
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STDDEV = np.array([0.229, 0.224, 0.225], np.float32)
KERNEL = np.random.default_rng(1).normal(size=(3, 3, 3, N_FEATURES)).astype(np.float32)
DENSE = np.random.default_rng(2).normal(size=(N_FEATURES, N_CLASSES)).astype(np.float32)
BIAS = np.random.default_rng(3).normal(size=N_CLASSES).astype(np.float32)

# ModuleAttachment(key="image_module_info", value=ImageModuleInfo(ImageSize(height=32, width=33))).
ATTACHMENT = b"\x0a\x11image_module_info\x12\x06\x0a\x04\x08\x20\x10\x21"


def tiny_variant(**fields: Any) -> Variant:
    """A classifier in TF1 hub format, with some fields replaced."""
    values: dict[str, Any] = {
        "name": "tests/tiny/1",
        "format": "tf1-hub",
        "size": SIZE,
        "fixed_size": False,
        "resize": "center_crop_bicubic",
        "outputs": ("logits", "features"),
        "handle": "tiny",
        "n_classes": (N_CLASSES,),
        "n_features": (N_FEATURES,),
    }
    return Variant(**values | fields)


TF2 = tiny_variant(format="tf2")
TF2_FEATURES = tiny_variant(format="tf2", outputs=("features",), n_classes=())


def normalised(images: Any) -> Any:
    """What V1 modules feed their first convolution, for images in [0, 1]."""
    return (images - MEAN) / STDDEV


def images(n: int = 3, size: int = SIZE) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Random images in [0, 1], float32 `[n, size, size, 3]`."""
    return np.random.default_rng(4).uniform(size=(n, size, size, 3)).astype(np.float32)


def write_tf1_hub(
    path: Path,
    *,
    signatures: Sequence[str] = ("default", "image_classification", "image_feature_vector"),
    output: str = "default",
    scale: float = 1.0,
    attachment: bytes | None = ATTACHMENT,
    shape: Sequence[int | None] = (None, None, None, 3),
) -> None:
    """A TF1 hub module; its training graph gives twice the features."""
    saved_model = SavedModel(saved_model_schema_version=1)
    for tags, training in ((["train"], True), ([], False)):
        scope = tf.name_scope("train" if training else "infer")
        with tf.Graph().as_default(), tf1.Session() as session, scope:
            batch = tf1.placeholder(tf.float32, shape, name="images")
            kernel = tf1.get_variable("kernel", initializer=KERNEL, use_resource=True)
            pixels = normalised(batch * scale)
            features = tf.reduce_mean(tf.nn.conv2d(pixels, kernel, 2, "SAME"), [1, 2]) * (
                2 if training else 1
            )
            tensors = {"image_classification": tf.matmul(features, DENSE) + BIAS}
            tensors["default"] = tensors["image_classification"]
            tensors["image_feature_vector"] = features
            meta_graph = tf1.train.export_meta_graph(strip_default_attrs=True)
            meta_graph.meta_info_def.tags.extend(tags)
            info = tf1.saved_model.build_tensor_info
            for name in signatures:
                meta_graph.signature_def[name].CopyFrom(
                    tf1.saved_model.build_signature_def(
                        {"images": info(batch)}, {output: info(tensors[name])}
                    )
                )
            if attachment:
                meta_graph.collection_def["hub_module_attachments"].bytes_list.value.append(attachment)
            saved_model.meta_graphs.add().CopyFrom(meta_graph)
            session.run(tf1.global_variables_initializer())
            tf1.train.Saver().save(session, str(path / "variables" / "variables"), write_meta_graph=False)
    (path / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    (path / "tfhub_module.pb").write_bytes(b"\x08\x03")


def write_tf2(
    path: Path, call: Any, *, signature: str = "serving_default", shape: Any = None, dtype: Any = None
) -> None:
    """A TF2 SavedModel whose signature takes `inputs` and gives what `call` makes of them and the kernel."""
    module = tf.Module()
    module.kernel = tf.Variable(KERNEL)
    spec = tf.TensorSpec(shape or [None, None, None, 3], dtype or tf.float32, name="inputs")
    inner = tf.function(lambda inputs: call(inputs, module.kernel))
    outer = tf.function(inner, input_signature=[spec])
    tf.saved_model.save(module, str(path), signatures={signature: outer})


def features_of(pixels: Any, kernel: Any) -> Any:
    """float32 `[n, 5]`."""
    return tf.reduce_mean(tf.nn.conv2d(pixels, kernel, 2, "SAME"), [1, 2])


def tf2_logits(inputs: Any, kernel: Any) -> Any:
    """A classifier without a closing activation, with a dropout's identity before its dense layer."""
    features = tf.identity(features_of(normalised(inputs), kernel))
    return tf.nn.bias_add(tf.matmul(features, DENSE), BIAS)


def tf2_probabilities(inputs: Any, kernel: Any) -> Any:
    """A classifier that ends in a softmax."""
    return tf.nn.softmax(tf2_logits(inputs, kernel))


def tf2_features(inputs: Any, kernel: Any) -> Any:
    return features_of(inputs * 2 - 1, kernel)


def normalised_module(path: Path, epsilon: float = 0.01) -> tuple[modules.Module, Variant]:
    """A TF2 module of a convolution and a batch normalisation."""

    def call(inputs: Any, kernel: Any) -> Any:
        x = tf.nn.conv2d(inputs * 2 - 1, kernel, 2, "SAME")
        rows = [tf.constant(row) for row in np.random.default_rng(0).uniform(0.5, 2, (4, 5)).astype("f4")]
        return tf.reduce_mean(
            tf.raw_ops.FusedBatchNormV3(
                x=x,
                scale=rows[0],
                offset=rows[1],
                mean=rows[2],
                variance=rows[3],
                epsilon=epsilon,
                is_training=False,
            ).y,
            [1, 2],
        )

    write_tf2(path, call)
    return modules.load(str(path), TF2_FEATURES), TF2_FEATURES


def random_module(path: Path) -> tuple[modules.Module, Variant]:
    """A TF2 module with a random generator, whose scores do not depend on it."""

    def call(inputs: Any, kernel: Any) -> Any:
        features = features_of(inputs * 2 - 1, kernel)
        return features + tf.maximum(0.0, tf.random.uniform(tf.shape(features)) - 2)

    write_tf2(path, call)
    return modules.load(str(path), TF2_FEATURES), TF2_FEATURES

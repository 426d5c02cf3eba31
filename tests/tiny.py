"""A tiny module of one's own: a real SavedModel in the TF2 format that runs thousands of images a second."""

from __future__ import annotations

import os

import tensorflow as tf
import tf_keras

SIZE = 32
CLASSES = 5
FEATURES = 4
NAME = "acme/tiny/classification/1"


def write_module(path: str, seed: int = 0, classes: int = CLASSES) -> None:
    """A classifier as tf_keras saves one: a convolution, pooled features, logits, softmax probabilities."""
    tf_keras.utils.set_random_seed(seed)
    layers = tf_keras.layers
    images = layers.Input((None, None, 3), name="image_input")
    x = layers.Conv2D(FEATURES, 3, strides=2, use_bias=False, name="stem")(images * 4.0 - 2.0)
    features = layers.GlobalAveragePooling2D(name="top_pool")(layers.Activation("swish")(x))
    logits = layers.Dense(classes, name="logits")(features)
    probabilities = layers.Activation("softmax", name="probs")(logits)
    tf_keras.Model(images, probabilities).save(path, include_optimizer=False, save_format="tf")


def write_variant(folder: str, seed: int = 0, resize: str = "center_crop_bilinear", name: str = NAME) -> str:
    """A tiny module in `folder` and the TOML file that names it; returns the file's path."""
    module = os.path.join(folder, "module")
    if not os.path.isdir(module):
        write_module(module, seed)
    path = os.path.join(folder, "tiny.toml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(
            f"""[[variants]]
name = "{name}"
handle = "module"
format = "tf2"
size = {SIZE}
fixed_size = false
resize = "{resize}"
outputs = ["logits", "features"]
n_classes = [{CLASSES}]
n_features = [{FEATURES}]
multiply_adds_billions = 0.001
"""
        )
    return path


def direct(path: str, pixels: object) -> tf.Tensor:
    """The published probabilities of the module in `path` for a batch in [0, 1]."""
    return tf.saved_model.load(path).signatures["serving_default"](image_input=tf.constant(pixels))["probs"]

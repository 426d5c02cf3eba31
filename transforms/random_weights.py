"""Modules of the true architecture in the true published format, with random weights instead of trained ones.

They stand in where the published weights are out of reach: everything but the scores is as it will be.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from transforms.errors import RunError
from transforms.records import FloatArray
from transforms.variants import Variant, catalogue, find

RANDOM_WEIGHTS_MARK = "RANDOM_WEIGHTS.txt"
"""A file that says so in the module's directory, so that it travels with the module."""

# A `ModuleDef` with format = FORMAT_V3, the last TF1 hub format.
_TFHUB_MODULE = b"\x08\x03"

# What the published V1 modules subtract and divide by, for RGB in [0, 1].
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STDDEV = np.array([0.229, 0.224, 0.225], np.float32)

# Gains of the second moment, by which the signal neither dies nor explodes on its way through 25 to 60 blocks:
# swish halves it for strong signals and takes 64 % of unit ones, gates near their middle leave a quarter.
_GAIN_AFTER_SWISH = 2.2
_GAIN_AFTER_GATE = 4.0
# Small, so that the gates do stay near their middle.
_GAIN_OF_GATE = 0.05
_GAIN_OF_LOGITS = 10.0
_RESIDUAL_SCALE = 0.25


def write(variant: Variant, path: str, seed: int = 0) -> None:
    """Writes a module of `variant` with random weights to `path`, a directory that is empty or not there yet.

    The same variant, seed and TensorFlow version give byte-identical files: the values come from numpy, and a
    fresh process without hash randomisation gives TensorFlow's name counters and sets their first state. The
    directory appears in one atomic step, so that an interrupted call leaves no half of a module.

    Raises:
        RunError: There is no architecture for this variant, or the directory cannot be written.
    """
    _keras_name(variant)
    target = Path(path).absolute()
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            module = os.path.join(scratch, "module")
            command = [sys.executable, "-m", "transforms.random_weights", variant.name, module, str(seed)]
            subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            os.rename(module, target)
    except OSError as error:
        raise RunError(
            f"{path}: a random-weight module cannot be written: {error.strerror}; give another --model-dir"
        ) from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(
            f"{path}: writing random weights of {variant.name} failed: {reason}; mend that and pull again"
        ) from error


def export(variant: Variant, path: str, seed: int) -> None:
    """Writes the module in this process; the names inside it depend on what TensorFlow did here before."""
    import tf_keras

    # The graphs hold the seeds of initialisers and dropout, which tf_keras draws.
    tf_keras.utils.set_random_seed(seed)
    if variant.format == "tf1-hub":
        _export_tf1_hub(variant, path, seed)
    elif variant.fixed_size:
        _export_tf2_v2(variant, path, seed)
    else:
        _export_tf2_keras(variant, path, seed)
    # It holds a random uuid, and the published modules are older than this file.
    Path(path, "fingerprint.pb").unlink(missing_ok=True)
    Path(path, RANDOM_WEIGHTS_MARK).write_text(
        f"{variant.name} with random weights: its scores mean nothing\n"
    )


def _export_tf1_hub(variant: Variant, path: str, seed: int) -> None:
    """A TF1 hub module: MetaGraphs tagged `train` and nothing, which share one set of variables."""
    import tensorflow as tf
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved_model = SavedModel(saved_model_schema_version=1)
    os.makedirs(os.path.join(path, "assets"))
    for tags, training in ((["train"], True), ([], False)):
        with tf.Graph().as_default():
            meta_graph, weights = _tf1_meta_graph(variant, training=training)
            meta_graph.meta_info_def.tags.extend(tags)
            saved_model.meta_graphs.add().CopyFrom(meta_graph)
            if not training:
                _save_tf1_variables(weights, os.path.join(path, "variables"), seed)
    Path(path, "saved_model.pb").write_bytes(saved_model.SerializeToString(deterministic=True))
    Path(path, "tfhub_module.pb").write_bytes(_TFHUB_MODULE)


def _tf1_meta_graph(variant: Variant, *, training: bool) -> tuple[Any, list[Any]]:
    """The MetaGraph of `variant`, without tags, and its variables, in the current graph."""
    import tensorflow.compat.v1 as tf1
    import tf_keras

    from transforms.saved_models import HUB_ATTACHMENTS, IMAGE_MODULE_INFO, hub_message

    tf_keras.backend.set_learning_phase(int(training))
    images = tf1.placeholder(tf1.float32, [None, None, None, 3], name="images")
    # tf_keras divides by 255 after this; without trained weights it does nothing else to the image.
    outputs, weights = _network(variant, (images - _MEAN) / (_STDDEV / 255))
    outputs["default"] = outputs.get("image_classification", outputs["image_feature_vector"])
    meta_graph = tf1.train.export_meta_graph(strip_default_attrs=True)
    tensor_info = tf1.saved_model.build_tensor_info
    for name, output in outputs.items():
        signature = tf1.saved_model.build_signature_def(
            {"images": tensor_info(images)}, {"default": tensor_info(output)}
        )
        meta_graph.signature_def[name].CopyFrom(signature)
    size = hub_message("ImageSize")(height=variant.size, width=variant.size)
    info = hub_message("ImageModuleInfo")(default_image_size=size.SerializeToString())
    attachment = hub_message("ModuleAttachment")(key=IMAGE_MODULE_INFO, value=info.SerializeToString())
    attachments = meta_graph.collection_def[HUB_ATTACHMENTS].bytes_list.value
    attachments.append(attachment.SerializeToString())
    return meta_graph, weights


def _save_tf1_variables(weights: list[Any], directory: str, seed: int) -> None:
    """Gives the variables of the current graph their values and saves them as TF1 hub does."""
    import tensorflow.compat.v1 as tf1

    with tf1.Session() as session:
        values = {weight.initializer.inputs[1]: value for weight, value in _random_values(weights, seed)}
        session.run(tf1.global_variables_initializer(), values)
        saver = tf1.train.Saver(tf1.global_variables(), sharded=True)
        os.makedirs(directory)
        saver.save(session, os.path.join(directory, "variables"), write_meta_graph=False, write_state=False)


def _export_tf2_keras(variant: Variant, path: str, seed: int) -> None:
    """A TF2 SavedModel of a functional Keras model: size flexible, classifiers end in a softmax."""
    import tf_keras

    images = tf_keras.Input((None, None, 3), name="image_input")
    scale = 255 / _STDDEV
    normalise = tf_keras.layers.Rescaling(scale.tolist(), (-scale * _MEAN).tolist())
    outputs, weights = _network(variant, normalise(images))
    output = outputs["image_feature_vector"]
    if "image_classification" in outputs:
        output = tf_keras.layers.Activation("softmax", name="probs")(outputs["image_classification"])
    for weight, value in _random_values(weights, seed):
        weight.assign(value)
    model = tf_keras.Model(images, output)
    model.save(path, save_format="tf", include_optimizer=False)


def _export_tf2_v2(variant: Variant, path: str, seed: int) -> None:
    """A TF2 SavedModel called with `(inputs, training)`: size fixed, classifiers give logits."""
    import tensorflow as tf
    import tf_keras

    images = tf_keras.Input((variant.size, variant.size, 3))
    outputs, weights = _network(variant, images)
    for weight, value in _random_values(weights, seed):
        weight.assign(value)
    network = tf_keras.Model(images, outputs.get("image_classification", outputs["image_feature_vector"]))

    def call(inputs: Any, training: Any) -> Any:
        return network(inputs * 2.0 - 1.0, training=training)

    spec = tf.TensorSpec([None, variant.size, variant.size, 3], tf.float32, name="inputs")
    module = tf.Module()
    module.weights = network.weights
    module.__call__ = tf.function(call)
    for training in (False, True):
        module.__call__.get_concrete_function(spec, training)
    serving_default = tf.function(lambda inputs: call(inputs, False), input_signature=[spec])
    # Gradients are most of the time to write and to load, and modules of that age have none.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, path, signatures=serving_default, options=options)


def _network(variant: Variant, images: Any) -> tuple[dict[str, Any], list[Any]]:
    """The features of `images` and, for a classifier, their logits; and the variables that they depend on."""
    import tf_keras

    build = getattr(tf_keras.applications, _keras_name(variant))
    options = {"include_preprocessing": False} if variant.fixed_size else {}
    trunk = build(include_top=False, weights=None, input_tensor=images, pooling="avg", **options)
    outputs, weights = {"image_feature_vector": trunk.output}, trunk.weights
    if "logits" in variant.outputs:
        kept = tf_keras.layers.Dropout(0.2, name="top_dropout")(trunk.output)
        dense = tf_keras.layers.Dense(variant.n_classes[0], name="logits")
        outputs["image_classification"] = dense(kept)
        weights = weights + dense.weights
    return outputs, weights


def _random_values(weights: list[Any], seed: int) -> Iterator[tuple[Any, FloatArray]]:
    """Each variable of a network with its value; the variables of input normalisation keep theirs."""
    rng = np.random.default_rng(seed)
    layers = {weight.name.split("/")[-2] for weight in weights}
    for weight in weights:
        layer, kind = weight.name.partition(":")[0].split("/")[-2:]
        shape = tuple(weight.shape)
        if kind in ("kernel", "depthwise_kernel"):
            fan_in = math.prod(shape[:2] if kind == "depthwise_kernel" else shape[:-1])
            deviation = math.sqrt(_gain(layer, layers) / fan_in)
            yield weight, deviation * rng.standard_normal(shape, np.float32)
        elif kind in ("bias", "beta", "moving_mean"):
            yield weight, np.float32(0.1) * rng.standard_normal(shape, np.float32)
        elif kind in ("gamma", "moving_variance"):
            # The first layer of a block, `blockNa`, has nothing to be added to.
            residual = kind == "gamma" and re.fullmatch(r"block\d[^a]_project_bn", layer)
            scale = _RESIDUAL_SCALE if residual else 1.0
            yield weight, (scale * rng.uniform(0.8, 1.2, shape)).astype(np.float32)


def _gain(layer: str, layers: Container[str]) -> float:
    """What a convolution or dense layer multiplies the second moment of its input by."""
    if layer == "logits":
        return _GAIN_OF_LOGITS
    if layer.endswith("project_conv"):
        gated = layer.replace("project_conv", "se_expand") in layers
        return _GAIN_AFTER_SWISH * (_GAIN_AFTER_GATE if gated else 1)
    if layer.endswith("se_expand"):
        return _GAIN_OF_GATE
    return _GAIN_AFTER_SWISH if "dwconv" in layer else 1.0


def _keras_name(variant: Variant) -> str:
    """The function of `tf_keras.applications` that builds the network of `variant`."""
    network = variant.name.split("/")[2].upper() if variant in catalogue() else "XL"
    if network.endswith("XL"):
        raise RunError(
            f"{variant.name}: there is no architecture for random weights; use its published module"
        )
    return f"EfficientNetV2{network.rpartition('_')[2]}" if "V2" in network else f"EfficientNet{network}"


if __name__ == "__main__":
    export(find(sys.argv[1]), sys.argv[2], int(sys.argv[3]))

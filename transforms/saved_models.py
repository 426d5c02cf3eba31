"""A SavedModel of either format → one graph without inner functions, and where the promised tensors are."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from transforms.errors import RunError
from transforms.variants import Format, Output, Variant

HUB_ATTACHMENTS = "hub_module_attachments"
IMAGE_MODULE_INFO = "image_module_info"
_TF1_SIGNATURES: dict[Output, str] = {"logits": "image_classification", "features": "image_feature_vector"}

_Field = descriptor_pb2.FieldDescriptorProto
_HUB_MESSAGES = {
    "ModuleAttachment": {"key": _Field.TYPE_STRING, "value": _Field.TYPE_BYTES},
    "ImageModuleInfo": {"default_image_size": _Field.TYPE_BYTES},
    "ImageSize": {"height": _Field.TYPE_UINT32, "width": _Field.TYPE_UINT32},
}

# What tf.saved_model.load raises for files that are missing, cut or not what they should be.
_LOAD_ERRORS = (tf.errors.OpError, OSError, ValueError, RuntimeError, LookupError)


@dataclass(frozen=True, eq=False)
class Graph:
    """A loaded module as one graph without inner functions.

    Attributes:
        prune: Makes a concrete function of an input tensor and a mapping of output tensors.
        images: The input.
        outputs: `logits` and `features`, those that the variant promises.
        size: Height and width in pixels that the module says it expects; None where it does not say.
    """

    prune: Callable[[Any, Any], Any]
    images: Any
    outputs: dict[Output, Any]
    size: tuple[int, int] | None


def read_graph(path: str, variant: Variant) -> Graph:
    """Loads the module in the directory `path` and finds in its graph what the variant promises.

    Raises:
        RunError: The directory holds no module, one of another format, or one without a promised tensor.
    """
    saved_model = _read_saved_model(path)
    found = _format(path, saved_model)
    if found != variant.format:
        raise RunError(
            f"{path}: the format is {found}, the catalogue says {variant.format}; correct format of {variant.name}"
        )
    try:
        loaded = tf.saved_model.load(path, tags=[] if found == "tf1-hub" else None)
    except _LOAD_ERRORS as error:
        raise RunError(f"{path}: TensorFlow cannot load it, pull it again: {first_line(error)}") from error
    if found == "tf1-hub":
        meta_graph = next(graph for graph in saved_model.meta_graphs if not graph.meta_info_def.tags)
        return _tf1_graph(path, variant, meta_graph, loaded)
    return _tf2_graph(path, variant, loaded)


def first_convolution(images: Any) -> Any | None:
    """The convolution nearest behind the tensor `images`, an operation; None where there is none."""
    return next((operation for operation in _followers(images) if operation.type == "Conv2D"), None)


def first_line(error: Exception) -> str:
    """What TensorFlow says of an error, without the traces that it puts around it."""
    text = str(error).strip() or type(error).__name__
    if text.startswith("Graph execution error:"):
        # Where each operation was made comes first, a blank line after each trace, then what went wrong.
        text = re.split(r"\n\s*\n", text)[-1]
    return text.splitlines()[0]


@functools.cache
def hub_message(name: str) -> Any:
    """The class of a protocol buffer message of TF1 hub modules, which tensorflow_hub 0.16 no longer has.

    Source: `module_attachment.proto` and `image_module_info.proto` of tensorflow_hub 0.12, with an inner
    message as its bytes.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", syntax="proto3")
    message = file.message_type.add(name=name)
    for number, (field, kind) in enumerate(_HUB_MESSAGES[name].items(), start=1):
        message.field.add(name=field, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def _read_saved_model(path: str) -> Any:
    """The parsed `saved_model.pb` of a module directory."""
    file = os.path.join(path, "saved_model.pb")
    try:
        with tf.io.gfile.GFile(file, "rb") as stream:
            return SavedModel.FromString(stream.read())
    except tf.errors.NotFoundError as error:
        there = sorted(tf.io.gfile.listdir(path)) if tf.io.gfile.isdir(path) else "no such directory"
        raise RunError(
            f"{path}: saved_model.pb was looked for, there is {there or 'nothing'}; pull the module again, or correct"
            " its handle"
        ) from error
    except (DecodeError, tf.errors.OpError) as error:
        raise RunError(f"{file}: cannot be read, pull the module again: {first_line(error)}") from error


def _format(path: str, saved_model: Any) -> Format:
    """Which of the two formats the files have."""
    if any(graph.HasField("object_graph_def") for graph in saved_model.meta_graphs):
        return "tf2"
    tags = [list(graph.meta_info_def.tags) for graph in saved_model.meta_graphs]
    if [] in tags:
        return "tf1-hub"
    raise RunError(
        f"{path}: a TF2 SavedModel or a MetaGraph without tags was looked for, there is {tags}; export it so"
    )


def _tf1_graph(path: str, variant: Variant, meta_graph: Any, loaded: Any) -> Graph:
    """The graph of a TF1 hub module, whose signatures are tensors of one graph with one input."""
    images: Any = None
    outputs: dict[Output, Any] = {}
    for output in variant.outputs:
        name = _TF1_SIGNATURES[output]
        signature = _entry(path, "signature", name, meta_graph.signature_def)
        placeholder = _entry(path, f"input of signature {name!r}", "images", signature.inputs)
        images = loaded.graph.get_tensor_by_name(placeholder.name)
        result = _entry(path, f"output of signature {name!r}", "default", signature.outputs)
        outputs[output] = loaded.graph.get_tensor_by_name(result.name)
    return Graph(loaded.prune, images, outputs, _attached_size(meta_graph) or _static_size(images))


def _attached_size(meta_graph: Any) -> tuple[int, int] | None:
    """Height and width in a TF1 hub module's attachment; source: tensorflow_hub 0.12, `image_util.py`."""
    for raw in meta_graph.collection_def[HUB_ATTACHMENTS].bytes_list.value:
        attachment = hub_message("ModuleAttachment").FromString(raw)
        if attachment.key == IMAGE_MODULE_INFO:
            info = hub_message("ImageModuleInfo").FromString(attachment.value)
            size = hub_message("ImageSize").FromString(info.default_image_size)
            return (size.height, size.width) if size.height and size.width else None
    return None


def _tf2_graph(path: str, variant: Variant, loaded: Any) -> Graph:
    """The graph of a TF2 SavedModel, frozen: freezing is what puts its inner functions in line."""
    signature = _entry(path, "signature", "serving_default", loaded.signatures)
    inputs, results = signature.structured_input_signature[1], signature.structured_outputs
    if len(inputs) != 1 or len(results) != 1:
        raise RunError(
            f"{path}: a signature 'serving_default' with one input and one output was looked for,"
            f" there are {sorted(inputs)} and {sorted(results)}; export it so"
        )
    frozen = convert_variables_to_constants_v2(signature)
    images, result = frozen.inputs[0], _original(frozen.outputs[0])
    outputs: dict[Output, Any] = {"features": result}
    if "logits" in variant.outputs:
        outputs = _classifier_outputs(path, variant, result)
    return Graph(frozen.prune, images, outputs, _static_size(images))


def _classifier_outputs(path: str, variant: Variant, result: Any) -> dict[Output, Any]:
    """The logits, before a closing activation, and the features, before the last dense layer."""
    activation = result.op.type.lower()
    if activation in ("softmax", "sigmoid"):
        if activation != variant.activation:
            raise RunError(
                f"{path}: ends in a {activation}, the catalogue says {variant.activation}; correct activation of"
                f" {variant.name}"
            )
        result = _original(result.op.inputs[0])
    outputs: dict[Output, Any] = {"logits": result}
    if "features" in variant.outputs:
        biased = result.op.type in ("BiasAdd", "AddV2", "Add")
        product = _original(result.op.inputs[0]) if biased else result
        if product.op.type != "MatMul":
            raise RunError(
                f"{path}: features were looked for before a closing MatMul, there is a {product.op.type};"
                f" take 'features' out of the outputs of {variant.name}"
            )
        outputs["features"] = _original(product.op.inputs[0])
    return outputs


def _entry(path: str, kind: str, name: str, there: Mapping[str, Any]) -> Any:
    """The entry `name` of something that the module maps names to."""
    if name not in there:
        raise RunError(
            f"{path}: {kind} {name!r} was looked for, there is {sorted(there) or 'none'};"
            " correct the outputs of its variant, or export it so"
        )
    return there[name]


def _static_size(images: Any) -> tuple[int, int] | None:
    """Height and width of a tensor `[n, height, width, 3]`, where both are fixed."""
    height, width = images.shape[1:3] if images.shape.rank == 4 else (None, None)
    return (height, width) if height and width else None


def _original(tensor: Any) -> Any:
    """The tensor itself, or the one it is a copy of, as what dropout leaves at inference."""
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def _followers(tensor: Any) -> Iterator[Any]:
    """The operations that depend on a tensor, the nearest first."""
    tensors, seen = [tensor], set()
    for current in tensors:
        for operation in current.consumers():
            if operation.name not in seen:
                seen.add(operation.name)
                yield operation
                tensors.extend(operation.outputs)

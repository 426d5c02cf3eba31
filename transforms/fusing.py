"""Elementwise work before a convolution taken into it: the scaling of the images, and zero padding.

A pass over the images costs as much as a layer, and oneDNN pads while it convolves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from transforms.folding import constant, data_format_of, node_of, prune, tensor_of

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
_ADDITIONS = ("Add", "AddV2", "Sub")
_PRODUCTS = ("Mul", "RealDiv")

Channels = npt.NDArray[np.float64]


def fuse(graph: Any, images: str, outputs: Collection[str], size: int) -> Any:
    """The graph with the scaling of its images and its zero paddings taken into its convolutions, where that is safe.

    Args:
        graph: A frozen GraphDef; it is not changed.
        images: Name of the tensor that takes float32 `[n, size, size, 3]`.
        outputs: Names of the promised tensors; they keep their names.
        size: Edge of the images in pixels; padding is taken in for this size only.
    """
    fused = GraphDef()
    fused.CopyFrom(graph)
    nodes = {node.name: node for node in fused.node}
    uses = Counter(tensor_of(name) for node in fused.node for name in node.input)
    uses.update(map(tensor_of, outputs))
    readers = {tensor_of(name): node for node in fused.node for name in node.input}
    _take_in_scaling(fused, images, uses, readers)
    _take_in_padding(fused, images, nodes, uses, size)
    return prune(fused, outputs)


def _take_in_scaling(graph: Any, images: str, uses: Mapping[str, int], readers: Mapping[str, Any]) -> None:
    """Makes `images * scale + shift`, however it is spelled, one addition: the first convolution takes the scale.

    Padding commutes with the scale, as it is zero.
    """
    scale, shift = np.ones(3), np.zeros(3)
    chain, tensor = [], images
    while uses[tensor] == 1 and (step := _affine(graph, readers[tensor], tensor)) is not None:
        scale, shift = scale * step[0], shift * step[0] + step[1]
        chain.append(readers[tensor])
        tensor = f"{chain[-1].name}:0"
    convolution = _first_convolution(tensor, uses, readers)
    if len(chain) < 2 or convolution is None or not scale.all():
        return
    weights = _value(graph, convolution.input[1])
    if weights is None or weights.shape[2:3] != (3,):
        return
    # The last of the chain adds what is left, in front of the scale.
    last = chain[-1]
    scaled, shifted = f"{last.name}/scaled_weights", f"{last.name}/shift"
    graph.node.extend([constant(scaled, weights * scale[:, np.newaxis]), constant(shifted, shift / scale)])
    convolution.input[1] = scaled
    del last.input[:]
    last.input.extend([images, shifted])
    last.op = "AddV2"
    last.attr.clear()
    last.attr["T"].type = tf.float32.as_datatype_enum


def _affine(graph: Any, node: Any, tensor: str) -> tuple[Channels, Channels] | None:
    """Scale and shift of each channel that `node` does to `tensor`; None where it does anything else."""
    if node.op not in (*_ADDITIONS, *_PRODUCTS) or len(node.input) != 2:
        return None
    first, second = map(tensor_of, node.input)
    value = _value(graph, second if first == tensor else first)
    if value is None or value.ndim > 4 or (value.size != 1 and (value.size, value.shape[-1]) != (3, 3)):
        return None
    channels = np.broadcast_to(value.reshape(-1), 3)
    if node.op in ("Add", "AddV2"):
        return np.ones(3), channels
    if node.op == "Mul":
        return channels, np.zeros(3)
    if second == tensor or (node.op == "RealDiv" and not channels.all()):
        return None
    return (np.ones(3), -channels) if node.op == "Sub" else (1 / channels, np.zeros(3))


def _first_convolution(tensor: str, uses: Mapping[str, int], readers: Mapping[str, Any]) -> Any | None:
    """The NHWC convolution that alone reads a tensor, itself or padded with zeros."""
    while uses[tensor] == 1 and tensor in readers:
        node = readers[tensor]
        if node.op == "Conv2D":
            return node if data_format_of(node) == b"NHWC" and tensor_of(node.input[0]) == tensor else None
        if node.op != "Pad":
            return None
        tensor = f"{node.name}:0"
    return None


def _take_in_padding(
    graph: Any, images: str, nodes: Mapping[str, Any], uses: Mapping[str, int], size: int
) -> None:
    """Makes the padding SAME of each convolution without any that reads what was padded to the same effect."""
    shapes = _shapes(graph, images, size)
    for node in graph.node:
        if (
            node.op not in _CONVOLUTIONS
            or node.attr["padding"].s != b"VALID"
            or data_format_of(node) != b"NHWC"
        ):
            continue
        pad = nodes[node_of(node.input[0])]
        if (
            pad.op != "Pad"
            or uses[f"{pad.name}:0"] != 1
            or max(node.attr["dilations"].list.i, default=1) != 1
        ):
            continue
        shape, kernel = shapes[tensor_of(pad.input[0])], shapes[tensor_of(node.input[1])]
        padding, strides = _value(graph, pad.input[1]), node.attr["strides"].list.i
        if shape is None or kernel is None or padding is None:
            continue
        same = [_same(*of_axis) for of_axis in zip(shape[1:3], kernel[:2], strides[1:3], strict=True)]
        if padding.tolist() == [[0, 0], *same, [0, 0]]:
            node.input[0] = pad.input[0]
            node.attr["padding"].s = b"SAME"


def _same(length: int, kernel: int, stride: int) -> list[int]:
    """How the padding SAME pads an axis: before and after (tf.nn's notes on padding)."""
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return [total // 2, total - total // 2]


def _shapes(graph: Any, images: str, size: int) -> dict[str, list[int] | None]:
    """The static shape of each tensor for a batch of one; None where it is not known."""
    with tf.Graph().as_default() as inferred:
        batch = tf.compat.v1.placeholder(tf.float32, [1, size, size, 3])
        tf.graph_util.import_graph_def(graph, {images: batch}, name="")
    return {tensor.name: shape for tensor, shape in _known(inferred)} | {images: [1, size, size, 3]}


def _known(graph: Any) -> Iterator[tuple[Any, list[int] | None]]:
    for operation in graph.get_operations():
        for tensor in operation.outputs:
            yield tensor, tensor.shape.as_list() if tensor.shape.is_fully_defined() else None


def _value(graph: Any, name: str) -> Channels | None:
    """The value of a tensor that follows from constants alone, in float64; None for one that does not."""
    needed = prune(graph, [name])
    if any(node.op == "Placeholder" for node in needed.node):
        return None
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        (tensor,) = tf.graph_util.import_graph_def(needed, {}, [tensor_of(name)], name="")
        return np.asarray(session.run(tensor), np.float64)

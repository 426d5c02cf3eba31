"""Batch normalisation folded into the convolution before it: one frozen GraphDef → another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import op_def_registry

from transforms.records import FloatArray

_BATCH_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
_FORMATS = (b"NHWC", b"NCHW")
# What parts a graph into branches and loops.
_CONTROL_FLOW = ("Switch", "RefSwitch", "Enter", "RefEnter")
_FLOAT = tf.float32.as_datatype_enum
# The default of the three operations, which a graph may leave out.
_EPSILON = 1e-4


@dataclass(frozen=True, eq=False)
class _Fold:
    """What takes the place of one batch normalisation.

    Attributes:
        convolution: The node whose weights take up the scale.
        weights: float32, those of the convolution times the scale.
        bias: float32 `[channels]`, what is added afterwards.
    """

    convolution: Any
    weights: FloatArray
    bias: FloatArray


def fold(graph: Any, outputs: Collection[str]) -> tuple[Any, int]:
    """The graph with what it takes to make `outputs`, and how many batch normalisations were folded in it.

    A batch normalisation at inference is a scale and a shift of each channel; a convolution before it takes the
    scale into its weights and leaves a BiasAdd. It stays as it is wherever anything but that BiasAdd could see the
    difference: another output of it in use, a convolution whose result is used elsewhere or promised, weights that
    are not constant.

    Args:
        graph: A frozen GraphDef; it is not changed.
        outputs: Names of the promised tensors, such as `logits/BiasAdd:0`; they keep their names.
    """
    folded = GraphDef()
    folded.CopyFrom(graph)
    _drop_needless_waiting(folded)
    _bypass_identities(folded)
    folded = prune(folded, outputs)
    nodes = {node.name: node for node in folded.node}
    uses = Counter(tensor_of(name) for node in folded.node for name in node.input)
    uses.update(map(tensor_of, outputs))
    count = 0
    for norm in list(folded.node):
        found = _find(norm, nodes, uses)
        if found is not None:
            _apply(folded, norm, found)
            count += 1
    return prune(folded, outputs), count


def prune(graph: Any, outputs: Collection[str]) -> Any:
    """The nodes that it takes to make the tensors `outputs`, with the graph's functions and versions."""
    nodes = {node.name: node for node in graph.node}
    names = [node_of(output) for output in outputs]
    needed = set(names)
    for name in names:
        for source in map(node_of, nodes[name].input):
            if source not in needed:
                needed.add(source)
                names.append(source)
    pruned = GraphDef(versions=graph.versions, library=graph.library)
    for node in graph.node:
        if node.name in needed:
            # Colocation may name a node that is left out, which an import refuses.
            pruned.node.add().CopyFrom(node)
            pruned.node[-1].attr.pop("_class", None)
    return pruned


def _drop_needless_waiting(graph: Any) -> None:
    """Lets constants and identities wait for nothing, as those of an inlined function do for its call.

    Not in a graph with branches, where waiting decides whether there is a value, or with an operation that has an
    effect, such as an Assert.
    """
    definitions = {node.op: op_def_registry.get(node.op) for node in graph.node}
    if any(
        op in _CONTROL_FLOW or definition is None or definition.is_stateful
        for op, definition in definitions.items()
    ):
        return
    for node in graph.node:
        if node.op in ("Const", "Identity", "IdentityN"):
            inputs = [name for name in node.input if not name.startswith("^")]
            del node.input[:]
            node.input.extend(inputs)


def _bypass_identities(graph: Any) -> None:
    """Lets every node read what an Identity, or the IdentityN of a custom gradient, only hands on."""
    origins: dict[str, str] = {}
    for node in graph.node:
        if node.op in ("Identity", "IdentityN") and not any(name.startswith("^") for name in node.input):
            for number, name in enumerate(node.input):
                origins[f"{node.name}:{number}"] = tensor_of(name)
    for node in graph.node:
        for index, name in enumerate(node.input):
            tensor = tensor_of(name)
            while tensor in origins:
                tensor = origins[tensor]
            node.input[index] = tensor


def _find(norm: Any, nodes: Mapping[str, Any], uses: Mapping[str, int]) -> _Fold | None:
    """How to fold the node `norm`; None where it is no batch normalisation that can be folded."""
    # Both attributes may be left out, and `is_training` is then true.
    if norm.op not in _BATCH_NORMS or "is_training" not in norm.attr or norm.attr["is_training"].b:
        return None
    if any(uses[f"{norm.name}:{number}"] for number in range(1, 6)):
        return None
    parameters = _constants(norm.input[1:5], nodes)
    before = list(_before(norm, nodes, uses))
    if parameters is None or not before or before[-1].op not in _CONVOLUTIONS:
        return None
    biases = [_constants(node.input[1:2], nodes) for node in before[:-1]]
    weights = _constants(before[-1].input[1:2], nodes)
    if weights is None or None in biases:
        return None
    gamma, beta, mean, variance = parameters
    variance = variance + (norm.attr["epsilon"].f if "epsilon" in norm.attr else _EPSILON)
    if not (variance > 0).all():
        return None
    scale = gamma / np.sqrt(variance)
    bias = beta + (sum(each[0] for each in biases if each) - mean) * scale
    of_weights = weights[0]
    # A depthwise convolution makes the channels [input, multiplier] of weights [height, width, input, multiplier].
    depthwise = before[-1].op == "DepthwiseConv2dNative"
    of_weights = of_weights * (scale.reshape(of_weights.shape[2:]) if depthwise else scale)
    return _Fold(before[-1], of_weights.astype(np.float32), bias.astype(np.float32))


def _before(norm: Any, nodes: Mapping[str, Any], uses: Mapping[str, int]) -> Iterator[Any]:
    """The nodes that make the input of `norm` and nothing else, backwards: a BiasAdd or none, a convolution."""
    data_format = data_format_of(norm)
    node = norm
    for ops in (("BiasAdd", *_CONVOLUTIONS), _CONVOLUTIONS):
        tensor = tensor_of(node.input[0])
        node = nodes[node_of(tensor)]
        alone = uses[tensor] == 1 and data_format in _FORMATS and data_format_of(node) == data_format
        if node.op not in ops or not alone:
            return
        yield node
        if node.op in _CONVOLUTIONS:
            return


def _apply(graph: Any, norm: Any, found: _Fold) -> None:
    """Makes of the node `norm` a BiasAdd of the same name, behind the convolution with new weights."""
    # Constants of their own: others may use those that the convolution had.
    weights, bias = f"{norm.name}/folded_weights", f"{norm.name}/folded_bias"
    graph.node.extend([constant(weights, found.weights), constant(bias, found.bias)])
    found.convolution.input[1] = weights
    after = [name for name in norm.input if name.startswith("^")]
    data_format = data_format_of(norm)
    del norm.input[:]
    norm.input.extend([found.convolution.name, bias, *after])
    norm.op = "BiasAdd"
    norm.attr.clear()
    norm.attr["T"].type = _FLOAT
    norm.attr["data_format"].s = data_format


def _constants(names: Collection[str], nodes: Mapping[str, Any]) -> list[Any] | None:
    """The values of float32 constants, as float64; None where one of the tensors is no such constant."""
    constants = [nodes[node_of(name)] for name in names]
    # One that waits for another node belongs to a branch or a loop, outside of which it has no value.
    if any(node.op != "Const" or node.input or node.attr["dtype"].type != _FLOAT for node in constants):
        return None
    return [tf.make_ndarray(node.attr["value"].tensor).astype(np.float64) for node in constants]


def constant(name: str, values: npt.NDArray[np.floating[Any]]) -> Any:
    """A node that gives the values in float32."""
    node = NodeDef(name=name, op="Const")
    node.attr["dtype"].type = _FLOAT
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values.astype(np.float32)))
    return node


def data_format_of(node: Any) -> bytes:
    """The data format of a convolution or a batch normalisation, which a graph may leave out."""
    return bytes(node.attr["data_format"].s) if "data_format" in node.attr else b"NHWC"


def tensor_of(name: str) -> str:
    """A tensor's name with its number, which an input of a node leaves out where it is 0."""
    return name if name.startswith("^") or ":" in name else f"{name}:0"


def node_of(name: str) -> str:
    """The node that makes a tensor or that is waited for."""
    return name.removeprefix("^").split(":")[0]

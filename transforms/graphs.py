"""A loaded module's graph, optimised: frozen, folded, checked against the module."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from transforms import devices, folding, fusing
from transforms.modules import Module
from transforms.probe import probe, relative_l2
from transforms.saved_models import first_line
from transforms.variants import Output, Variant

Form = Literal["folded", "frozen", "loaded"]

TOLERANCE = 1e-5
"""Relative L2 by which an optimised graph's outputs may differ from the module's; folding takes about 3e-6."""
N_PROBES = 4

# EfficientNet's largest tensor holds 24 (b0) to 36 (b5) numbers for each pixel of the image.
_FLOATS_PER_PIXEL = 36

_GRADIENT = "_gradient_op_type"

# What freezing, importing and running a graph raise where TensorFlow cannot do it.
_GRAPH_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, LookupError)


@dataclass(frozen=True)
class GraphFacts:
    """What was done to a module's graph, and what it takes to run it.

    Attributes:
        form: `folded`: frozen, with batch normalisations in the convolutions; `frozen`: variables are constants,
            nothing else; `loaded`: there is no graph, the module runs as it was loaded.
        folded: Number of batch normalisations folded.
        difference: Worst relative L2 of an output of one probe image to the loaded module's.
        weights_bytes: Size of all constants.
        activation_bytes: Size of the largest tensor that one image makes.
        size: Side of the image in pixels that `activation_bytes` is for.
        input: Name of the tensor that takes images.
        outputs: Names of the tensors of `logits` and `features`, those that there are.
        module_sha256: `modules.digest` of the module.
        tensorflow: Version that made the graph.
        reason: One line why the form is not a better one; None where it was not for a difficulty.
    """

    form: Form
    folded: int
    difference: float
    weights_bytes: int
    activation_bytes: int
    size: int
    input: str
    outputs: dict[Output, str]
    module_sha256: str
    tensorflow: str
    reason: str | None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> GraphFacts:
        """The inverse of `to_json`."""
        return cls(**fields)


@dataclass(frozen=True, eq=False)
class Optimised:
    """A GraphDef, None where the module runs as loaded, and its facts."""

    graph: Any | None
    facts: GraphFacts


def optimise(module: Module, variant: Variant, module_sha256: str) -> Optimised:
    """The module's graph in the fastest form that gives the module's scores.

    Each form is run on probe images in exact float32 and passed over where an output differs from the module's by
    more than `TOLERANCE`.
    """
    tensors = module.graph_function.structured_outputs
    facts = GraphFacts(
        form="loaded",
        folded=0,
        difference=0.0,
        weights_bytes=sum(
            each.shape.num_elements() * each.dtype.size for each in module.graph_function.variables
        ),
        activation_bytes=variant.size**2 * _FLOATS_PER_PIXEL * tf.float32.size,
        size=variant.size,
        input=module.graph_function.inputs[0].name,
        outputs={name: tensor.name for name, tensor in tensors.items()},
        module_sha256=module_sha256,
        tensorflow=tf.__version__,
        reason=None,
    )
    try:
        frozen = _freeze(module, facts)
    except _GRAPH_ERRORS as error:
        return Optimised(None, dataclasses.replace(facts, reason=f"cannot be frozen: {first_line(error)}"))
    facts = _sized(frozen, facts)
    return _best(module, variant, frozen, facts)


def function(optimised: Optimised, variant: Variant, precision: str) -> Any:
    """The kept graph as a concrete function of one batch, called by position.

    Args:
        optimised: Of any form but `loaded`, which is for `loaded_function`.
        variant: What the graph was made for.
        precision: `exact`: takes float32 `[n, size, size, 3]`, RGB in [0, 1]; `fast`: uint8, 0 to 255.

    Returns:
        A function for any n that gives float32 `logits` and `features`, those that the module has.
    """
    facts = optimised.facts

    def scores(batch: Any) -> dict[str, Any]:
        tensors = tf.graph_util.import_graph_def(
            optimised.graph, {facts.input: batch}, list(facts.outputs.values()), name=""
        )
        return dict(zip(facts.outputs, tensors, strict=True))

    return _concrete(scores, variant, precision)


def loaded_function(module: Module, variant: Variant, precision: str) -> Any:
    """`function` of a module whose graph has the form `loaded`."""
    return _concrete(module.graph_function, variant, precision)


def _freeze(module: Module, facts: GraphFacts) -> Any:
    """The module's graph with constants for variables, and only what its outputs take.

    Raises:
        ValueError: It holds what a graph alone cannot bring along, such as a table.
    """
    with _without_notices():
        frozen = convert_variables_to_constants_v2(module.graph_function)
    graph = folding.prune(frozen.graph.as_graph_def(), facts.outputs.values())
    for node in graph.node:
        # It names a gradient by a number of this process: without, a module gives the same graph wherever it is made.
        if _GRADIENT in node.attr:
            del node.attr[_GRADIENT]
    # A table's content, or a random generator's state, is not in the graph: it works here and nowhere else.
    stateful = {node.op for node in graph.node if op_def_registry.get(node.op).is_stateful} - {"Assert"}
    placeholders = [node.name for node in graph.node if node.op == "Placeholder"]
    if stateful or placeholders != [facts.input.split(":")[0]]:
        raise ValueError(f"it holds {', '.join(sorted(stateful)) or f'the inputs {placeholders}'}")
    return graph


def _best(module: Module, variant: Variant, frozen: Any, facts: GraphFacts) -> Optimised:
    """The first of the folded and the frozen graph that gives the module's scores, else none."""
    outputs = facts.outputs.values()
    unnormalised, count = folding.fold(frozen, outputs)
    images = probe(variant, N_PROBES).astype(np.float32) / 255
    reason = None
    with _exactly():
        expected = {name: np.asarray(values) for name, values in module.function(images).items()}
        forms: tuple[tuple[Form, Any, int], ...] = (("folded", unnormalised, count), ("frozen", frozen, 0))
        for form, made, folded in forms[0 if count else 1 :]:
            its = dataclasses.replace(facts, form=form, folded=folded, reason=reason)
            try:
                graph = fusing.fuse(made, facts.input, outputs, variant.size) if folded else made
                got = function(Optimised(graph, its), variant, "exact")(tf.constant(images))
            except _GRAPH_ERRORS as error:
                reason = f"cannot run {form}: {first_line(error)}"
                continue
            difference = max(relative_l2(np.asarray(got[name]), expected[name]) for name in expected)
            if difference <= TOLERANCE:
                return Optimised(graph, dataclasses.replace(its, difference=difference))
            reason = f"{form}, its scores differ by {difference:.1e} (relative L2)"
    return Optimised(None, dataclasses.replace(facts, reason=reason))


def _sized(graph: Any, facts: GraphFacts) -> GraphFacts:
    """The facts with the sizes that a frozen graph shows."""
    with tf.Graph().as_default() as inferred:
        images = tf.compat.v1.placeholder(tf.float32, [1, facts.size, facts.size, 3])
        tf.graph_util.import_graph_def(graph, {facts.input: images}, name="")
    made, largest = {images.ref()}, _bytes(images)
    # The import makes operations after those that they read.
    for operation in inferred.get_operations():
        if any(tensor.ref() in made for tensor in operation.inputs):
            made.update(tensor.ref() for tensor in operation.outputs)
            largest = max(largest, *map(_bytes, operation.outputs), 0)
    constants = [each.outputs[0] for each in inferred.get_operations() if each.type == "Const"]
    return dataclasses.replace(facts, weights_bytes=sum(map(_bytes, constants)), activation_bytes=largest)


def _bytes(tensor: Any) -> int:
    """A tensor's size, 0 where its shape or its dtype's size is not known."""
    elements = tensor.shape.num_elements()
    return 0 if elements is None else elements * (tensor.dtype.size or 0)


def _concrete(scores: Callable[[Any], dict[str, Any]], variant: Variant, precision: str) -> Any:
    """`scores`, a function of images in the variant's range, as a concrete one of images as they are prepared."""
    low, high = variant.input_range

    def scaled(images: Any) -> dict[str, Any]:
        batch = tf.cast(images, tf.float32) / 255 if precision == "fast" else images
        return scores(batch if (low, high) == (0.0, 1.0) else batch * (high - low) + low)

    dtype = tf.uint8 if precision == "fast" else tf.float32
    images = tf.TensorSpec([None, variant.size, variant.size, 3], dtype, name="pixels")
    return tf.function(scaled, input_signature=[images], autograph=False).get_concrete_function()


@contextmanager
def _exactly() -> Iterator[None]:
    """Float32 throughout, whatever the process was told before, and afterwards again."""
    tensor_float_32 = tf.config.experimental.tensor_float_32_execution_enabled()
    options = tf.config.optimizer.get_experimental_options()
    devices.set_precision("exact")
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(tensor_float_32)
        tf.config.optimizer.set_experimental_options(options)


@contextmanager
def _without_notices() -> Iterator[None]:
    """Drops the warning that TF1 variables do not fit into a collection, which freezing has no use for."""

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Issue encountered when serializing")

    logger = tf.get_logger()
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)

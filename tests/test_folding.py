"""Folding batch normalisation: where it may be done, where not, and that no output moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow.compat.v1 as tf1

from transforms import folding

CHANNELS = 6
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(2, 9, 9, 3)).astype(np.float32)
WEIGHTS = RANDOM.normal(size=(3, 3, 3, CHANNELS)).astype(np.float32)
BIAS = RANDOM.normal(size=CHANNELS).astype(np.float32)
PARAMETERS = RANDOM.uniform(0.5, 2, size=(4, CHANNELS)).astype(np.float32)

Build = Callable[[Any], dict[str, Any]]


def conv(images: Any, weights: Any = WEIGHTS) -> Any:
    return tf.nn.conv2d(images, weights, 2, "SAME", name="conv")


def norm(x: Any, kind: str = "V3", **options: Any) -> Any:
    """The outputs of a batch normalisation as its gradient-free inference does it."""
    scale, offset, mean, variance = options.pop("parameters", PARAMETERS)
    operation = getattr(tf.raw_ops, f"FusedBatchNorm{kind}")
    options = {"epsilon": 0.01, "is_training": False, "name": "norm"} | options
    return operation(x=x, scale=scale, offset=offset, mean=mean, variance=variance, **options)


def built(build: Build) -> tuple[Any, dict[str, str]]:
    """The GraphDef of a function of a placeholder `images`, and the names of its outputs."""
    with tf.Graph().as_default() as graph:
        outputs = build(tf1.placeholder(tf.float32, [None, None, None, 3], name="images"))
    return graph.as_graph_def(), {name: tensor.name for name, tensor in outputs.items()}


def outcome(graph: Any, names: dict[str, str], batch: Any = IMAGES) -> dict[str, Any]:
    def imported(images: Any) -> Any:
        return tf.graph_util.import_graph_def(graph, {"images:0": images}, list(names.values()), name="")

    return dict(
        zip(names, tf1.wrap_function(imported, [tf.TensorSpec(None)])(tf.constant(batch)), strict=True)
    )


def folded(build: Build) -> tuple[Any, dict[str, str], int]:
    """The folded graph, after the check that it gives what the graph gave before and left that alone."""
    graph, names = built(build)
    before = graph.SerializeToString(deterministic=True)
    result, count = folding.fold(graph, names.values())
    assert graph.SerializeToString(deterministic=True) == before
    expected, got = outcome(graph, names), outcome(result, names)
    for name in names:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, atol=1e-5)
    assert sum(node.op.startswith("FusedBatchNorm") for node in result.node) + count == sum(
        node.op.startswith("FusedBatchNorm") for node in folding.prune(graph, names.values()).node
    )
    return result, names, count


def swish(images: Any) -> dict[str, Any]:
    @tf.custom_gradient
    def activation(x: Any, beta: Any) -> Any:
        return x * tf.sigmoid(beta * x), lambda up: (up, up)

    return {"a": activation(norm(conv(images)).y, tf.constant(1.0))}


def depthwise(images: Any) -> dict[str, Any]:
    x = tf.raw_ops.DepthwiseConv2dNative(
        input=images, filter=WEIGHTS[..., :2], strides=[1, 2, 2, 1], padding="SAME"
    )
    return {"a": norm(x).y}


def grouped(images: Any) -> dict[str, Any]:
    weights = WEIGHTS[:, :, :1]
    return {"a": norm(conv(images, weights)).y}


def shared(images: Any) -> dict[str, Any]:
    """Two convolutions and a third node read the same weights, by way of what reading a variable leaves."""
    weights = tf.identity(tf.identity(tf.constant(WEIGHTS)))
    one, other = norm(conv(images, weights)).y, norm(conv(images * 2, weights), epsilon=1.0).y
    return {"a": one, "b": other, "c": tf.reduce_sum(weights), "d": conv(images + 1, weights)}


def behind_bias(images: Any) -> dict[str, Any]:
    return {"a": norm(tf.nn.bias_add(conv(images), BIAS)).y}


def through_identities(images: Any) -> dict[str, Any]:
    parameters = [tf.identity(tf.constant(row)) for row in PARAMETERS]
    return {"a": tf.identity(norm(tf.identity(tf.identity(conv(images))), parameters=parameters).y)}


def waited_for(images: Any) -> dict[str, Any]:
    convolved, parameters = conv(images), [tf.constant(row) for row in PARAMETERS]
    with tf.control_dependencies([tf.debugging.assert_greater(tf.shape(images)[1], 1)]):
        x = norm(convolved, parameters=parameters).y
    with tf.control_dependencies([x]):
        return {"a": tf.identity(images, name="a")}


def constant_of_a_function(images: Any) -> dict[str, Any]:
    weights = tf.constant(WEIGHTS)
    with tf.control_dependencies([images * 2]):
        return {"a": norm(conv(images, tf.identity(weights))).y}


FOLDS: dict[str, tuple[Build, int]] = {
    "convolution": (lambda images: {"a": tf.nn.relu(norm(conv(images)).y)}, 1),
    "version 1": (lambda images: {"a": norm(conv(images), "").y}, 1),
    "version 2": (lambda images: {"a": norm(conv(images), "V2").y}, 1),
    "promised itself": (lambda images: {"a": norm(conv(images)).y}, 1),
    "depthwise": (depthwise, 1),
    "grouped": (grouped, 1),
    "bias before": (behind_bias, 1),
    "identities": (through_identities, 1),
    "swish": (swish, 1),
    "shared weights": (shared, 2),
    "waited for": (waited_for, 1),
    "constant of a function": (constant_of_a_function, 1),
    "used twice": (lambda images: {"a": norm(conv(images)).y, "b": norm(conv(images)).y * 2}, 2),
}


@pytest.mark.parametrize(("build", "count"), FOLDS.values(), ids=FOLDS)
def test_is_folded(build: Build, count: int) -> None:
    assert folded(build)[2] == count


def convolution_used(images: Any) -> dict[str, Any]:
    x = conv(images)
    return {"a": norm(x).y + tf.nn.relu(x)}


def convolution_promised(images: Any) -> dict[str, Any]:
    x = conv(images)
    return {"a": norm(x).y, "b": x}


def convolution_promised_by_another_name(images: Any) -> dict[str, Any]:
    x = conv(images)
    return {"a": norm(x).y, "b": tf.identity(x)}


def bias_used(images: Any) -> dict[str, Any]:
    x = tf.nn.bias_add(conv(images), BIAS)
    return {"a": norm(x).y, "b": x * 2}


def biased_convolution_used(images: Any) -> dict[str, Any]:
    x = conv(images)
    return {"a": norm(tf.nn.bias_add(x, BIAS)).y, "b": x * 2}


def statistics_used(images: Any) -> dict[str, Any]:
    x = norm(conv(images))
    return {"a": x.y, "b": x.batch_variance + 1}


def statistics_promised(images: Any) -> dict[str, Any]:
    x = norm(conv(images))
    return {"a": x.y, "b": x.batch_mean}


def weights_computed(images: Any) -> dict[str, Any]:
    return {"a": norm(conv(images, WEIGHTS * tf.reduce_mean(images))).y}


def bias_computed(images: Any) -> dict[str, Any]:
    return {"a": norm(tf.nn.bias_add(conv(images), BIAS * tf.reduce_mean(images))).y}


def scale_computed(images: Any) -> dict[str, Any]:
    return {"a": norm(conv(images), parameters=[PARAMETERS[0] * tf.reduce_mean(images), *PARAMETERS[1:]]).y}


def constant_of_a_branch(images: Any) -> dict[str, Any]:
    switched = tf.raw_ops.Switch(data=images, pred=tf.reduce_mean(images) < 1e9)
    with tf.control_dependencies([tf.identity(switched.output_true)]):
        weights = tf.constant(WEIGHTS)
    return {"a": norm(conv(switched.output_true, weights)).y}


def half(images: Any) -> dict[str, Any]:
    return {"a": tf.cast(norm(conv(tf.cast(images, tf.bfloat16), WEIGHTS.astype("bfloat16"))).y, tf.float32)}


STAYS: dict[str, Build] = {
    "training": lambda images: {
        "a": norm(conv(images), is_training=True, parameters=[*PARAMETERS[:2], [], []]).y
    },
    "no convolution": lambda images: {"a": norm(tf.concat([images, images], 3)).y},
    "relu between": lambda images: {"a": norm(tf.nn.relu(conv(images))).y},
    "negative variance": lambda images: {
        "a": norm(conv(images), parameters=[*PARAMETERS[:3], -PARAMETERS[3]]).y
    },
    "convolution used": convolution_used,
    "convolution promised": convolution_promised,
    "convolution promised by another name": convolution_promised_by_another_name,
    "bias used": bias_used,
    "biased convolution used": biased_convolution_used,
    "statistics used": statistics_used,
    "statistics promised": statistics_promised,
    "weights computed": weights_computed,
    "bias computed": bias_computed,
    "scale computed": scale_computed,
    "constant of a branch": constant_of_a_branch,
    "half": half,
}


@pytest.mark.parametrize("build", STAYS.values(), ids=STAYS)
def test_stays(build: Build) -> None:
    assert folded(build)[2] == 0


def without(graph: Any, *attributes: str) -> Any:
    """The graph with attributes of its batch normalisations left to their defaults."""
    for node in graph.node:
        if node.op.startswith("FusedBatchNorm"):
            for name in attributes:
                node.attr.pop(name, None)
    return graph


def test_attributes_that_are_left_out_have_their_defaults() -> None:
    # The default of is_training is true; tests above have it false.
    graph, names = built(lambda images: {"a": norm(conv(images)).y})
    assert folding.fold(without(graph, "is_training"), names.values())[1] == 0
    small = [*PARAMETERS[:3], PARAMETERS[3] / 10_000]
    graph, names = built(lambda images: {"a": norm(conv(images), parameters=small, epsilon=1e-4).y})
    expected = outcome(graph, names)
    result, count = folding.fold(without(graph, "epsilon", "data_format"), names.values())
    assert count == 1
    np.testing.assert_allclose(outcome(result, names)["a"], expected["a"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("formats", "count"),
    [
        ({"Conv2D": b"NCHW", "FusedBatchNormV3": b"NCHW"}, 1),
        ({"Conv2D": b"NCHW"}, 0),
        ({"FusedBatchNormV3": b"NCHW"}, 0),
    ],
)
def test_the_order_of_axes_is_kept(formats: dict[str, bytes], count: int) -> None:
    """A CPU cannot run NCHW: weights are laid out alike in both orders, so the constants are compared."""
    graph, names = built(lambda images: {"a": norm(conv(images)).y})
    last, _ = folding.fold(graph, names.values())
    for node in graph.node:
        if node.op in formats:
            node.attr["data_format"].s = formats[node.op]
    first, found = folding.fold(graph, names.values())
    assert found == count
    if count:
        nodes, expected = ({node.name: node for node in each.node} for each in (first, last))
        assert nodes["norm"].attr["data_format"].s == b"NCHW"
        assert expected["norm"].attr["data_format"].s == b"NHWC"
        for name in ("norm/folded_weights", "norm/folded_bias"):
            assert nodes[name] == expected[name]


def test_only_what_the_outputs_take_is_left() -> None:
    def build(images: Any) -> dict[str, Any]:
        x = norm(conv(images)).y
        tf.identity(x, name="elsewhere")
        return {"a": tf.nn.relu(x, name="a")}

    result, _, _ = folded(build)
    assert {node.name for node in result.node} == {
        "images", "conv", "norm", "norm/folded_weights", "norm/folded_bias", "a",
    }  # fmt: skip


def test_colocation_with_what_is_left_out_is_dropped() -> None:
    graph, names = built(lambda images: {"a": tf.nn.relu(norm(conv(images)).y, name="a")})
    next(node for node in graph.node if node.name == "a").attr["_class"].list.s.append(b"loc:@conv/filter")
    result, count = folding.fold(graph, names.values())
    assert count == 1
    outcome(result, names)


def test_functions_and_versions_are_kept() -> None:
    def build(images: Any) -> dict[str, Any]:
        return {
            "a": tf.while_loop(lambda x: tf.reduce_sum(x) < 0, lambda x: (x + 1,), [norm(conv(images)).y])[0]
        }

    graph, names = built(build)
    result, _ = folding.fold(graph, names.values())
    assert result.library == graph.library
    assert result.versions == graph.versions


def test_an_assertion_is_kept() -> None:
    result, names, _ = folded(waited_for)
    nodes = {node.name: node for node in result.node}
    assert "^norm" in nodes["a"].input
    assert nodes["norm"].input[-1].endswith("/Assert")
    with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
        outcome(result, names, IMAGES[:, :1])

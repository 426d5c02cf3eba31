"""Scaling and padding go into a convolution where nothing else could tell, and nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from transforms import fusing

SIZE = 8
KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
MEAN = np.array([0.4, 0.5, 0.6], np.float32)
STDDEV = np.array([0.2, 0.3, 0.25], np.float32)


def graph_of(build: Callable[[Any], Any]) -> tuple[Any, list[str]]:
    """The GraphDef of what `build` makes of images, and the names of its outputs."""
    with tf.Graph().as_default() as graph:
        outputs = build(tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], name="images"))
        names = [tensor.name for tensor in (outputs if isinstance(outputs, list) else [outputs])]
        return graph.as_graph_def(), names


def run(graph: Any, names: list[str]) -> list[Any]:
    """The outputs for two random images."""
    images = np.random.default_rng(1).random((2, SIZE, SIZE, 3), np.float32)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        return session.run(
            tf.graph_util.import_graph_def(graph, {"images:0": tf.constant(images)}, names, name="")
        )


def fused(build: Callable[[Any], Any]) -> Counter[str]:
    """Which operations are left; the outputs are those of the graph before."""
    graph, names = graph_of(build)
    before = graph.SerializeToString(deterministic=True)
    result = fusing.fuse(graph, "images:0", names, SIZE)
    for one, other in zip(run(result, names), run(graph, names), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert graph.SerializeToString(deterministic=True) == before
    return Counter(node.op for node in result.node if node.op not in ("Const", "Placeholder"))


def convolved(pixels: Any, padding: str = "SAME", strides: int = 2) -> Any:
    return tf.nn.conv2d(pixels, KERNEL, strides, padding)


def keras_scaling(images: Any) -> Any:
    """As EfficientNet of Keras spells it: 255ths, their mean and the root of their variance."""
    in_255ths = tf.math.truediv(images - 0.0, 1.0 / 255)
    variance = tf.constant((STDDEV * 255) ** 2)
    return (in_255ths - MEAN * 255) / tf.maximum(tf.sqrt(variance), 1e-7)


def test_a_scaling_of_many_steps_becomes_one_addition() -> None:
    assert fused(lambda images: convolved(keras_scaling(images))) == {"AddV2": 1, "Conv2D": 1}


def test_zero_padding_between_does_not_hinder() -> None:
    def build(images: Any) -> Any:
        padded = tf.pad((images - MEAN) / STDDEV, [[0, 0], [2, 0], [0, 3], [0, 0]])
        return convolved(padded, "VALID", 1)

    assert fused(build) == {"AddV2": 1, "Pad": 1, "Conv2D": 1}


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda x: convolved(x - MEAN), id="one step is no longer than an addition"),
        pytest.param(lambda x: convolved(tf.nn.relu((x - MEAN) / STDDEV)), id="not at the convolution"),
        pytest.param(lambda x: [convolved((x - MEAN) / STDDEV), x * 2.0], id="images used elsewhere"),
        pytest.param(
            lambda x: [convolved(y := (x - MEAN) / STDDEV), tf.nn.relu(y)],
            id="result used elsewhere",
        ),
        pytest.param(lambda x: convolved(MEAN - x) + convolved(1.0 / (x + 1.0)), id="the wrong way round"),
        pytest.param(
            lambda x: convolved(x * 2.0 * MEAN[None, None, None].repeat(SIZE, 2)), id="not by channel"
        ),
        pytest.param(lambda x: convolved(MEAN - (x - 1.0)), id="subtracted from a constant"),
        pytest.param(lambda x: convolved((x - MEAN) * np.float32([1, 0, 1])), id="a channel is lost"),
        pytest.param(lambda x: convolved((x - MEAN) * x), id="a product with itself"),
        pytest.param(lambda x: [(y := (x - MEAN) / STDDEV), convolved(y)], id="promised as an output"),
    ],
)
def test_other_scaling_stays(build: Callable[[Any], Any]) -> None:
    graph, _ = graph_of(build)
    before = Counter(node.op for node in graph.node if node.op not in ("Const", "Placeholder"))
    assert fused(build) == before


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(("kernel", "strides", "padding"), [(3, 2, (0, 1)), (5, 2, (1, 2)), (3, 1, (1, 1))])
def test_padding_that_is_that_of_same_goes_into_the_convolution(
    depthwise: bool, kernel: int, strides: int, padding: tuple[int, int]
) -> None:
    weights = np.random.default_rng(2).normal(size=(kernel, kernel, 3, 2)).astype(np.float32)

    def build(images: Any) -> Any:
        padded = tf.pad(images, [[0, 0], padding, padding, [0, 0]])
        if depthwise:
            return tf.nn.depthwise_conv2d(padded, weights, [1, strides, strides, 1], "VALID")
        return tf.nn.conv2d(padded, weights, strides, "VALID")

    assert "Pad" not in fused(build)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(
            lambda x: convolved(tf.pad(x, [[0, 0], [1, 0], [1, 0], [0, 0]]), "VALID"), id="other side"
        ),
        pytest.param(
            lambda x: convolved(tf.pad(x, [[0, 0], [1, 1], [0, 1], [0, 0]]), "VALID"), id="one axis"
        ),
        pytest.param(
            lambda x: convolved(tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]]), "SAME"), id="padded twice"
        ),
        pytest.param(
            lambda x: tf.nn.conv2d(
                tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), KERNEL, 1, "VALID", dilations=2
            ),
            id="dilated",
        ),
        pytest.param(
            lambda x: [y := tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]]), convolved(y, "VALID")],
            id="used elsewhere",
        ),
        pytest.param(
            lambda x: convolved(tf.pad(x, [[0, 1], [0, 1], [0, 1], [0, 0]]), "VALID"), id="an image more"
        ),
    ],
)
def test_other_padding_stays(build: Callable[[Any], Any]) -> None:
    assert "Pad" in fused(build)

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from tests.tiny_modules import ATTACHMENT, tf2_logits, tiny_variant, write_tf1_hub, write_tf2
from transforms.saved_models import first_convolution, first_line, hub_message, read_graph


def test_hub_messages_have_the_published_wire_format() -> None:
    size = hub_message("ImageSize")(height=32, width=33).SerializeToString()
    info = hub_message("ImageModuleInfo")(default_image_size=size).SerializeToString()
    attachment = hub_message("ModuleAttachment")(key="image_module_info", value=info)
    assert attachment.SerializeToString() == ATTACHMENT


def test_first_convolution_is_the_nearest_not_the_first_made() -> None:
    with tf.Graph().as_default():
        images = tf.compat.v1.placeholder(tf.float32, [1, 8, 8, 3])
        tf.nn.conv2d(tf.zeros([1, 8, 8, 3]), tf.ones([1, 1, 3, 4]), 1, "SAME")
        scaled = images / 255
        far = tf.nn.relu(tf.nn.relu(scaled))
        tf.nn.conv2d(far, tf.ones([1, 1, 3, 4]), 1, "SAME")
        near = tf.nn.conv2d(scaled, tf.ones([1, 1, 3, 4]), 1, "SAME")
        assert first_convolution(images) is near.op


def test_without_a_convolution_there_is_none() -> None:
    with tf.Graph().as_default():
        images = tf.compat.v1.placeholder(tf.float32, [1, 8, 8, 3])
        tf.reduce_mean(images)
        assert first_convolution(images) is None


@pytest.mark.parametrize("tf1", [True, False])
def test_read_graph_has_no_inner_functions(tmp_path: Path, *, tf1: bool) -> None:
    if tf1:
        write_tf1_hub(tmp_path)
    else:
        write_tf2(tmp_path, tf2_logits)
    graph = read_graph(str(tmp_path), tiny_variant(format="tf1-hub" if tf1 else "tf2"))
    types = {operation.type for operation in graph.prune(graph.images, graph.outputs).graph.get_operations()}
    assert "Conv2D" in types
    assert not types & {"PartitionedCall", "StatefulPartitionedCall"}


def test_first_line_is_never_empty() -> None:
    assert first_line(ValueError("\none\ntwo")) == "one"
    assert first_line(KeyError()) == "KeyError"


def test_first_line_finds_what_went_wrong_in_a_graph() -> None:
    @tf.function
    def fails(x: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.Assert(x > 0, ["too small"])]):
            return tf.identity(x)

    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        fails(tf.constant(-1.0))
    assert first_line(raised.value) == "assertion failed: [too small]"

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tests.tiny_modules import ATTACHMENT, tiny_variant
from transforms import modules, random_weights
from transforms.errors import RunError
from transforms.variants import Variant, find

TF1 = "google/efficientnet/b0/classification/1"
KERAS = "tensorflow/efficientnet/b0/classification/1"
V2 = "google/imagenet/efficientnet_v2_imagenet1k_b0/feature_vector/2"
SMALL = [TF1, KERAS, V2]
ONE_AND_FULL = [TF1, *(pytest.param(name, marks=pytest.mark.full) for name in (KERAS, V2))]
"""One in each run of the tests; the others with the full-size ones, since each takes a while to write."""
MISSION = [
    "google/efficientnet/b5/feature-vector/1",
    "google/efficientnet/b4/classification/1",
    "google/imagenet/efficientnet_v2_imagenet21k_ft1k_m/feature_vector/1",
    "tensorflow/efficientnet/b3/classification/1",
]
FUSED_BATCH_NORMS = {TF1: 49, KERAS: 49, V2: 59}


@pytest.fixture
def modules_dir(small_modules: str) -> Path:
    """The b0 modules of both publishers and of V2, with random weights, each in its variant's directory."""
    return Path(small_modules)


def pictures(size: int) -> np.ndarray:
    """Four unlike pictures in [0, 1], float32 `[4, size, size, 3]`: two ramps, noise and stripes."""
    ramp = np.linspace(0, 1, size)
    noise = np.random.default_rng(0).uniform(size=(size, size, 3))
    pictures = np.empty([4, size, size, 3], np.float32)
    pictures[0] = ramp[:, None, None] * [1, 0.5, 0.1]
    pictures[1] = ramp[None, ::-1, None] * [0.2, 0.4, 1]
    pictures[2] = noise
    pictures[3] = (np.arange(size) // 16 % 2)[:, None, None]
    return pictures


def read(path: Path) -> SavedModel:
    return SavedModel.FromString((path / "saved_model.pb").read_bytes())


def check_health(path: Path, name: str) -> None:
    """The module is what the catalogue promises, and its scores are finite, small and different for each image."""
    variant = find(name)
    description = modules.describe(modules.load(str(path), variant), variant)
    assert description.n_features == variant.n_features[0]
    assert description.n_classes == (variant.n_classes[0] if variant.n_classes else None)
    v2 = "v2" in name
    np.testing.assert_allclose(
        description.input_at_low, [-1] * 3 if v2 else [-2.118, -2.036, -1.804], atol=1e-3
    )
    np.testing.assert_allclose(description.input_at_high, [1] * 3 if v2 else [2.249, 2.429, 2.640], atol=1e-3)
    for output in modules.load(str(path), variant).function(pictures(variant.size)).values():
        values = np.asarray(output)
        assert np.isfinite(values).all()
        scale = np.sqrt(np.mean(values**2))
        assert 0.01 < scale < 100
        for one in range(4):
            for other in range(one):
                assert np.sqrt(np.mean((values[one] - values[other]) ** 2)) > 0.01 * scale


@pytest.mark.parametrize("name", ONE_AND_FULL)
def test_small_modules_are_healthy(modules_dir: Path, name: str) -> None:
    check_health(modules_dir / find(name).directory, name)


@pytest.mark.full
@pytest.mark.parametrize("name", MISSION)
def test_full_size_modules_are_healthy_and_deterministic(tmp_path: Path, name: str) -> None:
    random_weights.write(find(name), str(tmp_path / "one"))
    check_health(tmp_path / "one", name)
    random_weights.write(find(name), str(tmp_path / "two"))
    assert modules.digest(str(tmp_path / "one")) == modules.digest(str(tmp_path / "two"))


@pytest.mark.parametrize("name", ONE_AND_FULL)
def test_written_twice_the_bytes_are_the_same(modules_dir: Path, tmp_path: Path, name: str) -> None:
    random_weights.write(find(name), str(tmp_path / "again"))
    first = modules.digest(str(modules_dir / find(name).directory))
    assert modules.digest(str(tmp_path / "again")) == first


@pytest.mark.full
def test_another_seed_gives_other_weights(modules_dir: Path, tmp_path: Path) -> None:
    random_weights.write(find(V2), str(tmp_path / "other"), seed=1)
    first = modules_dir / find(V2).directory
    batch = pictures(224)
    features = [
        modules.load(str(path), find(V2)).function(batch)["features"] for path in (first, tmp_path / "other")
    ]
    assert not np.allclose(features[0], features[1], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", ONE_AND_FULL)
def test_batch_norm_is_fused(modules_dir: Path, name: str) -> None:
    variant = find(name)
    graph = modules.load(str(modules_dir / variant.directory), variant).graph_function.graph
    fused = [operation for operation in graph.get_operations() if operation.type == "FusedBatchNormV3"]
    assert len(fused) == FUSED_BATCH_NORMS[name]
    assert not any(operation.get_attr("is_training") for operation in fused)


@pytest.mark.parametrize("name", SMALL)
def test_only_the_module_is_written(modules_dir: Path, name: str) -> None:
    own = {path.name for path in (modules_dir / find(name).directory).rglob("*") if path.is_file()}
    marks = {TF1: {"tfhub_module.pb"}, KERAS: {"keras_metadata.pb"}, V2: set()}[name]
    assert own == {
        "saved_model.pb",
        "variables.index",
        "variables.data-00000-of-00001",
        "RANDOM_WEIGHTS.txt",
        *marks,
    }


def test_tf1_hub_format(modules_dir: Path) -> None:
    path = modules_dir / find(TF1).directory
    assert (path / "tfhub_module.pb").read_bytes() == b"\x08\x03"
    meta_graphs = read(path).meta_graphs
    assert [list(graph.meta_info_def.tags) for graph in meta_graphs] == [["train"], []]
    for graph in meta_graphs:
        assert set(graph.signature_def) == {"default", "image_classification", "image_feature_vector"}
        for signature in graph.signature_def.values():
            assert set(signature.inputs) == {"images"}
            assert set(signature.outputs) == {"default"}
        logits = graph.signature_def["image_classification"].outputs["default"].name
        assert graph.signature_def["default"].outputs["default"].name == logits
        assert graph.signature_def["image_feature_vector"].outputs["default"].name != logits
        attachments = list(graph.collection_def["hub_module_attachments"].bytes_list.value)
        assert attachments == [ATTACHMENT[:19] + b"\x12\x08\x0a\x06\x08\xe0\x01\x10\xe0\x01"]


def test_tf1_hub_training_graph_trains(modules_dir: Path) -> None:
    train, infer = read(modules_dir / find(TF1).directory).meta_graphs
    for graph, training in ((train, True), (infer, False)):
        norms = [node for node in graph.graph_def.node if node.op == "FusedBatchNormV3"]
        # `is_training` is true by default, and default attributes are stripped.
        assert all(("is_training" not in node.attr) == training for node in norms)


@pytest.mark.full
def test_keras_classifier_publishes_probabilities_at_any_size(modules_dir: Path) -> None:
    path = str(modules_dir / find(KERAS).directory)
    signature = tf.saved_model.load(path).signatures["serving_default"]
    assert list(signature.structured_input_signature[1]) == ["image_input"]
    batch = tf.constant(pictures(96))
    published = signature(image_input=batch)["probs"]
    np.testing.assert_allclose(tf.reduce_sum(published, 1), 1, atol=1e-5)
    outputs = modules.load(path, find(KERAS)).function(batch)
    np.testing.assert_allclose(tf.nn.softmax(outputs["logits"]), published, atol=1e-6, rtol=0)


@pytest.mark.full
def test_both_publishers_have_the_same_network(modules_dir: Path) -> None:
    batch = pictures(224)
    google = modules.load(str(modules_dir / find(TF1).directory), find(TF1)).function(batch)
    keras = modules.load(str(modules_dir / find(KERAS).directory), find(KERAS)).function(batch)
    for name, values in google.items():
        np.testing.assert_allclose(values, keras[name], rtol=1e-3, atol=1e-3 * np.abs(values).max())


def test_v2_is_called_with_a_training_argument_and_has_one_size(modules_dir: Path) -> None:
    loaded = tf.saved_model.load(str(modules_dir / find(V2).directory))
    signature = loaded.signatures["serving_default"]
    assert signature.structured_input_signature[1]["inputs"].shape == [None, 224, 224, 3]
    assert list(signature.structured_outputs) == ["output_0"]
    batch = tf.constant(pictures(224))
    published = signature(inputs=batch)["output_0"]
    np.testing.assert_allclose(loaded(batch, False), published, rtol=1e-5, atol=1e-5)
    assert not np.allclose(loaded(batch, True), published, rtol=1e-2)


@pytest.mark.parametrize(
    "variant", [tiny_variant(), find("google/imagenet/efficientnet_v2_imagenet21k_xl/feature_vector/2")]
)
def test_no_architecture_is_one_clear_line(tmp_path: Path, variant: Variant) -> None:
    with pytest.raises(RunError, match=f"^{variant.name}: there is no architecture for random weights"):
        random_weights.write(variant, str(tmp_path / "module"))


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be written: (Not a directory|File exists)"):
        random_weights.write(find(V2), str(tmp_path / "file" / "module"))

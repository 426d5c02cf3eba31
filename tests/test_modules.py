from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.tiny_modules import (
    ATTACHMENT,
    BIAS,
    DENSE,
    KERNEL,
    MEAN,
    N_CLASSES,
    N_FEATURES,
    SIZE,
    STDDEV,
    TF2,
    TF2_FEATURES,
    features_of,
    images,
    normalised,
    tf2_features,
    tf2_logits,
    tf2_probabilities,
    tiny_variant,
    write_tf1_hub,
    write_tf2,
)
from transforms import modules
from transforms.errors import RunError


class TestTf1:
    def test_logits_and_features_equal_the_separate_signatures(self, tmp_path: Path) -> None:
        write_tf1_hub(tmp_path)
        outputs = modules.load(str(tmp_path), tiny_variant()).function(images())
        signatures = tf.saved_model.load(str(tmp_path), tags=[]).signatures
        batch = tf.constant(images())
        logits = signatures["image_classification"](images=batch)["default"]
        features = signatures["image_feature_vector"](images=batch)["default"]
        assert set(outputs) == {"logits", "features"}
        np.testing.assert_array_equal(outputs["logits"], logits)
        np.testing.assert_array_equal(outputs["features"], features)

    def test_gives_the_inference_graph(self, tmp_path: Path) -> None:
        write_tf1_hub(tmp_path)
        outputs = modules.load(str(tmp_path), tiny_variant()).function(images())
        np.testing.assert_allclose(outputs["features"], features_of(normalised(images()), KERNEL), rtol=1e-5)

    def test_gives_features_alone(self, tmp_path: Path) -> None:
        write_tf1_hub(tmp_path, signatures=("default", "image_feature_vector"))
        module = modules.load(str(tmp_path), tiny_variant(outputs=("features",)))
        assert set(module.function(images())) == {"features"}
        assert (module.n_classes, module.n_features) == (None, N_FEATURES)

    @pytest.mark.parametrize(
        ("options", "size"),
        [
            ({}, (32, 33)),
            ({"attachment": None}, None),
            ({"attachment": None, "shape": (None, SIZE, SIZE, 3)}, (SIZE, SIZE)),
            ({"attachment": b"\x0a\x05other" + ATTACHMENT[19:]}, None),
        ],
    )
    def test_reads_the_expected_size(self, tmp_path: Path, options: Any, size: Any) -> None:
        write_tf1_hub(tmp_path, **options)
        assert modules.load(str(tmp_path), tiny_variant()).size == size

    def test_keeps_its_variables_alive(self, tmp_path: Path) -> None:
        write_tf1_hub(tmp_path)
        before = modules.load(str(tmp_path), tiny_variant()).function(images())["logits"]
        graph_function = modules.load(str(tmp_path), tiny_variant()).graph_function
        gc.collect()
        np.testing.assert_array_equal(graph_function(tf.constant(images()))["logits"], before)


class TestTf2:
    def test_softmax_of_the_logits_is_what_the_module_publishes(self, tmp_path: Path) -> None:
        write_tf2(tmp_path, tf2_probabilities)
        logits = modules.load(str(tmp_path), TF2).function(images())["logits"]
        signature = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
        published = signature(inputs=tf.constant(images()))["output_0"]
        np.testing.assert_allclose(tf.nn.softmax(logits), published, atol=1e-6, rtol=0)
        assert np.abs(logits).max() > 1

    def test_sigmoid_of_the_logits_is_what_the_module_publishes(self, tmp_path: Path) -> None:
        write_tf2(tmp_path, lambda inputs, kernel: tf.sigmoid(tf2_logits(inputs, kernel)))
        variant = tiny_variant(format="tf2", activation="sigmoid")
        logits = modules.load(str(tmp_path), variant).function(images())["logits"]
        np.testing.assert_allclose(logits, tf2_logits(images(), KERNEL), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("call", [tf2_logits, tf2_probabilities])
    def test_features_lie_before_the_dense_layer(self, tmp_path: Path, call: Any) -> None:
        write_tf2(tmp_path, call)
        outputs = modules.load(str(tmp_path), TF2).function(images())
        np.testing.assert_allclose(
            outputs["features"] @ DENSE + BIAS, outputs["logits"], rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(
            outputs["features"], features_of(normalised(images()), KERNEL), rtol=1e-5, atol=1e-6
        )

    def test_a_dense_layer_without_bias_has_features_too(self, tmp_path: Path) -> None:
        write_tf2(tmp_path, lambda inputs, kernel: tf.matmul(tf2_features(inputs, kernel), DENSE))
        outputs = modules.load(str(tmp_path), TF2).function(images())
        np.testing.assert_allclose(outputs["features"] @ DENSE, outputs["logits"], rtol=1e-5, atol=1e-6)

    def test_gives_logits_alone_of_a_head_that_is_no_dense_layer(self, tmp_path: Path) -> None:
        write_tf2(tmp_path, lambda inputs, kernel: 2 * tf2_logits(inputs, kernel))
        module = modules.load(str(tmp_path), tiny_variant(format="tf2", outputs=("logits",)))
        assert set(module.function(images())) == {"logits"}
        assert (module.n_classes, module.n_features) == (N_CLASSES, None)

    def test_gives_the_feature_vector(self, tmp_path: Path) -> None:
        write_tf2(tmp_path, tf2_features)
        outputs = modules.load(str(tmp_path), TF2_FEATURES).function(images())
        assert set(outputs) == {"features"}
        np.testing.assert_allclose(
            outputs["features"], features_of(images() * 2 - 1, KERNEL), rtol=1e-5, atol=1e-6
        )

    def test_a_fixed_size_is_enforced(self, tmp_path: Path) -> None:
        write_tf2(tmp_path, tf2_features, shape=[None, SIZE, SIZE, 3])
        module = modules.load(str(tmp_path), TF2_FEATURES)
        assert module.size == (SIZE, SIZE)
        with pytest.raises(ValueError, match=r"\(None, 32, 32, 3\), got \(3, 24, 24, 3\)"):
            module.function(images(size=24))

    def test_a_flexible_size_is_free(self, tmp_path: Path) -> None:
        write_tf2(tmp_path, tf2_features)
        module = modules.load(str(tmp_path), TF2_FEATURES)
        assert module.size is None
        assert module.function(images(size=24))["features"].shape == (3, N_FEATURES)


@pytest.mark.parametrize(
    ("write", "variant"),
    [(write_tf1_hub, tiny_variant()), (lambda path: write_tf2(path, tf2_probabilities), TF2)],
    ids=["tf1-hub", "tf2"],
)
class TestBothFormats:
    def test_keeps_the_order_of_the_batch(self, tmp_path: Path, write: Any, variant: Any) -> None:
        write(tmp_path)
        function = modules.load(str(tmp_path), variant).function
        whole = function(images(5))
        for name, values in whole.items():
            single = np.concatenate([function(image[np.newaxis])[name] for image in images(5)])
            np.testing.assert_allclose(values, single, rtol=1e-5, atol=1e-6)

    def test_takes_arrays_and_tensors(self, tmp_path: Path, write: Any, variant: Any) -> None:
        write(tmp_path)
        function = modules.load(str(tmp_path), variant).function
        np.testing.assert_array_equal(function(images())["logits"], function(tf.constant(images()))["logits"])

    def test_reads_the_widths(self, tmp_path: Path, write: Any, variant: Any) -> None:
        write(tmp_path)
        module = modules.load(str(tmp_path), variant)
        assert (module.n_classes, module.n_features) == (N_CLASSES, N_FEATURES)


def test_reads_widths_that_the_graph_does_not_know(tmp_path: Path) -> None:
    def unknown(inputs: Any, kernel: Any) -> Any:
        features = tf2_features(inputs, kernel)
        return tf.reshape(features, tf.shape(features))

    write_tf2(tmp_path, lambda inputs, kernel: tf.ensure_shape(unknown(inputs, kernel), [None, None]))
    assert modules.load(str(tmp_path), TF2_FEATURES).n_features == N_FEATURES


@pytest.mark.parametrize("accepted", [(), (1001, N_CLASSES)])
def test_accepts_any_of_the_widths_in_the_catalogue(tmp_path: Path, accepted: Any) -> None:
    write_tf1_hub(tmp_path)
    assert modules.load(str(tmp_path), tiny_variant(n_classes=accepted)).n_classes == N_CLASSES


class TestInputRange:
    def test_reports_what_the_first_convolution_is_fed(self, tmp_path: Path) -> None:
        write_tf1_hub(tmp_path)
        low, high = modules.check_input_range(modules.load(str(tmp_path), tiny_variant()), tiny_variant())
        np.testing.assert_allclose(low, [-2.118, -2.036, -1.804], atol=1e-3)
        np.testing.assert_allclose(high, [2.249, 2.429, 2.640], atol=1e-3)

    def test_sees_the_nearest_convolution_of_several(self, tmp_path: Path) -> None:
        def two_convolutions(inputs: Any, kernel: Any) -> Any:
            first = tf.nn.conv2d(tf.pad(inputs * 2 - 1, [[0, 0], [1, 1], [1, 1], [0, 0]]), kernel, 2, "VALID")
            return tf.reduce_mean(
                tf.nn.conv2d(first, tf.ones([1, 1, N_FEATURES, N_FEATURES]), 1, "SAME"), [1, 2]
            )

        write_tf2(tmp_path, two_convolutions)
        module = modules.load(str(tmp_path), TF2_FEATURES)
        assert modules.input_affine(module, TF2_FEATURES) == ((-1, -1, -1), (1, 1, 1))

    @pytest.mark.parametrize(("scale", "input_range"), [(1, (0.0, 1.0)), (1 / 255, (0.0, 255.0))])
    def test_accepts_the_range_that_the_module_wants(
        self, tmp_path: Path, scale: float, input_range: Any
    ) -> None:
        write_tf1_hub(tmp_path, scale=scale)
        variant = tiny_variant(input_range=input_range)
        module = modules.load(str(tmp_path), variant)
        modules.check_input_range(module, variant)
        # Whatever the module wants, the function takes [0, 1].
        features = module.function(images())["features"]
        np.testing.assert_allclose(features, features_of(normalised(images()), KERNEL), rtol=1e-4)

    @pytest.mark.parametrize(("scale", "input_range"), [(1 / 255, (0.0, 1.0)), (1, (0.0, 255.0))])
    def test_refuses_another_range(self, tmp_path: Path, scale: float, input_range: Any) -> None:
        write_tf1_hub(tmp_path, scale=scale)
        variant = tiny_variant(input_range=input_range)
        with pytest.raises(RunError, match="wants another input range") as raised:
            modules.describe(modules.load(str(tmp_path), variant), variant)
        assert str(tmp_path) in str(raised.value)

    def test_accepts_a_module_that_leaves_its_input_as_it_is(self, tmp_path: Path) -> None:
        write_tf2(tmp_path, features_of)
        variant = tiny_variant(format="tf2", outputs=("features",), input_range=(0.0, 255.0))
        assert modules.check_input_range(modules.load(str(tmp_path), variant), variant)[1] == (255, 255, 255)

    def test_refuses_a_module_without_a_convolution(self, tmp_path: Path) -> None:
        write_tf2(tmp_path, lambda inputs, kernel: tf.reduce_mean(inputs, [1, 2]) + kernel[0, 0, 0, 0])
        variant = tiny_variant(format="tf2", outputs=("features",), n_features=(3,))
        module = modules.load(str(tmp_path), variant)
        with pytest.raises(RunError, match="no convolution follows its input"):
            modules.describe(module, variant)


class TestDigest:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        (tmp_path / "module" / "variables").mkdir(parents=True)
        (tmp_path / "module" / "saved_model.pb").write_bytes(b"graph")
        (tmp_path / "module" / "variables" / "variables.index").write_bytes(b"index")
        return tmp_path / "module"

    def test_is_that_of_a_copy(self, directory: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(directory, tmp_path / "copy")
        assert modules.digest(str(copy)) == modules.digest(str(directory))

    def test_changes_with_a_byte(self, directory: Path) -> None:
        before = modules.digest(str(directory))
        (directory / "variables" / "variables.index").write_bytes(b"Index")
        assert modules.digest(str(directory)) != before

    def test_changes_with_a_name(self, directory: Path) -> None:
        before = modules.digest(str(directory))
        (directory / "saved_model.pb").rename(directory / "saved_model.pbtxt")
        assert modules.digest(str(directory)) != before

    def test_of_nothing_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="holds no files"):
            modules.digest(str(tmp_path))


def test_a_description_says_what_was_found_and_survives_json(tmp_path: Path) -> None:
    write_tf1_hub(tmp_path)
    description = modules.describe(modules.load(str(tmp_path), tiny_variant()), tiny_variant())
    assert (description.n_classes, description.n_features, description.size) == (
        N_CLASSES,
        N_FEATURES,
        (32, 33),
    )
    assert description.format == "tf1-hub"
    assert not description.random_weights
    assert description.sha256 == modules.digest(str(tmp_path))
    np.testing.assert_allclose(description.input_at_low, -MEAN / STDDEV, rtol=1e-5)
    np.testing.assert_allclose(description.input_at_high, (1 - MEAN) / STDDEV, rtol=1e-5)
    assert modules.Description.from_json(json.loads(json.dumps(description.to_json()))) == description

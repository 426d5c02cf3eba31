"""The optimised graph of a module: the same scores, or the module as it was loaded."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipelines import model_dir
from tests.tiny_modules import (
    TF2_FEATURES,
    features_of,
    normalised_module,
    random_module,
    tiny_variant,
    write_tf1_hub,
    write_tf2,
)
from transforms import devices, folding, graph_files, graphs, modules, random_weights
from transforms.fingerprints import VariantRun
from transforms.probe import probe, relative_l2
from transforms.variants import Variant, find

TF1 = "google/efficientnet/b0/classification/1"
KERAS = "tensorflow/efficientnet/b0/classification/1"
V2 = "google/imagenet/efficientnet_v2_imagenet1k_b0/feature_vector/2"
FOLDED = {TF1: 49, KERAS: 49, V2: 59}
MISSION = {
    "google/efficientnet/b5/feature-vector/1": 116,
    "google/efficientnet/b4/classification/1": 96,
    "google/imagenet/efficientnet_v2_imagenet21k_ft1k_m/feature_vector/1": 157,
    "tensorflow/efficientnet/b3/classification/1": 78,
}


def unit(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 255


@pytest.fixture(scope="module", params=FOLDED)
def small(
    request: pytest.FixtureRequest, small_modules: str
) -> tuple[modules.Module, Variant, graphs.Optimised]:
    """A small module of each format, and its graph as `pull` kept it."""
    variant = find(request.param)
    module = modules.load(model_dir.module_path(variant, small_modules), variant)
    optimised = graph_files.read(model_dir.graph_path(variant, small_modules), modules.digest(module.path))
    assert optimised is not None
    return module, variant, optimised


def test_a_module_gives_the_same_graph_whatever_was_loaded_before(tiny_run: VariantRun) -> None:
    # Its swish has a gradient, which TensorFlow numbers.
    module = modules.load(tiny_run.module_path, tiny_run.variant)
    again = modules.load(tiny_run.module_path, tiny_run.variant)
    one, other = (graphs.optimise(each, tiny_run.variant, "0").graph for each in (module, again))
    assert one == other


@pytest.fixture
def exactly():
    """Float32 throughout, whatever an earlier test told this process."""
    devices.set_precision("exact")


@pytest.mark.usefixtures("exactly")
class TestSmallModules:
    def test_are_folded(self, small: Any) -> None:
        module, variant, optimised = small
        facts = optimised.facts
        assert (facts.form, facts.folded, facts.reason) == ("folded", FOLDED[variant.name], None)
        assert 0 < facts.difference <= 1e-5
        assert not any(node.op.startswith("FusedBatchNorm") for node in optimised.graph.node)
        assert (facts.tensorflow, facts.size) == (tf.__version__, 224)
        assert facts.module_sha256 == modules.digest(module.path)

    @pytest.mark.parametrize("n", [1, 3])
    def test_give_the_scores_of_the_loaded_module(self, small: Any, n: int) -> None:
        module, variant, optimised = small
        images = unit(probe(variant, 3)[:n])
        expected = module.function(images)
        got = graphs.function(optimised, variant, "exact")(tf.constant(images))
        assert set(got) == set(expected) == set(variant.outputs)
        for name in expected:
            assert got[name].dtype == tf.float32
            assert relative_l2(np.asarray(got[name]), np.asarray(expected[name])) <= 1e-5

    def test_take_the_bytes_of_the_images_too(self, small: Any) -> None:
        module, variant, optimised = small
        pixels = probe(variant, 2)
        expected = graphs.function(optimised, variant, "exact")(tf.constant(unit(pixels)))
        loaded = module.function(unit(pixels))
        for name, values in graphs.function(optimised, variant, "fast")(tf.constant(pixels)).items():
            assert relative_l2(np.asarray(values), np.asarray(expected[name])) <= 1e-6
        for name, values in graphs.loaded_function(module, variant, "fast")(tf.constant(pixels)).items():
            assert relative_l2(np.asarray(values), np.asarray(loaded[name])) <= 1e-6

    def test_are_fused(self, small: Any) -> None:
        _, _, optimised = small
        nodes = optimised.graph.node
        images = optimised.facts.input.removesuffix(":0")
        readers = [node.op for node in nodes if images in (name.removesuffix(":0") for name in node.input)]
        # Of V1's mean and deviation, as of V2's range, one addition is left.
        assert readers == ["AddV2"]
        assert not [node.name for node in nodes if node.op == "Pad"]

    def test_know_their_sizes(self, small: Any) -> None:
        _, variant, optimised = small
        # 112 x 112, 96 channels padded by one in V1's second block, 32 in V2's stem.
        expected = 4 * (112 * 112 * 32 if variant.name == V2 else 113 * 113 * 96)
        assert optimised.facts.activation_bytes == expected
        assert optimised.facts.weights_bytes == pytest.approx(
            4e6 * {TF1: 5.33, KERAS: 5.33, V2: 5.92}[variant.name], rel=0.02
        )


@pytest.mark.full
@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize(("name", "count"), MISSION.items())
def test_full_size_modules_are_folded(tmp_path: Path, name: str, count: int) -> None:
    variant = find(name)
    random_weights.write(variant, str(tmp_path / "module"))
    module = modules.load(str(tmp_path / "module"), variant)
    optimised = graphs.optimise(module, variant, "0")
    facts = optimised.facts
    print(name, facts)
    assert (facts.form, facts.folded) == ("folded", count)
    assert facts.difference <= 1e-5
    images = unit(probe(variant, 1))
    expected = module.function(images)
    for output, values in graphs.function(optimised, variant, "exact")(tf.constant(images)).items():
        assert relative_l2(np.asarray(values), np.asarray(expected[output])) <= 1e-5


@pytest.mark.usefixtures("exactly")
class TestFallback:
    def test_what_folding_makes_wrong_stays_unfolded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module, variant = normalised_module(tmp_path)
        assert graphs.optimise(module, variant, "0").facts.form == "folded"
        fold = folding.fold

        def wrong(graph: Any, outputs: Any) -> tuple[Any, int]:
            folded, count = fold(graph, outputs)
            for node in folded.node:
                if node.name.endswith("folded_bias"):
                    values = tf.make_ndarray(node.attr["value"].tensor) * np.float32(1.0001)
                    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values))
            return folded, count

        monkeypatch.setattr(folding, "fold", wrong)
        optimised = graphs.optimise(module, variant, "0")
        assert (optimised.facts.form, optimised.facts.folded) == ("frozen", 0)
        assert optimised.facts.reason.startswith("folded, its scores differ by ")
        assert optimised.facts.difference <= 1e-5
        images = unit(probe(variant, 2))
        got = graphs.function(optimised, variant, "exact")(tf.constant(images))
        np.testing.assert_allclose(got["features"], module.function(images)["features"], rtol=1e-5)

    def test_what_cannot_be_imported_stays_unfolded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module, variant = normalised_module(tmp_path)
        monkeypatch.setattr(folding, "fold", lambda graph, _: (type(graph)(), 1))
        facts = graphs.optimise(module, variant, "0").facts
        assert (facts.form, facts.folded) == ("frozen", 0)
        assert facts.reason.startswith("cannot run folded: ")

    def test_a_graph_without_batch_normalisation_is_frozen(self, tmp_path: Path) -> None:
        write_tf1_hub(tmp_path)
        variant = tiny_variant(input_range=(0.0, 1.0))
        module = modules.load(str(tmp_path), variant)
        optimised = graphs.optimise(module, variant, "0")
        assert (optimised.facts.form, optimised.facts.folded, optimised.facts.reason) == ("frozen", 0, None)
        assert not any("Read" in node.op for node in optimised.graph.node)

    def test_a_module_with_a_state_runs_as_loaded(self, tmp_path: Path) -> None:
        module, variant = random_module(tmp_path)
        optimised = graphs.optimise(module, variant, "0")
        assert (optimised.graph, optimised.facts.form) == (None, "loaded")
        assert optimised.facts.reason == "cannot be frozen: it holds RandomUniform"
        assert optimised.facts.activation_bytes >= 4 * 32 * 32 * 3

    def test_a_module_that_freezing_fails_on_runs_as_loaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_tf1_hub(tmp_path)
        module = modules.load(str(tmp_path), tiny_variant())

        def fail(function: Any) -> Any:
            raise tf.errors.InvalidArgumentError(None, None, "no such luck\nand a trace")

        monkeypatch.setattr(graphs, "convert_variables_to_constants_v2", fail)
        facts = graphs.optimise(module, tiny_variant(), "0").facts
        assert (facts.form, facts.reason) == ("loaded", "cannot be frozen: no such luck")
        assert facts.weights_bytes == 4 * 3 * 3 * 3 * 5

    def test_scores_that_are_no_numbers_run_as_loaded(self, tmp_path: Path) -> None:
        write_tf2(tmp_path, lambda inputs, kernel: tf.math.log(features_of(inputs, -tf.abs(kernel))))
        module = modules.load(str(tmp_path), TF2_FEATURES)
        facts = graphs.optimise(module, TF2_FEATURES, "0").facts
        assert (facts.form, facts.reason) == ("loaded", "frozen, its scores differ by nan (relative L2)")


def test_the_check_is_exact_in_a_process_that_computes_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, variant = normalised_module(tmp_path)
    seen = []
    monkeypatch.setattr(graphs, "relative_l2", lambda *_: seen.append(options()) or 0.0)

    def options() -> tuple[bool, Any]:
        options = tf.config.optimizer.get_experimental_options()
        names = ("auto_mixed_precision", "auto_mixed_precision_onednn_bfloat16")
        return tf.config.experimental.tensor_float_32_execution_enabled(), [
            bool(options.get(n)) for n in names
        ]

    devices.set_precision("fast")
    before = options()
    try:
        graphs.optimise(module, variant, "0")
        assert options() == before != (False, [False, False])
    finally:
        devices.set_precision("exact")
    assert seen == [(False, [False, False])]


class TestFunction:
    def test_is_one_trace_for_every_batch_size(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        module, variant = normalised_module(tmp_path)
        optimised = graphs.optimise(module, variant, "0")
        imports = []
        original = tf.graph_util.import_graph_def
        monkeypatch.setattr(
            tf.graph_util, "import_graph_def", lambda *a, **k: imports.append(a) or original(*a, **k)
        )
        function = graphs.function(optimised, variant, "exact")
        for n in (1, 2, 5):
            assert function(tf.zeros([n, 32, 32, 3]))["features"].shape == (n, 5)
        assert len(imports) == 1

    @pytest.mark.parametrize("precision", ["exact", "fast"])
    def test_gives_the_module_the_range_that_it_wants(self, tmp_path: Path, precision: str) -> None:
        write_tf1_hub(tmp_path, scale=1 / 255)
        variant = tiny_variant(input_range=(0.0, 255.0))
        module = modules.load(str(tmp_path), variant)
        optimised = graphs.optimise(module, variant, "0")
        pixels = probe(variant, 2)
        batch = tf.constant(pixels if precision == "fast" else unit(pixels))
        expected = module.function(unit(pixels))
        for function in (
            graphs.function(optimised, variant, precision),
            graphs.loaded_function(module, variant, precision),
        ):
            for name, values in function(batch).items():
                np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5)

    def test_of_a_loaded_module_keeps_its_variables_alive(self, tmp_path: Path) -> None:
        write_tf1_hub(tmp_path)
        variant = tiny_variant()
        images = unit(probe(variant, 2))
        module = modules.load(str(tmp_path), variant)
        expected = module.function(images)["logits"]
        function = graphs.loaded_function(module, variant, "exact")
        del module
        gc.collect()
        np.testing.assert_allclose(function(tf.constant(images))["logits"], expected, rtol=1e-5)


def test_freezing_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_tf1_hub(tmp_path)
    module = modules.load(str(tmp_path), tiny_variant())
    capfd.readouterr()
    graphs.optimise(module, tiny_variant(), "0")
    output, errors = capfd.readouterr()
    assert output == ""
    assert "serializing" not in errors

"""The pipeline's scores equal the modules called directly on the published preprocessing, in the true formats."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
import tf_keras

from tests import bad, dataset, photos, reference
from transforms.variants import Variant, find

Scores = dict[str, npt.NDArray[np.float32]]

MISSION = {
    "google/efficientnet/b5/feature-vector/1": {"features": 2048},
    "google/efficientnet/b4/classification/1": {"logits": 1000, "features": 1792},
    "tensorflow/efficientnet/b3/classification/1": {"logits": 1000, "features": 1536},
    "google/imagenet/efficientnet_v2_imagenet21k_ft1k_m/feature_vector/1": {"features": 1280},
}
SMALL = {
    "google/efficientnet/b0/classification/1": {"logits": 1000, "features": 1280},
    "tensorflow/efficientnet/b0/classification/1": {"logits": 1000, "features": 1280},
    "google/imagenet/efficientnet_v2_imagenet1k_b0/feature_vector/2": {"features": 1280},
}


def tf1_hub(path: str, images: Any) -> Scores:
    """What each signature of a TF1 module gives when it is called by itself."""
    signatures = tf.saved_model.load(path, tags=[]).signatures
    names = {"logits": "image_classification", "features": "image_feature_vector"}
    return {
        output: signatures[name](images=images)["default"].numpy()
        for output, name in names.items()
        if name in signatures
    }


def tf2_keras(path: str, images: Any) -> Scores:
    """The layers of a classifier as tf_keras, which wrote it, loads them."""
    model = tf_keras.models.load_model(path, compile=False)
    outputs = {"logits": model.get_layer("logits").output, "features": model.get_layer("top_dropout").input}
    return {name: value.numpy() for name, value in tf_keras.Model(model.input, outputs)(images).items()}


def tf2_v2(path: str, images: Any) -> Scores:
    """What the one signature of a V2 feature vector gives."""
    return {
        "features": tf.saved_model.load(path).signatures["serving_default"](inputs=images)["output_0"].numpy()
    }


def published(variant: Variant) -> tuple[Callable[[bytes, int], Any], Callable[[str, Any], Scores]]:
    """The reference's preprocessing and the direct call for a variant."""
    if variant.name.startswith("tensorflow/"):
        return reference.v1_tensorflow, tf2_keras
    if "efficientnet_v2" in variant.name:
        return (reference.v2_b if variant.resize == "center_crop_bicubic" else reference.v2), tf2_v2
    return reference.v1_google, tf1_hub


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 photographs of odd sizes and three bad images."""
    folder = tmp_path_factory.mktemp("odd")
    random = np.random.default_rng(7)
    for number in range(24):
        height, width = (int(side) for side in random.integers(90, 420, 2) * 2 + 1)
        data = photos.jpeg(photos.scene(height, width, seed=number), quality=int(random.integers(60, 96)))
        (folder / f"photo-{number:02d}.jpg").write_bytes(data)
    for number, name in ((3, "cut.jpg"), (11, "text.jpg"), (19, "empty.jpg")):
        bad.write(folder, name, number)
    return folder


def check(out: Path, models: str, widths: dict[str, dict[str, int]]) -> None:
    """Every variant's rows against the reference."""
    for name, outputs in widths.items():
        variant = find(name)
        rows = dataset.rows(out / f"variant={variant.directory}")
        preprocess, call = published(variant)
        uris = rows.column("uri").to_pylist()
        images = np.stack([preprocess(Path(uri).read_bytes(), variant.size) for uri in uris])
        expected = call(os.path.join(models, variant.directory), tf.constant(images))
        assert (
            set(outputs)
            == set(expected) & set(rows.column_names)
            == {"logits", "features"} & set(rows.column_names)
        )
        for output, width in outputs.items():
            scores = np.array(rows.column(output).to_pylist(), np.float32)
            assert scores.shape == (len(uris), width)
            assert relative(scores, expected[output]) < 1e-5
            # The images differ, so that rows in the wrong order would not pass.
            assert relative(np.roll(scores, 1, axis=0), expected[output]) > 1e-3


def relative(scores: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """The largest relative L2 difference of any row."""
    differences = np.linalg.norm(scores - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return float(differences.max())


@pytest.mark.parametrize(
    "batch_size", [7, pytest.param(1, marks=pytest.mark.full), pytest.param(32, marks=pytest.mark.full)]
)
def test_small_modules_of_every_format_equal_the_reference(
    pixelbeam, tmp_path: Path, odd: Path, small_modules: str, batch_size: int
) -> None:
    out = tmp_path / "out"
    options = ["--images-per-unit", 10, "--batch-size", batch_size, "--max-failure-ratio", 0.2]
    code, output, _ = pixelbeam("run", "--input", odd, "--output", out, "--variant", *SMALL, *options)
    assert code == 0
    assert output.count("RANDOM WEIGHTS, the scores mean nothing") == len(SMALL)
    dataset.assert_conserved(out)
    check(out, small_modules, SMALL)
    assert pixelbeam("verify", out, "--deep")[0] == 0


def run_full_size(pixelbeam: Any, out: Path, folder: Path, models: str, names: list[str]) -> None:
    """Pull, run, verify and compare full-size modules on 24 photographs."""
    code, output, _ = pixelbeam("pull", "--random-weights", "--variant", *names)
    assert (code, output.count("RANDOM WEIGHTS")) == (0, len(names))
    options = ["--images-per-unit", 16, "--max-failure-ratio", 0.2]
    assert pixelbeam("run", "--input", folder, "--output", out, "--variant", *names, *options)[0] == 0
    code, output, _ = pixelbeam("verify", out, "--deep")
    assert (code, output.count("24 rows + 3 failures of 27 images")) == (0, len(names))
    check(out, models, {name: MISSION[name] for name in names})


def test_a_full_size_module_of_each_format(pixelbeam, tmp_path: Path, odd: Path, models: str) -> None:
    names = ["google/efficientnet/b4/classification/1", "tensorflow/efficientnet/b3/classification/1"]
    run_full_size(pixelbeam, tmp_path / "out", odd, models, names)


@pytest.mark.full
def test_the_four_modules_in_one_run(pixelbeam, tmp_path: Path, odd: Path, models: str) -> None:
    run_full_size(pixelbeam, tmp_path / "out", odd, models, list(MISSION))

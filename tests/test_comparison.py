"""How far `fast` is from `exact`: measured in a process of its own, kept, refused where it is too far."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipelines import model_dir
from tests.tiny_modules import features_of, tiny_variant, write_tf1_hub, write_tf2
from transforms import comparison, devices, graph_files, graphs, modules
from transforms.comparison import Comparison
from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.variants import find

B0 = "google/efficientnet/b0/classification/1"
FEATURES = tiny_variant(format="tf2", outputs=("features",), n_classes=())
GOOD = Comparison("cpu", {"features": 0.998}, {"features": 0.999})


def run_of(folder: Path, variant: Any, module: Path, graph: bool = True) -> VariantRun:
    """A variant as a fast run does it, its graph in `folder`."""
    path = str(folder / f"{variant.directory}.graph")
    sha256 = modules.digest(str(module))
    if graph:
        graph_files.keep(path, graphs.optimise(modules.load(str(module), variant), variant, sha256))
    return VariantRun(variant, str(module), sha256, path, None, 5, "fast", None, random_weights=False)


@pytest.fixture
def tiny(tmp_path: Path) -> VariantRun:
    (tmp_path / "module").mkdir()
    write_tf1_hub(tmp_path / "module")
    return run_of(tmp_path, tiny_variant(), tmp_path / "module")


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The jobs that would have been given to a child, each answered with `GOOD`."""
    jobs: list[Any] = []
    monkeypatch.setattr(comparison, "compare", lambda *job: jobs.append(job) or GOOD)
    return jobs


def kept(run: VariantRun) -> Path:
    return Path(comparison.kept_path(run.graph_path, devices.kind()))


def test_b0_is_close_and_the_comparison_is_kept(
    tmp_path: Path, small_modules: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = find(B0)
    module = Path(model_dir.module_path(variant, small_modules))
    run = run_of(tmp_path, variant, module, graph=False)
    os.symlink(model_dir.graph_path(variant, small_modules), run.graph_path)
    options = tf.config.optimizer.get_experimental_options()
    found = comparison.check(run)
    assert tf.config.optimizer.get_experimental_options() == options
    assert found.device == devices.kind()
    assert set(found.smallest) == set(found.mean) == {"logits", "features"}
    for name, mean in found.mean.items():
        assert 0.99 < found.smallest[name] <= mean <= 1
    assert kept(run).name == f"google-efficientnet-b0-classification-1.fast-{devices.kind()}.json"
    monkeypatch.setattr(comparison, "compare", None)
    assert comparison.check(run) == found


@pytest.mark.parametrize("onednn", ["1", "0"])
def test_what_16_bits_cannot_tell_apart_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, onednn: str
) -> None:
    """Where TensorFlow has no 16-bit arithmetic, as on older CPUs or without oneDNN, `fast` is as good as `exact`."""

    def call(inputs: Any, kernel: Any) -> Any:
        # The pixels are a 2000th of what the convolution makes, and bfloat16 keeps 8 bits.
        large = tf.nn.conv2d(inputs * 2 - 1 + 2000, tf.abs(kernel), 2, "SAME")
        none = tf.nn.conv2d(tf.zeros_like(inputs) + 2000, tf.abs(kernel), 2, "SAME")
        return tf.reduce_mean(large - none, [1, 2])

    write_tf2(tmp_path / "module", call)
    run = run_of(tmp_path, FEATURES, tmp_path / "module")
    # Read by the child, which computes.
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", onednn)
    refused, smallest = "", 0.0
    try:
        smallest = comparison.check(run).smallest["features"]
    except RunError as error:
        refused = str(error)
    line = r"tests/tiny/1: .* features .* mean cosine .* use --precision exact"
    assert smallest > 0.999999 or re.fullmatch(line, refused)
    assert not refused or onednn == "1" or devices.kind() == "gpu"
    assert kept(run).exists()


def test_a_module_without_a_graph_is_compared_as_it_was_loaded(tmp_path: Path) -> None:
    def call(inputs: Any, kernel: Any) -> Any:
        features = features_of(inputs * 2 - 1, kernel)
        return features + tf.maximum(0.0, tf.random.uniform(tf.shape(features)) - 2)

    write_tf2(tmp_path / "module", call)
    run = run_of(tmp_path, FEATURES, tmp_path / "module")
    assert graph_files.read(run.graph_path, run.module_sha256).graph is None
    found = comparison.compare(run.graph_path, run.module_path, FEATURES, run.module_sha256)
    assert 0.99 < found.mean["features"] <= 1


def test_a_child_that_fails_is_one_clear_line(tmp_path: Path, tiny: VariantRun) -> None:
    gone = dataclasses.replace(
        tiny, module_path=str(tmp_path / "gone"), graph_path=str(tmp_path / "no.graph")
    )
    with pytest.raises(RunError, match=r"tests/tiny/1: .*gone: saved_model.pb was looked for") as raised:
        comparison.check(gone)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("use --precision exact")
    assert not kept(gone).exists()


def test_what_libraries_print_does_not_come_between(
    tmp_path: Path, tiny: VariantRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os\natexit.register(os.write, 1, b'goodbye')\natexit.register(print, 'goodbye')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = comparison.compare(tiny.graph_path, tiny.module_path, tiny.variant, tiny.module_sha256)
    assert found.device == devices.kind()


@pytest.mark.parametrize("where", ["smallest", "mean"])
def test_only_the_mean_is_held_against_it(
    tiny: VariantRun, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    low = dataclasses.replace(GOOD, **{where: {"features": 0.9899}})
    monkeypatch.setattr(comparison, "compare", lambda *_: low)
    if where == "smallest":
        assert comparison.check(tiny) == low
    else:
        with pytest.raises(RunError, match=r"features have a mean cosine of 0\.9899 .* under 0\.99"):
            comparison.check(tiny)


def test_scores_that_are_no_numbers_are_refused(tiny: VariantRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        comparison, "compare", lambda *_: dataclasses.replace(GOOD, mean={"features": math.nan})
    )
    for _ in range(2):
        with pytest.raises(RunError, match="mean cosine of nan"):
            comparison.check(tiny)


def test_it_is_made_once(tiny: VariantRun, compared: list[Any]) -> None:
    assert comparison.check(tiny) == comparison.check(tiny) == GOOD
    assert compared == [(tiny.graph_path, tiny.module_path, tiny.variant, tiny.module_sha256)]
    assert [path for path in os.listdir(kept(tiny).parent) if "fast" in path] == [kept(tiny).name]


def change(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text())
    content["key"] |= fields
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text(""),
        lambda path: path.write_text(path.read_text()[:-9]),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text("{}"),
        lambda path: path.write_text(path.read_text().replace("0.999", '"a"')),
        lambda path: path.write_text(path.read_text().replace('"mean"', '"average"')),
        lambda path: change(path, tensorflow="2.20.0"),
        lambda path: change(path, module="other"),
        lambda path: change(path, format=comparison.FORMAT + 1),
    ],
)
def test_broken_or_stale_it_is_made_anew(tiny: VariantRun, compared: list[Any], spoil: Any) -> None:
    comparison.check(tiny)
    spoil(kept(tiny))
    assert comparison.check(tiny) == GOOD
    assert len(compared) == 2
    assert comparison.check(tiny) == GOOD
    assert len(compared) == 2


def test_where_it_cannot_be_kept_it_is_used_all_the_same(tiny: VariantRun, compared: list[Any]) -> None:
    nowhere = dataclasses.replace(tiny, graph_path="/proc/no/such.graph")
    assert comparison.check(nowhere) == comparison.check(nowhere) == GOOD
    assert len(compared) == 2


def test_cosines() -> None:
    one = np.array([[1, 0], [1, 1], [0, 0], [0, 0], [2, 0], [np.nan, 1]], np.float32)
    other = np.array([[3, 0], [1, 0], [0, 0], [1, 0], [-2, 0], [1, 1]], np.float32)
    expected = [1, math.sqrt(0.5), 1, 0, -1, math.nan]
    np.testing.assert_allclose(comparison._cosines(one, other), expected, rtol=1e-6)

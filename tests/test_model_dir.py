"""Keeping modules: fetched through tensorflow-hub, checked, described, marked where random."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import model_dir
from pipelines.commands import pull
from pipelines.config import RunConfig
from tests import tiny
from tests.hub import variant_at
from transforms import graph_files, graphs, modules
from transforms.errors import RunError
from transforms.variants import Variant, find

B0 = "google/imagenet/efficientnet_v2_imagenet1k_b0/feature_vector/2"


def test_a_module_is_fetched_checked_and_kept(tmp_path: Path, hub: str, pixelbeam, tiny_toml: str) -> None:
    toml, variant = variant_at(tmp_path / "mine", f"{hub}/{tiny.NAME}")
    code, output, _ = pixelbeam("pull", "--variant", toml, "--model-dir", f"file://{tmp_path}/models")
    assert code == 0
    assert "acme/tiny/classification/1: 5 classes, 4 features" in output
    kept = tmp_path / "models" / variant.directory
    assert modules.digest(str(kept)) == modules.digest(os.path.join(os.path.dirname(tiny_toml), "module"))
    description = json.loads((tmp_path / "models" / f"{variant.directory}.json").read_text())
    assert (description["n_classes"], description["n_features"]) == (tiny.CLASSES, tiny.FEATURES)
    assert description["random_weights"] is False


def test_a_run_fetches_what_is_missing(tmp_path: Path, hub: str, pixelbeam, photographs: Path) -> None:
    toml, variant = variant_at(tmp_path / "mine", f"{hub}/{tiny.NAME}")
    options = ["--output", tmp_path / "out", "--model-dir", tmp_path / "models"]
    code, _, errors = pixelbeam("run", "--input", photographs, "--variant", toml, *options)
    assert code == 0
    assert f"fetching {variant.name} from {hub}" in errors


def test_a_module_that_is_there_is_not_fetched_again(tmp_path: Path, hub: str, pixelbeam) -> None:
    toml, variant = variant_at(tmp_path / "mine", f"{hub}/{tiny.NAME}")
    pixelbeam("pull", "--variant", toml, "--model-dir", tmp_path / "models")
    path = tmp_path / "models" / f"{variant.directory}.json"
    before = path.stat().st_mtime_ns
    shutil.rmtree(tmp_path / "cache")
    toml, _ = variant_at(tmp_path / "gone", "http://127.0.0.1:9/acme/tiny/classification/1")
    assert pixelbeam("pull", "--variant", toml, "--model-dir", tmp_path / "models")[0] == 0
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        ("http://127.0.0.1:9/nothing/listens", ": [Errno 111] Connection refused; check the network"),
        ("{hub}/acme/unknown/1", "/acme/unknown/1: HTTP Error 404: "),
    ],
)
def test_what_cannot_be_fetched_is_one_clear_line(
    tmp_path: Path, hub: str, pixelbeam, handle: str, reason: str
) -> None:
    toml, _ = variant_at(tmp_path / "mine", handle.format(hub=hub))
    code, _, errors = pixelbeam("pull", "--variant", toml, "--model-dir", tmp_path / "models")
    assert (code, errors.count("\n")) == (1, 1)
    assert "cannot fetch acme/tiny/classification/1 from http://127.0.0.1" in errors
    assert reason in errors
    assert "--random-weights" in errors
    assert os.listdir(tmp_path / "models") == []


@pytest.mark.parametrize("what", ["nothing", "garbage", "no signature"])
@pytest.mark.parametrize("command", ["pull", "run"])
def test_a_broken_module_is_one_clear_line(
    tmp_path: Path, pixelbeam, photographs: Path, what: str, command: str
) -> None:
    toml, variant = variant_at(tmp_path / "mine", "module")
    module = Path(variant.handle)
    if what == "garbage":
        (module / "saved_model.pb").write_bytes(b"not a model")
    elif what == "no signature":
        import tensorflow as tf

        shutil.rmtree(module)
        tf.saved_model.save(tf.Module(), str(module))
    options = ["--model-dir", tmp_path / "models", "--variant", toml]
    if command == "run":
        options += ["--input", photographs, "--output", tmp_path / "out"]
    code, _, errors = pixelbeam(command, *options)
    assert (code, errors.count("\n")) == (1, 1)
    assert str(module) in errors
    assert not (tmp_path / "out").exists()


def test_random_weights_are_marked_and_give_way_to_the_published_ones(
    tmp_path: Path, small_modules: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = find(B0)
    # The module alone, without the file beside it, as when it was copied to another machine.
    shutil.copytree(Path(small_modules) / variant.directory, tmp_path / variant.directory)
    models = str(tmp_path)
    made = pull.pull(variant, models, random_weights=True)
    assert made.description.random_weights
    before = (tmp_path / f"{variant.directory}.json").stat().st_mtime_ns
    assert pull.pull(variant, models, random_weights=True) == made
    assert (tmp_path / f"{variant.directory}.json").stat().st_mtime_ns == before
    fetched = []
    monkeypatch.setattr(model_dir, "fetch", lambda *arguments: fetched.append(arguments) or made)
    pull.pull(variant, models, random_weights=False)
    assert fetched == [(variant, models)]


def test_a_module_that_changed_is_checked_and_described_anew(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    variant = find(tiny.write_variant(str(tmp_path / "mine")))
    first = model_dir.kept(variant, str(tmp_path / "models"))
    shutil.rmtree(tmp_path / "mine" / "module")
    tiny.write_module(str(tmp_path / "mine" / "module"), seed=1)
    second = model_dir.kept(variant, str(tmp_path / "models"))
    assert first.description.sha256 != second.description.sha256
    shutil.rmtree(tmp_path / "mine" / "module")
    tiny.write_module(str(tmp_path / "mine" / "module"), classes=6)
    with pytest.raises(RunError, match="6"):
        model_dir.kept(variant, str(tmp_path / "models"))


def test_a_module_of_one_s_own_that_is_not_there_is_one_clear_line(tmp_path: Path, pixelbeam) -> None:
    toml, variant = variant_at(tmp_path / "mine", "elsewhere")
    code, _, errors = pixelbeam("pull", "--variant", toml, "--model-dir", tmp_path / "models")
    assert code == 1
    assert errors == f"pixelbeam: {variant.name}: no module at {variant.handle}; correct its handle\n"


def test_class_names_that_do_not_fit_are_refused(
    tmp_path: Path, pixelbeam, photographs: Path, tiny_toml: str
) -> None:
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    options = ["--output", tmp_path / "out", "--variant", tiny_toml, "--class-names", tmp_path / "names.txt"]
    code, _, errors = pixelbeam("run", "--input", photographs, *options)
    assert code == 2
    assert "has 2 class names, the module gives 5 classes" in errors


def pulled(tmp_path: Path) -> tuple[Variant, str, Path]:
    """A tiny module of one's own that was described: the variant, the directory for modules, the kept graph."""
    (tmp_path / "mine").mkdir()
    variant = find(tiny.write_variant(str(tmp_path / "mine")))
    models = str(tmp_path / "models")
    model_dir.kept(variant, models)
    return variant, models, Path(model_dir.graph_path(variant, models))


def test_the_graph_of_a_module_of_one_s_own_is_kept_among_the_modules(tmp_path: Path) -> None:
    variant, models, path = pulled(tmp_path)
    assert sorted(os.listdir(models)) == [f"{variant.directory}.graph", f"{variant.directory}.json"]
    assert sorted(os.listdir(tmp_path / "mine")) == ["module", "tiny.toml"]
    optimised = graph_files.read(str(path), modules.digest(variant.handle))
    assert optimised.facts.form == "frozen"
    config = RunConfig(
        inputs=("x",), output="x", variants=(str(tmp_path / "mine" / "tiny.toml"),), model_dir=models
    )
    (run,) = model_dir.resolve_variants(config)
    assert run.graph_path == str(path)
    assert str(path) not in json.dumps(run.settings)


def test_the_graph_of_a_made_module_is_kept(small_modules: str) -> None:
    variant = find(B0)
    sha256 = modules.digest(model_dir.module_path(variant, small_modules))
    facts = graph_files.read_facts(model_dir.graph_path(variant, small_modules), variant, sha256)
    assert (facts.form, facts.folded) == ("folded", 59)


def test_where_all_is_well_nothing_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant, models, path = pulled(tmp_path)
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(modules, "load", None)
    assert model_dir.kept(variant, models) is not None
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"tensorflow": "2', b'"tensorflow": "1', 1)),
    ],
    ids=["missing", "cut", "stale"],
)
def test_a_graph_that_is_broken_or_stale_is_made_anew_from_one_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], object]
) -> None:
    variant, models, path = pulled(tmp_path)
    sha256 = modules.digest(variant.handle)
    load, loaded = modules.load, []
    monkeypatch.setattr(modules, "load", lambda *a: loaded.append(a) or load(*a))
    spoil(path)
    assert graph_files.read(str(path), sha256) is None
    assert model_dir.kept(variant, models).description.sha256 == sha256
    assert graph_files.read(str(path), sha256) is not None
    assert loaded == [(variant.handle, variant)]


def test_the_graph_of_a_module_that_changed_is_made_anew(tmp_path: Path) -> None:
    variant, models, path = pulled(tmp_path)
    before = path.read_bytes()
    shutil.rmtree(tmp_path / "mine" / "module")
    tiny.write_module(str(tmp_path / "mine" / "module"), seed=1)
    model_dir.kept(variant, models)
    assert path.read_bytes() != before
    assert graph_files.read(str(path), modules.digest(variant.handle)) is not None


def test_fewer_outputs_want_another_graph_and_description(tmp_path: Path) -> None:
    variant, models, path = pulled(tmp_path)
    toml = tmp_path / "mine" / "tiny.toml"
    toml.write_text(toml.read_text().replace('["logits", "features"]', '["logits"]'))
    description = model_dir.kept(find(str(toml)), models).description
    assert (description.n_classes, description.n_features) == (tiny.CLASSES, None)
    assert set(graph_files.read(str(path), modules.digest(variant.handle)).facts.outputs) == {"logits"}


def test_pull_says_what_became_of_the_graph(tmp_path: Path, small_modules: str, pixelbeam) -> None:
    code, output, _ = pixelbeam("pull", "--variant", B0, "--random-weights", "--model-dir", small_modules)
    assert code == 0
    assert "1,280 features, 59 batch norms folded, " in output
    variant, models, path = pulled(tmp_path)
    toml = tmp_path / "mine" / "tiny.toml"
    assert ", frozen, " in pixelbeam("pull", "--variant", toml, "--model-dir", models)[1]
    kept = graph_files.read(str(path), modules.digest(variant.handle))
    facts = dataclasses.replace(kept.facts, form="loaded", reason="it holds RandomUniform")
    graph_files.keep(str(path), graphs.Optimised(None, facts))
    output = pixelbeam("pull", "--variant", toml, "--model-dir", models)[1]
    assert ", as loaded (it holds RandomUniform), " in output

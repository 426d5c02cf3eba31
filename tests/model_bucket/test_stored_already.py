"""Modules that a store holds before the first pull."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import tiny
from tests.gcs_server import GcsServer
from tests.hub import variant_at
from tests.model_bucket.kept import (
    DESCRIPTION,
    FILES,
    LABELS,
    MODELS,
    NAME,
    NOWHERE,
    assert_refused,
    change_description,
    description,
    graph,
)
from transforms import modules
from transforms.variants import find


class TestWhatIsInStoresAlready:
    def test_a_module_that_somebody_put_there_is_kept_where_it_is(
        self, bucket: GcsServer, pixelbeam, run, tiny_toml: str, tmp_path: Path
    ) -> None:
        # Cloud consoles make such an object for a folder.
        bucket.put("models", f"kept/{NAME}/", b"")
        bucket.put_directory(Path(find(tiny_toml).handle), "models", f"kept/{NAME}/")
        toml, variant = variant_at(tmp_path / "mine", NOWHERE)
        before = set(bucket.objects("models"))
        assert_refused(run(toml), "it is not there", toml, tmp_path)
        code, output, _ = pixelbeam("pull", "--variant", toml, "--model-dir", MODELS)
        assert (code, output.endswith(f" s, {MODELS}/{NAME}\n")) == (0, True)
        assert set(bucket.objects("models")) - before == {DESCRIPTION, graph(bucket)}
        first = description(bucket)
        assert run(toml)[0] == 0
        tiny.write_module(str(tmp_path / "other"), seed=1)
        bucket.put_directory(tmp_path / "other", "models", f"kept/{NAME}/")
        shutil.rmtree(tmp_path / "out")
        assert_refused(run(toml), "its files are not those that were pulled", toml, tmp_path)
        assert pixelbeam("pull", "--variant", toml, "--model-dir", MODELS)[0] == 0
        second = description(bucket)
        assert second["sha256"] == modules.digest(str(tmp_path / "other")) != first["sha256"]
        assert variant.directory == NAME

    def test_a_broken_one_is_one_line_that_names_it(
        self, bucket: GcsServer, pixelbeam, tmp_path: Path
    ) -> None:
        bucket.put("models", f"kept/{NAME}/saved_model.pb", b"not a model")
        toml, _ = variant_at(tmp_path / "mine", NOWHERE)
        code, _, errors = pixelbeam("pull", "--variant", toml, "--model-dir", MODELS)
        assert (code, errors.count("\n")) == (1, 1)
        assert errors.startswith(
            f"pixelbeam: {MODELS}/{NAME}/saved_model.pb: cannot be read, pull the module again"
        )
        assert DESCRIPTION not in bucket.objects("models")

    def test_a_handle_may_be_a_folder_of_a_bucket(
        self, bucket: GcsServer, pixelbeam, run, tiny_toml: str, tmp_path: Path
    ) -> None:
        bucket.put_directory(Path(find(tiny_toml).handle), "in", "exported/")
        toml, _ = variant_at(tmp_path / "mine", "gs://in/exported/")
        code, output, _ = pixelbeam("pull", "--variant", toml, "--model-dir", MODELS)
        assert (code, output.endswith(" s, gs://in/exported\n")) == (0, True)
        assert set(bucket.objects("models")) == {DESCRIPTION, graph(bucket), LABELS}
        bucket.reset_counts()
        assert run(toml)[0] == 0
        assert set(bucket.counts.downloads) == {f"models/{name}" for name in bucket.objects("models")}
        bucket.put("in", "exported/saved_model.pb", bucket.get("in", "exported/saved_model.pb"))
        shutil.rmtree(tmp_path / "out")
        assert_refused(run(toml), "its files are not those that were pulled", toml, tmp_path)
        assert pixelbeam("pull", "--variant", toml, "--model-dir", MODELS)[0] == 0
        assert run(toml)[0] == 0

    def test_a_handle_in_a_bucket_is_fetched_into_a_local_directory(
        self, bucket: GcsServer, run, tiny_toml: str, tmp_path: Path
    ) -> None:
        bucket.put_directory(Path(find(tiny_toml).handle), "in", "exported/")
        toml, _ = variant_at(tmp_path / "mine", "gs://in/exported/")
        code, _, errors = run(toml, tmp_path / "models")
        assert (code, "fetching acme/tiny/classification/1 from gs://in/exported" in errors) == (0, True)
        assert modules.digest(str(tmp_path / "models" / NAME)) == modules.digest(find(tiny_toml).handle)

    @pytest.mark.parametrize("models", [MODELS, "{tmp_path}/models"])
    def test_a_handle_without_a_module_is_one_line(
        self, bucket: GcsServer, pixelbeam, tmp_path: Path, models: str
    ) -> None:
        toml, _ = variant_at(tmp_path / "mine", "gs://in/nothing")
        answer = pixelbeam("pull", "--variant", toml, "--model-dir", models.format(tmp_path=tmp_path))
        assert answer == (
            1,
            "",
            f"pixelbeam: {tiny.NAME}: no module at gs://in/nothing; correct its handle\n",
        )

    @pytest.mark.parametrize("damage", [False, True])
    def test_what_was_pulled_once_is_not_fetched_again_for_a_new_graph(
        self, bucket: GcsServer, pixelbeam, hub: str, tmp_path: Path, damage: bool
    ) -> None:
        toml, _ = variant_at(tmp_path / "mine", f"{hub}/{tiny.NAME}")
        assert pixelbeam("pull", "--variant", toml, "--model-dir", MODELS)[0] == 0
        facts = description(bucket)["graph_facts"] | {"tensorflow": "2.20.0"}
        change_description(bucket, graph_facts=facts)
        if damage:
            bucket.delete("models", f"kept/{description(bucket)['module']}/variables/variables.index")
        gone, _ = variant_at(tmp_path / "gone", NOWHERE)
        code, _, errors = pixelbeam("pull", "--variant", gone, "--model-dir", MODELS)
        assert (code, "cannot fetch" in errors) == ((1, True) if damage else (0, False))
        # The hub's copy of it makes the damaged one whole.
        assert pixelbeam("pull", "--variant", toml, "--model-dir", MODELS)[0] == 0
        assert len(bucket.objects("models")) == len(FILES) + 3
        assert description(bucket)["graph_facts"]["tensorflow"] != "2.20.0"

    def test_what_cannot_be_fetched_may_be_put_there(
        self, pulled: GcsServer, pixelbeam, tiny_toml: str, tmp_path: Path
    ) -> None:
        pulled.delete("models", f"kept/{description(pulled)['module']}/saved_model.pb")
        pulled.put_directory(Path(find(tiny_toml).handle), "models", f"kept/{NAME}/")
        gone, _ = variant_at(tmp_path / "gone", NOWHERE)
        code, output, _ = pixelbeam("pull", "--variant", gone, "--model-dir", MODELS)
        assert (code, output.endswith(f" s, {MODELS}/{NAME}\n")) == (0, True)

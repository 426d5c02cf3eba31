"""Runs and plans with modules in a bucket."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipelines import model_dir
from tests import dataset, tiny
from tests.gcs_server import GcsServer
from tests.model_bucket.kept import (
    DESCRIPTION,
    FILES,
    LABELS,
    MODELS,
    NAME,
    UPLOADS,
    assert_refused,
    change_description,
    description,
    graph,
    new_process,
)
from transforms import graphs, modules, storage
from transforms.variants import find


class TestRunning:
    def test_the_rows_are_those_of_a_local_directory_and_workers_read_the_graph_alone(
        self, pulled: GcsServer, run, tiny_toml: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "ImageNetLabels.txt").write_bytes(pulled.get("models", LABELS))
        assert run(tiny_toml, tmp_path / "models", "local")[0] == 0
        pulled.reset_counts()
        new_process(monkeypatch)
        monkeypatch.setattr(modules, "load", None)
        assert run(tiny_toml)[0] == 0
        (there,), (here,) = (dataset.variants(tmp_path / name) for name in ("out", "local"))
        assert dataset.rows(there).equals(dataset.rows(here))
        assert dataset.rows(there).column("top_classes")[0].as_py()[0]["name"].startswith("class ")
        read_once = {f"models/{name}": 1 for name in (DESCRIPTION, LABELS, graph(pulled))}
        assert pulled.counts.downloads == read_once
        assert not UPLOADS & set(pulled.counts.requests)

    def test_the_graph_is_read_once_a_process_and_once_a_machine(
        self, pulled: GcsServer, run, tiny_toml: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert [run(tiny_toml, output=name)[0] for name in ("one", "two")] == [0, 0]
        new_process(monkeypatch)
        assert run(tiny_toml, output="three")[0] == 0
        assert pulled.counts.downloads[f"models/{graph(pulled)}"] == 1

    def test_a_graph_that_changed_after_the_launch_is_one_line_and_nothing_is_committed(
        self, pulled: GcsServer, run, tiny_toml: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolve, name, content = (
            model_dir.resolve_variants,
            graph(pulled),
            pulled.get("models", graph(pulled)),
        )

        def resolve_and_strike(*arguments: object) -> object:
            runs = resolve(*arguments)
            pulled.put("models", name, content[:-1] + b"?")
            return runs

        monkeypatch.setattr(model_dir, "resolve_variants", resolve_and_strike)
        code, _, errors = run(tiny_toml)
        *_, line = errors.splitlines()
        assert code == 1
        assert line.startswith(f"pixelbeam: gs://models/{name}: has the SHA-256 ")
        assert line.endswith("pull the module again, then run the same command again")
        assert dataset.variants(tmp_path / "out") == []
        assert not (tmp_path / "out" / "_failures").exists()

    def test_a_changed_graph_is_told_by_the_launcher_and_mended_by_pull(
        self, pulled: GcsServer, pixelbeam, run, tiny_toml: str, tmp_path: Path
    ) -> None:
        content = pulled.get("models", graph(pulled))
        pulled.put("models", graph(pulled), content[:-1] + b"?")
        assert_refused(run(tiny_toml), "its files are not those that were pulled", tiny_toml, tmp_path)
        assert pulled.counts.downloads == {f"models/{DESCRIPTION}": 1}
        assert pixelbeam("pull", "--variant", tiny_toml, "--model-dir", MODELS)[0] == 0
        assert pulled.get("models", graph(pulled)) == content
        assert run(tiny_toml)[0] == 0

    def test_an_interrupted_pull_is_not_taken_for_a_module(
        self,
        bucket: GcsServer,
        pixelbeam,
        run,
        tiny_toml: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        options = ["--variant", tiny_toml, "--model-dir", MODELS]
        with monkeypatch.context() as patch:
            patch.setattr(storage, "swap", interrupt)
            assert pixelbeam("pull", *options)[0] == 130
        left = bucket.objects("models")
        assert (len(left), DESCRIPTION in left) == (len(FILES) + 2, False)
        assert_refused(run(tiny_toml), "it is not there", tiny_toml, tmp_path)
        assert pixelbeam("pull", *options)[0] == 0
        assert bucket.objects("models") == sorted([*left, DESCRIPTION])
        assert run(tiny_toml)[0] == 0

    @pytest.mark.parametrize("missing", ["graph", "module file"])
    def test_a_module_that_is_not_whole_is_not_used(
        self, pulled: GcsServer, run, tiny_toml: str, tmp_path: Path, missing: str
    ) -> None:
        module = f"kept/{description(pulled)['module']}"
        pulled.delete("models", graph(pulled) if missing == "graph" else f"{module}/saved_model.pb")
        assert_refused(run(tiny_toml), "its files are not those that were pulled", tiny_toml, tmp_path)

    @pytest.mark.parametrize(
        ("fields", "lack"),
        [
            ({"graph_format": 0}, "another version of Pixelbeam pulled it"),
            ({"graph_facts": "2.20.0"}, "it was optimised by TensorFlow 2.20.0, and this is {version}"),
            ({"graph_sha256_": 0}, "its description cannot be read"),
        ],
    )
    def test_a_module_of_no_use_here_is_pulled_anew(
        self, pulled: GcsServer, pixelbeam, run, tiny_toml: str, tmp_path: Path, fields: dict, lack: str
    ) -> None:
        if "graph_facts" in fields:
            fields = {
                "graph_facts": description(pulled)["graph_facts"] | {"tensorflow": fields["graph_facts"]}
            }
        before = description(pulled)
        change_description(pulled, **fields)
        assert_refused(run(tiny_toml), lack.format(version=graphs.tf.__version__), tiny_toml, tmp_path)
        assert pixelbeam("pull", "--variant", tiny_toml, "--model-dir", MODELS)[0] == 0
        assert description(pulled)["sha256"] == before["sha256"]
        assert run(tiny_toml)[0] == 0

    def test_other_outputs_and_a_changed_module_of_one_s_own_want_another_pull(
        self, bucket: GcsServer, pixelbeam, run, own: str, tmp_path: Path
    ) -> None:
        options = ["--variant", own, "--model-dir", MODELS]
        assert pixelbeam("pull", *options)[0] == 0
        Path(own).write_text(Path(own).read_text().replace('["logits", "features"]', '["logits"]'))
        assert_refused(run(own), "it was pulled for another size or other outputs", own, tmp_path)
        assert pixelbeam("pull", *options)[0] == 0
        assert description(bucket)["n_features"] is None
        module = find(own).handle
        shutil.rmtree(module)
        tiny.write_module(module, seed=1)
        assert_refused(run(own), f"it is not the module in {module}", own, tmp_path)
        assert pixelbeam("pull", *options)[0] == 0
        assert run(own)[0] == 0

    def test_a_plan_only_reads(
        self, bucket: GcsServer, pixelbeam, tiny_toml: str, photographs: Path, tmp_path: Path
    ) -> None:
        bucket.put_directory(Path(find(tiny_toml).handle), "models", f"kept/{NAME}/")
        options = ["--variant", tiny_toml, "--model-dir", MODELS]
        plan = ["plan", "--input", photographs, "--output", tmp_path / "out", "--json", *options]
        for is_pulled in (False, True):
            bucket.reset_counts()
            code, output, _ = pixelbeam(*plan)
            assert (code, json.loads(output)["work"][tiny.NAME]["is_pulled"]) == (0, is_pulled)
            assert not UPLOADS & set(bucket.counts.requests)
            pixelbeam("pull", *options)

    def test_a_bucket_that_is_not_there_is_one_line(self, bucket: GcsServer, run, tiny_toml: str) -> None:
        code, output, errors = run(tiny_toml, "gs://nowhere")
        assert (code, output, errors.count("\n")) == (1, "", 1)
        assert errors.endswith(f"; run pixelbeam pull --variant {tiny_toml} --model-dir gs://nowhere\n")

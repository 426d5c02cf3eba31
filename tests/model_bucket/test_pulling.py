"""What `pull` puts into a bucket, alone and beside another."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
import threading
from pathlib import Path

import pytest

from pipelines import model_bucket, model_dir, module_sources
from pipelines.commands import pull
from tests import cloud, tiny
from tests.gcs_server import GcsServer
from tests.hub import variant_at
from tests.model_bucket.kept import (
    DESCRIPTION,
    FILES,
    LABELS,
    MODELS,
    NAME,
    NOWHERE,
    UPLOADS,
    description,
    graph,
)
from transforms import graphs, modules, random_weights, storage
from transforms.random_weights import RANDOM_WEIGHTS_MARK
from transforms.variants import Variant, find


class TestPulling:
    def test_the_module_and_its_graph_come_first_and_last_the_description_with_their_hashes(
        self, bucket: GcsServer, pixelbeam, tiny_toml: str, tmp_path: Path
    ) -> None:
        code, output, _ = pixelbeam("pull", "--variant", tiny_toml, "--model-dir", f"{MODELS}/")
        fields = description(bucket)
        folder = f"{NAME}-{fields['sha256'][:12]}"
        assert code == 0
        assert output.startswith("acme/tiny/classification/1: 5 classes, 4 features, frozen, ")
        assert output.endswith(f" s, {MODELS}/{folder}\n")
        assert (fields["n_classes"], fields["random_weights"], fields["module"]) == (5, False, folder)
        assert fields["graph"] == f"{NAME}-{fields['graph_sha256'][:12]}.graph"
        assert hashlib.sha256(bucket.get("models", graph(bucket))).hexdigest() == fields["graph_sha256"]
        expected = {f"kept/{folder}/{name}" for name in FILES} | {DESCRIPTION, graph(bucket), LABELS}
        objects = cloud.objects(bucket, "models", "")
        assert set(objects) == expected
        assert max(objects, key=lambda name: int(objects[name].generation)) == DESCRIPTION
        home = cloud.bring_home(bucket, tmp_path / "home", f"{MODELS}/{folder}")
        assert modules.digest(str(home)) == modules.digest(find(tiny_toml).handle) == fields["sha256"]

    def test_where_all_is_well_a_second_pull_asks_little_and_loads_and_uploads_nothing(
        self, pulled: GcsServer, pixelbeam, tiny_toml: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = cloud.objects(pulled, "models", "")
        monkeypatch.setattr(modules, "load", None)
        pulled.reset_counts()
        assert pixelbeam("pull", "--variant", tiny_toml, "--model-dir", MODELS)[0] == 0
        counts = pulled.counts
        # The description; the module's files; the graph, and the class names.
        assert counts.requests == {"download": 1, "list": 1, "metadata": 2}
        assert set(counts.downloads) == {f"models/{DESCRIPTION}"}
        assert cloud.objects(pulled, "models", "") == before

    def test_a_module_of_the_hub_goes_to_the_bucket_by_way_of_this_machine(
        self, bucket: GcsServer, pixelbeam, hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TFHUB_CACHE_DIR", MODELS)
        toml, _ = variant_at(tmp_path / "mine", f"{hub}/{tiny.NAME}")
        assert pixelbeam("pull", "--variant", toml, "--model-dir", MODELS)[0] == 0
        assert len(bucket.objects("models")) == len(FILES) + 3
        assert os.environ["TFHUB_CACHE_DIR"] == MODELS

    def test_a_store_that_fails_now_and_then_is_asked_again(
        self, bucket: GcsServer, pixelbeam, run, tiny_toml: str
    ) -> None:
        bucket.set(faults=cloud.every_fault(3, 0.4))
        assert pixelbeam("pull", "--variant", tiny_toml, "--model-dir", MODELS)[0] == 0
        assert len(bucket.objects("models")) == len(FILES) + 3
        assert run(tiny_toml)[0] == 0
        assert sum(bucket.counts.faults.values()) > 5

    def test_a_store_without_conditions_will_do(
        self, bucket: GcsServer, pixelbeam, run, tiny_toml: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module_sources, "LABELS_URL", NOWHERE)
        models = f"memory://{tempfile.gettempdir().replace('/', '-')}/kept"
        for _ in range(2):
            code, output, _ = pixelbeam("pull", "--variant", tiny_toml, "--model-dir", models)
            assert (code, output.count("\n")) == (0, 2)
            monkeypatch.setattr(modules, "load", None)
        assert run(tiny_toml, models)[0] == 0
        assert bucket.counts.requests == {}

    def test_a_bucket_that_is_not_there_is_one_line_before_anything_is_fetched(
        self, bucket: GcsServer, pixelbeam, tmp_path: Path
    ) -> None:
        toml, _ = variant_at(tmp_path / "mine", NOWHERE)
        answer = pixelbeam("pull", "--variant", toml, "--model-dir", "gs://nowhere/models")
        line = (
            "pixelbeam: cannot write gs://nowhere/models: there is no such bucket; make it, or name another\n"
        )
        assert answer == (1, "", line)

    def test_random_weights_are_marked_and_give_way_to_the_published_ones(
        self, bucket: GcsServer, pixelbeam, hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def write(_: Variant, path: str) -> None:
            tiny.write_module(path, seed=7)
            Path(path, RANDOM_WEIGHTS_MARK).touch()

        monkeypatch.setattr(random_weights, "write", write)
        toml, _ = variant_at(tmp_path / "mine", f"{hub}/{tiny.NAME}")
        options = ["--variant", toml, "--model-dir", MODELS]
        code, output, _ = pixelbeam("pull", "--random-weights", *options)
        assert (code, "RANDOM WEIGHTS" in output) == (0, True)
        made = description(bucket)
        assert made["random_weights"]
        assert "RANDOM WEIGHTS" in pixelbeam("pull", "--random-weights", *options)[1]
        assert description(bucket) == made
        for more in ([], ["--random-weights"]):
            code, output, _ = pixelbeam("pull", *more, *options)
            assert (code, "RANDOM WEIGHTS" in output) == (0, False)
        assert not description(bucket)["random_weights"]


class TestTwoAtOnce:
    @pytest.fixture
    def race(self, bucket: GcsServer, own: str, monkeypatch: pytest.MonkeyPatch):
        """Two pulls, the second a step behind: both look before either commits. What each makes is another graph."""
        swap, describe = storage.swap, module_sources.describe
        both, first = threading.Barrier(2), threading.Event()

        def describe_otherwise(path: str, variant: Variant) -> tuple[modules.Description, graphs.Optimised]:
            mine = int(threading.current_thread().name)
            found, optimised = describe(path, variant)
            both.wait()
            facts = dataclasses.replace(optimised.facts, difference=mine * 1e-9)
            return dataclasses.replace(found, random_weights=random[mine]), graphs.Optimised(
                optimised.graph, facts
            )

        def swap_in_turn(*arguments: object) -> bool:
            if threading.current_thread().name == "1":
                first.wait()
            try:
                return swap(*arguments)
            finally:
                first.set()

        random: list[bool] = []

        def race(*random_weights: bool) -> list[module_sources.Kept]:
            random[:] = random_weights
            ended: dict[int, module_sources.Kept] = {}

            def one(number: int) -> None:
                ended[number] = model_dir.adopt(find(own), MODELS)

            threads = [threading.Thread(target=one, args=(n,), name=str(n)) for n in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return [ended[0], ended[1]]

        monkeypatch.setattr(module_sources, "describe", describe_otherwise)
        monkeypatch.setattr(storage, "swap", swap_in_turn)
        return race

    def test_the_second_takes_what_the_first_has_kept(self, bucket: GcsServer, race, run, own: str) -> None:
        first, second = race(False, False)
        assert second == first
        assert description(bucket)["graph_sha256"] == first.graph_sha256
        graphs_there = [name for name in bucket.objects("models") if name.endswith(".graph")]
        assert len(graphs_there) == 2
        assert run(own)[0] == 0

    @pytest.mark.parametrize("random", [(True, False), (False, True)])
    def test_random_weights_do_not_win(self, bucket: GcsServer, race, random: tuple[bool, bool]) -> None:
        kept = race(*random)
        assert not description(bucket)["random_weights"]
        assert [each.description.random_weights for each in kept] == [random[0], False]
        assert description(bucket)["graph_sha256"] == kept[1].graph_sha256

    def test_two_processes_with_the_same_module_both_succeed(
        self, bucket: GcsServer, own: str, tmp_path: Path
    ) -> None:
        arguments = ["pull", "--variant", own, "--model-dir", MODELS]
        processes = [cloud.begin(arguments, tmp_path / str(number)) for number in range(2)]
        assert [cloud.end(process)[0] for process in processes] == [0, 0]
        assert len(bucket.objects("models")) == len(FILES) + 3


def test_what_a_bucket_holds_is_looked_at_without_a_change(pulled: GcsServer, tiny_toml: str) -> None:
    found = model_bucket.look(find(tiny_toml), MODELS)
    assert (found.lack, found.module) == ("", found.kept.module_path)
    assert pull.pull(find(tiny_toml), MODELS, random_weights=False) == found.kept
    assert not UPLOADS & set(pulled.counts.requests)

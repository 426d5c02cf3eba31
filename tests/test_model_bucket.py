"""Modules kept in a bucket: pulled once, named by their hashes, read by runs and never written by them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import model_bucket, model_dir, module_sources
from pipelines.commands import pull
from tests import cloud, dataset, tiny
from tests.gcs_server import GcsServer
from tests.hub import variant_at
from transforms import graphs, modules, random_weights, runtime, storage
from transforms.random_weights import RANDOM_WEIGHTS_MARK
from transforms.variants import Variant, find

MODELS = "gs://models/kept"
NAME = "acme-tiny-classification-1"
DESCRIPTION = f"kept/{NAME}.json"
LABELS = "kept/ImageNetLabels.txt"
UPLOADS = {"upload", "upload_start", "upload_chunk"}
FILES = {
    *("fingerprint.pb", "keras_metadata.pb", "saved_model.pb"),
    *("variables/variables.data-00000-of-00001", "variables/variables.index"),
}
NOWHERE = "http://127.0.0.1:9/acme/tiny/classification/1"


@pytest.fixture
def bucket(gcs: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GcsServer:
    """The server with a bucket `models`, and a machine and a process that have had no model yet."""
    gcs.create_bucket("models")
    gcs.put("models", LABELS, "".join(f"class {number}\n" for number in range(tiny.CLASSES)).encode())
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(runtime, "_cache", {})
    monkeypatch.setattr(model_dir, "IMAGENET_WIDTHS", (tiny.CLASSES,))
    monkeypatch.setattr("transforms.patience.LONGEST_WAIT_SECONDS", 0.05)
    return gcs


@pytest.fixture
def run(pixelbeam, photographs: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs a variant over the photographs."""

    def run(toml: object, models: object = MODELS, output: str = "out") -> tuple[int, str, str]:
        options = ["--output", tmp_path / output, "--variant", toml, "--model-dir", models]
        return pixelbeam("run", "--input", photographs, *options)

    return run


@pytest.fixture
def pulled(bucket: GcsServer, pixelbeam, tiny_toml: str) -> GcsServer:
    """The server with the tiny module kept in the bucket; what was asked for that is not counted."""
    assert pixelbeam("pull", "--variant", tiny_toml, "--model-dir", MODELS)[0] == 0
    bucket.reset_counts()
    return bucket


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A TOML file of a tiny module that a test may change."""
    (tmp_path / "own").mkdir()
    return tiny.write_variant(str(tmp_path / "own"))


def description(gcs: GcsServer) -> dict[str, object]:
    return json.loads(gcs.get("models", DESCRIPTION))


def graph(gcs: GcsServer) -> str:
    """Name of the object that is the graph of the description."""
    return f"kept/{description(gcs)['graph']}"


def change_description(gcs: GcsServer, **fields: object) -> None:
    gcs.put("models", DESCRIPTION, json.dumps(description(gcs) | fields).encode())


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_cache", {})


def assert_refused(answer: tuple[int, str, str], lack: str, toml: str, tmp_path: Path) -> None:
    """The run says in one line what is wrong and how to pull, and has written nothing."""
    name = find(toml).name
    line = f"pixelbeam: {name} cannot be taken from {MODELS}: {lack}; "
    assert answer == (1, "", f"{line}run pixelbeam pull --variant {toml} --model-dir {MODELS}\n")
    assert not (tmp_path / "out").exists()


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

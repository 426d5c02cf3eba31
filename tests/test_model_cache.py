"""What workers need of a module in a bucket comes to a machine once, whole and checked."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
import threading
from pathlib import Path

import pytest

from tests import tiny
from tests.gcs_server import GcsServer
from transforms import comparison, graph_files, graphs, model_cache, modules, runtime
from transforms.errors import RunError
from transforms.fingerprints import VariantRun

GRAPH = "tiny.graph"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files come to; there is nothing yet."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(runtime, "_cache", {})
    monkeypatch.setattr("transforms.patience.LONGEST_WAIT_SECONDS", 0.05)
    return tmp_path / "tmp" / f"pixelbeam-{os.getuid()}"


@pytest.fixture
def there(gcs: GcsServer, folder: Path, tiny_run: VariantRun) -> VariantRun:
    """The tiny module's run with its module and its graph in the bucket `in`."""
    gcs.put_directory(Path(tiny_run.module_path), "in", "tiny/")
    return put_graph(gcs, tiny_run, Path(tiny_run.graph_path).read_bytes())


def put_graph(gcs: GcsServer, run: VariantRun, content: bytes) -> VariantRun:
    gcs.put("in", GRAPH, content)
    sha256 = hashlib.sha256(content).hexdigest()
    return dataclasses.replace(
        run, module_path="gs://in/tiny", graph_path=f"gs://in/{GRAPH}", graph_sha256=sha256
    )


@pytest.fixture
def loaded(gcs: GcsServer, there: VariantRun, tiny_run: VariantRun, tmp_path: Path) -> VariantRun:
    """A module that no graph can stand for."""
    kept = graph_files.read(tiny_run.graph_path, tiny_run.module_sha256)
    facts = dataclasses.replace(kept.facts, form="loaded", reason="it holds RandomUniform")
    graph_files.keep(str(tmp_path / "loaded"), graphs.Optimised(None, facts))
    return put_graph(gcs, there, (tmp_path / "loaded").read_bytes())


def test_a_local_run_stays_as_it_is(tiny_run: VariantRun, folder: Path) -> None:
    assert model_cache.at_hand(tiny_run) is tiny_run
    assert not folder.exists()


def test_the_graph_alone_comes_once(gcs: GcsServer, there: VariantRun, folder: Path) -> None:
    for _ in range(2):
        run = model_cache.at_hand(there)
        assert run == dataclasses.replace(there, graph_path=str(folder / f"{there.graph_sha256}.graph"))
    assert Path(run.graph_path).read_bytes() == gcs.get("in", GRAPH)
    assert gcs.counts.downloads == {f"in/{GRAPH}": 1}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_large_graph_comes_in_parts(
    gcs: GcsServer, tiny_run: VariantRun, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.storage.STREAM_BYTES", 1 << 20)
    content = Path(tiny_run.graph_path).read_bytes() + bytes(5 << 20)
    run = put_graph(gcs, tiny_run, content)
    with pytest.raises(RunError):
        model_cache.at_hand(dataclasses.replace(run, graph_sha256="0" * 64))
    assert gcs.counts.downloads[f"in/{GRAPH}"] == 6
    assert os.listdir(folder) == []
    assert Path(model_cache.at_hand(run).graph_path).read_bytes() == content


def test_several_at_once_do_no_harm(gcs: GcsServer, there: VariantRun, folder: Path) -> None:
    gcs.set(latency_seconds=0.05)
    paths: list[str] = []
    threads = [
        threading.Thread(target=lambda: paths.append(model_cache.at_hand(there).graph_path)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 6
    assert os.listdir(folder) == [f"{there.graph_sha256}.graph"]


def test_a_damaged_copy_is_replaced(gcs: GcsServer, there: VariantRun) -> None:
    path = Path(model_cache.at_hand(there).graph_path)
    path.write_bytes(path.read_bytes()[:-1])
    assert model_cache.at_hand(there).graph_path == str(path)
    assert path.read_bytes() == gcs.get("in", GRAPH)


def test_another_graph_than_was_pulled_is_refused(gcs: GcsServer, there: VariantRun, folder: Path) -> None:
    gcs.put("in", GRAPH, gcs.get("in", GRAPH) + b"?")
    with pytest.raises(RunError) as raised:
        runtime.load_models((there,))
    line = rf"^gs://in/{GRAPH}: has the SHA-256 \w{{12}}\.\.\., what was pulled had {there.graph_sha256[:12]}\.\.\.: "
    assert raised.match(
        line + "it was changed or damaged; pull the module again, then run the same command again$"
    )
    assert os.listdir(folder) == []


def test_a_graph_that_is_gone_is_told(gcs: GcsServer, there: VariantRun) -> None:
    gcs.delete("in", GRAPH)
    with pytest.raises(RunError, match=f"^gs://in/{GRAPH}: is gone; pull the module again"):
        model_cache.at_hand(there)


@pytest.mark.parametrize("what", ["tensorflow", "format"])
def test_a_graph_of_another_tensorflow_or_format_is_refused(
    gcs: GcsServer, tiny_run: VariantRun, folder: Path, what: str
) -> None:
    old = (
        (b'"tensorflow": "2', b'"tensorflow": "1')
        if what == "tensorflow"
        else (b'"format": 1', b'"format": 0')
    )
    run = put_graph(gcs, tiny_run, Path(tiny_run.graph_path).read_bytes().replace(*old, 1))
    with pytest.raises(
        RunError, match=rf"^gs://in/{GRAPH}: made with TensorFlow .* install the same versions here"
    ):
        runtime.load_models((run,))


def test_the_module_comes_along_where_it_runs_as_loaded(
    gcs: GcsServer, loaded: VariantRun, folder: Path, tiny_run: VariantRun
) -> None:
    for _ in range(2):
        run = model_cache.at_hand(loaded)
        assert modules.digest(run.module_path) == tiny_run.module_sha256
    assert set(gcs.counts.downloads.values()) == {1}
    assert runtime.load_models((loaded,)).facts(tiny.NAME)["graph"] == "loaded"
    assert sorted(os.listdir(folder)) == sorted([f"{loaded.graph_sha256}.graph", tiny_run.module_sha256])
    # As what sweeps temporary files does.
    os.remove(os.path.join(run.module_path, "saved_model.pb"))
    assert modules.digest(model_cache.at_hand(loaded).module_path) == tiny_run.module_sha256


@pytest.mark.parametrize(("spoil", "message"), [("change", "has the SHA-256"), ("delete", "is gone")])
def test_another_module_than_was_pulled_is_refused(
    gcs: GcsServer, loaded: VariantRun, tiny_run: VariantRun, spoil: str, message: str
) -> None:
    for name in gcs.objects("in", "tiny/"):
        if spoil == "delete":
            gcs.delete("in", name)
        else:
            gcs.put("in", name, b"?")
    with pytest.raises(RunError, match=f"^gs://in/tiny: {message}"):
        runtime.load_models((loaded,))


def test_fast_is_compared_by_what_is_at_hand_and_kept_beside_it(
    there: VariantRun, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    cosines = comparison.Comparison("cpu", {"logits": 1.0}, {"logits": 1.0})
    monkeypatch.setattr(comparison, "compare", lambda *arguments: compared.append(arguments[0]) or cosines)
    fast = dataclasses.replace(there, precision="fast")
    for _ in range(2):
        runtime.load_models((fast,))
        runtime._cache.clear()
    runtime.devices.set_precision("exact")
    assert compared == [str(folder / f"{there.graph_sha256}.graph")]
    assert sorted(os.listdir(folder)) == [
        f"{there.graph_sha256}.{kind}" for kind in ("fast-cpu.json", "graph")
    ]

"""One image at a time in a child process that really dies, hangs and is killed."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipelines import model_dir
from pipelines.config import RunConfig
from tests import touchy_modules as touchy
from transforms import fetching, quarantine, storage
from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.prepared import prepare_images
from transforms.quarantine import Quarantined, one_at_a_time
from transforms.records import Failure, ImageRef
from transforms.runtime import load_models

Runs = tuple[VariantRun, ...]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_run: VariantRun) -> Runs:
    """Two variants: a touchy one and one that scores everything."""
    folder = tmp_path_factory.mktemp("touchy")
    config = RunConfig(
        inputs=("x",), output="x", variants=(touchy.variant_toml(folder),), model_dir=str(folder / "models")
    )
    return *model_dir.resolve_variants(config), tiny_run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., list[ImageRef]]:
    """Writes images of the given colours, or files of the given bytes."""

    def write(*contents: tuple[int, int, int] | bytes) -> list[ImageRef]:
        paths = [tmp_path / f"{number}.jpg" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content if isinstance(content, bytes) else touchy.image(content))
        return [storage.reference(str(path)) for path in paths]

    return write


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    before = set(children())
    yield
    assert set(children()) == before


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "quarantine" in "".join(child.cmdline())]


def reasons(results: list[Quarantined]) -> list[tuple[str, str] | None]:
    return [(r.outcome.step, r.outcome.error) if isinstance(r.outcome, Failure) else None for r in results]


def test_images_that_kill_the_process_are_failures_and_the_others_are_scored(
    runs: Runs, write: Callable[..., list[ImageRef]]
) -> None:
    refs = write(touchy.GREY, touchy.ABORTS, touchy.BLUE, b"no image", touchy.RAISES, touchy.NAN, touchy.GREY)
    Path(refs[6].uri).unlink()
    results = list(one_at_a_time(refs, runs))
    assert [result.outcome.ref for result in results] == refs
    died, bad, missing = ("infer", "worker_died"), ("decode", "not_an_image"), ("fetch", "not_found")
    assert reasons(results) == [None, died, None, bad, None, None, missing]
    assert isinstance(results[1].outcome, Failure)
    assert results[1].outcome.message == "the process that worked on it died: SIGABRT"
    assert results[1].seconds.model > 0
    assert all(not result.scores for result in results if isinstance(result.outcome, Failure))
    touchy_name, tiny_name = (run.variant.name for run in runs)
    for number, error in ((4, "model_error"), (5, "not_finite")):
        assert set(results[number].scores) == {tiny_name}
        failure = results[number].failed[touchy_name]
        assert (failure.ref, failure.step, failure.error) == (refs[number], "infer", error)
    models = load_models(runs)
    (image,) = prepare_images([fetching.fetch(refs[4], 1 << 20)], runs)
    (reason,) = models.score(touchy_name, image.pixels[touchy_name][None]).failed.values()
    assert (results[4].failed[touchy_name].error, results[4].failed[touchy_name].message) == reason
    for number in (0, 2):
        (image,) = prepare_images([fetching.fetch(refs[number], 1 << 20)], runs)
        assert results[number].outcome == image.outcome
        assert results[number].failed == {}
        assert results[number].seconds.fetch > 0
        assert results[number].seconds.decode > 0
        assert results[number].seconds.model > 0
        for run in runs:
            outputs = models.score(run.variant.name, image.pixels[run.variant.name][None]).outputs
            mine = results[number].scores[run.variant.name]
            assert {name: values[0].tobytes() for name, values in outputs.items()} == {
                name: values.tobytes() for name, values in mine.items()
            }
            assert {(values.dtype, values.ndim) for values in mine.values()} == {(np.dtype(np.float32), 1)}


def test_an_image_that_hangs_is_a_failure_within_a_time(
    runs: Runs, write: Callable[..., list[ImageRef]]
) -> None:
    hung, fine = one_at_a_time(write(touchy.HANGS, touchy.GREY), runs, image_seconds=4)
    assert reasons([hung, fine]) == [("infer", "worker_died"), None]
    assert isinstance(hung.outcome, Failure)
    assert hung.outcome.message == "the process that worked on it did not end within 4 s"
    assert hung.seconds.model == pytest.approx(4, abs=2)


def test_a_child_that_is_killed_costs_the_image_that_it_has_and_no_other(
    runs: Runs, write: Callable[..., list[ImageRef]]
) -> None:
    images = one_at_a_time(write(touchy.GREY, touchy.HANGS, touchy.BLUE, touchy.GREY), runs)
    assert reasons([next(images)]) == [None]
    # As the kernel does when there is no memory left.
    threading.Timer(1.0, children()[0].kill).start()
    killed = next(images)
    assert isinstance(killed.outcome, Failure)
    assert killed.outcome.message == "the process that worked on it died: SIGKILL, perhaps for want of memory"
    assert reasons([next(images)]) == [None]
    (child,) = children()
    child.kill()
    while child.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert reasons([next(images)]) == [None]
    images.close()


def test_many_deaths_are_the_machine_s(
    runs: Runs, write: Callable[..., list[ImageRef]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "DEATHS_AT_MOST", 1)
    refs = write(touchy.ABORTS, touchy.ABORTS, touchy.GREY)
    images = one_at_a_time(refs, runs)
    assert isinstance(next(images).outcome, Failure)
    with pytest.raises(RunError, match=f"2 processes .* {refs[1].uri} .*SIGABRT.*the machine") as error:
        next(images)
    assert "\n" not in str(error.value)


def test_what_the_child_raises_is_raised(runs: Runs, tmp_path: Path) -> None:
    elsewhere = dataclasses.replace(runs[1], module_path=str(tmp_path / "nowhere"), module_sha256="0" * 64)
    with pytest.raises(RunError, match="nowhere"):
        next(one_at_a_time([storage.reference("x")], (elsewhere,)))
    no_name = ImageRef(uri=None, size=None, version=None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"Traceback[\s\S]*fetching.fetch[\s\S]*TypeError"):
        next(one_at_a_time([no_name], runs[1:]))


def test_a_default_timeout_for_sockets_changes_nothing(runs: Runs, write) -> None:
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(60)
    try:
        (result,) = one_at_a_time(write((10, 20, 30)), runs[1:])
    finally:
        socket.setdefaulttimeout(timeout)
    assert result.scores


def test_a_child_that_cannot_begin_is_no_image_s_failure(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = [storage.reference("x")]
    with monkeypatch.context() as patch:
        patch.setattr(quarantine, "LOAD_SECONDS", 0.2)
        with pytest.raises(RunError, match=r"did not end within 0.2 s while it loaded the models"):
            next(one_at_a_time(refs, runs))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RunError, match="died: exit code 1 while it loaded the models"):
        next(one_at_a_time(refs, runs))


def test_no_images_need_no_child(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert list(one_at_a_time([], runs)) == []


def test_it_works_from_a_script_without_a_guard_and_dies_with_it(
    runs: Runs, write: Callable[..., list[ImageRef]], tmp_path: Path
) -> None:
    refs = write(touchy.GREY, touchy.HANGS)
    (tmp_path / "arguments").write_bytes(pickle.dumps((refs, runs)))
    (tmp_path / "numpy.py").write_text("raise RuntimeError('the working directory is not for imports')")
    # Beam, which the child must not need, cannot be imported; and the script must run only once.
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "apache_beam.py").write_text("raise RuntimeError('Beam is heavy')")
    script = tmp_path / "script" / "script.py"
    script.write_text(
        "import pickle\nfrom transforms.quarantine import one_at_a_time\n"
        "with open('arguments', 'rb') as file:\n    arguments = pickle.load(file)\n"
        "print('begun', flush=True)\n"
        "for image in one_at_a_time(*arguments):\n    print('scored', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert [process.stdout.readline() for _ in range(2)] == ["begun\n", "scored\n"]
    (child,) = psutil.Process(process.pid).children()
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    child.wait(timeout=20)
    assert not os.path.exists(f"/proc/{child.pid}")

"""What several test files need: a tiny module, small photographs, the commands in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from pipelines import cli, model_dir
from pipelines.commands import pull
from pipelines.config import RunConfig
from tests import dataflow_server, gcs_server, photos, report_dataset, tiny, worker_wheel
from tests import hub as hub_server
from tests.dataflow_server import DataflowServer
from tests.gcs_server import GcsServer
from tests.worker_wheel import WorkerWheel
from transforms import stores
from transforms.fingerprints import VariantRun
from transforms.variants import find

if TYPE_CHECKING:
    from tests.s3_server import S3Server

# No test is timed: another process may have the cores.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def tiny_toml(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A TOML file that names a tiny module beside it."""
    return tiny.write_variant(str(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory for modules, shared by the session."""
    return str(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def small_modules(models: str) -> str:
    """The smallest module of each format with random weights, each in its variant's directory."""
    names = (
        "google/efficientnet/b0/classification/1",
        "tensorflow/efficientnet/b0/classification/1",
        "google/imagenet/efficientnet_v2_imagenet1k_b0/feature_vector/2",
    )
    with ThreadPoolExecutor() as several:
        list(several.map(lambda name: pull.pull(find(name), models, random_weights=True), names))
    return models


@pytest.fixture(scope="session")
def tiny_run(tiny_toml: str, models: str) -> VariantRun:
    """The tiny module as a run does it."""
    config = RunConfig(inputs=("x",), output="x", variants=(tiny_toml,), model_dir=models)
    return model_dir.resolve_variants(config)[0]


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 distinct photographs, small JPEGs."""
    folder = tmp_path_factory.mktemp("photographs")
    photos.write_photographs(folder, 24, size=(120, 90))
    return folder


@pytest.fixture(scope="session")
def three_variants(tmp_path_factory: pytest.TempPathFactory, models: str) -> Path:
    """The small dataset of the report's tests; to be broken in a copy."""
    return report_dataset.write(tmp_path_factory.mktemp("report"), models)


@pytest.fixture
def hub(tmp_path: Path, tiny_toml: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a TF Hub on loopback that has the tiny module; what comes from it is kept for this test only."""
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    with hub_server.serve(Path(tiny_toml).parent / "module") as address:
        yield address


@pytest.fixture(scope="session")
def gcs_process() -> Iterator[GcsServer]:
    """A server of Google Cloud Storage, to which this process's and its children's clients are led."""
    with gcs_server.serve() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def gcs(gcs_process: GcsServer) -> GcsServer:
    """The server with empty buckets `in` and `out`, and clients that have not met it yet."""
    gcs_process.reset()
    for bucket in ("in", "out"):
        gcs_process.create_bucket(bucket)
    stores._stores.clear()
    return gcs_process


@pytest.fixture(scope="module")
def s3_thread() -> Iterator[S3Server]:
    """A server of S3, to which this process's clients are led while the tests of one file run."""
    # Flask and moto take half a second to import.
    from tests import s3_server

    with s3_server.serve() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setattr(stores, "_stores", {})
        yield server


@pytest.fixture
def s3(s3_thread: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server with empty buckets `photos` and `results`; nothing is waited for long."""
    s3_thread.reset("photos", "results")
    monkeypatch.setattr("transforms.patience.LONGEST_WAIT_SECONDS", 0.05)
    return s3_thread


@pytest.fixture
def local(tmp_path: Path) -> Callable[[bytes], str]:
    """Writes a local file, and gives its path."""

    def write(content: bytes) -> str:
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        path.write_bytes(content)
        return str(path)

    return write


@pytest.fixture(scope="session")
def gcs_credentials(gcs_process: GcsServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service account that the server of Cloud Storage gives tokens to."""
    return gcs_process.write_credentials(tmp_path_factory.mktemp("credentials") / "account.json")


@pytest.fixture
def cloud_environment(
    gcs: GcsServer, gcs_credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Variables that lead any client in Google's cloud to our servers; this process has them, workers need them."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(gcs_credentials))
    return {**gcs.environment, "GOOGLE_APPLICATION_CREDENTIALS": str(gcs_credentials)}


@pytest.fixture(scope="session")
def dataflow_process() -> Iterator[DataflowServer]:
    """A server of the Dataflow API."""
    with dataflow_server.serve() as server:
        yield server


@pytest.fixture
def dataflow(dataflow_process: DataflowServer, cloud_environment: dict[str, str]) -> Iterator[DataflowServer]:
    """The server without jobs, beside Cloud Storage with empty buckets `in` and `out`."""
    dataflow_process.reset()
    yield dataflow_process
    # What is still being executed ends.
    dataflow_process.reset()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> WorkerWheel:
    """The package as a wheel in an environment of its own, for workers."""
    return worker_wheel.make(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def pixelbeam(models: str, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs one command in this process: its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        words = [str(argument) for argument in arguments]
        if words[0] in ("run", "pull") and "--model-dir" not in words:
            words += ["--model-dir", models]
        capfd.readouterr()
        code = cli.main(words)
        output, errors = capfd.readouterr()
        return code, output, errors

    return run

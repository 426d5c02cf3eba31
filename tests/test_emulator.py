"""Cloud Storage as a server that is not ours speaks it; it knows no preconditions, so that races are not for here."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from gcsfs.core import GCSFileSystem

from tests import dataset
from transforms import fetching, listing, storage, stores
from transforms.listing import Found


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    """The URL of an emulator with an empty bucket `data`, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    options = ["--host=127.0.0.1", f"--port={port}", "--in-memory", "--default-bucket=data"]
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not _answers(url):
                assert process.poll() is None, "the emulator did not start"
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield url
        finally:
            process.kill()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.fixture
def bucket(emulator: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[GCSFileSystem]:
    """A client of the emulator, to which all others are led, too."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    stores._stores.clear()
    yield GCSFileSystem(token="anon", endpoint_url=emulator, use_listings_cache=False)
    stores._stores.clear()


def test_what_is_put_there_is_listed_fetched_committed_and_removed(
    bucket: GCSFileSystem, tmp_path: Path
) -> None:
    for number in range(30):
        bucket.pipe_file(f"data/images/{number:02d}.jpg", b"%d " % number * 100)
    refs = sorted(listing.list_images(["gs://data/images"], Found()), key=lambda ref: ref.uri)
    assert [ref.uri for ref in refs] == [f"gs://data/images/{number:02d}.jpg" for number in range(30)]
    fetched = list(fetching.fetch_many(refs, 1000))
    assert [each.content for each in fetched] == [b"%d " % number * 100 for number in range(30)]
    assert {each.attempts for each in fetched} == {1}
    (tmp_path / "local").write_bytes(b"content")
    assert storage.commit(str(tmp_path / "local"), "gs://data/out/part")
    assert storage.read("gs://data/out/part") == b"content"
    assert storage.list_names("gs://data/out") == ["part"]
    storage.delete_directory("gs://data/out")
    assert not storage.exists("gs://data/out/part")


def test_a_run_from_and_to_the_emulator_is_verified(
    bucket: GCSFileSystem, pixelbeam, photographs: Path, tiny_toml: str, tmp_path: Path
) -> None:
    for path in photographs.iterdir():
        bucket.pipe_file(f"data/photographs/{path.name}", path.read_bytes())
    arguments = ["--input", "gs://data/photographs", "--output", "gs://data/dataset", "--variant", tiny_toml]
    code, _, errors = pixelbeam("run", *arguments, "--images-per-unit", 10)
    assert code == 0, errors
    assert pixelbeam("verify", "gs://data/dataset", "--deep")[0] == 0
    bucket.get("data/dataset", str(tmp_path / "dataset"), recursive=True)
    (directory,) = dataset.variants(tmp_path / "dataset")
    assert dataset.rows(directory).num_rows == 24

"""A server with a bucket `b`, and the clients of Google and fsspec."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from tests import gcs_server
from tests.gcs_server import GcsServer


@pytest.fixture(scope="module")
def server() -> Iterator[GcsServer]:
    with gcs_server.serve() as served:
        yield served


@pytest.fixture
def gcs(server: GcsServer) -> Iterator[GcsServer]:
    server.create_bucket("b")
    yield server
    server.reset()


@pytest.fixture
def client(gcs: GcsServer) -> storage.Client:
    options = {"api_endpoint": gcs.url}
    return storage.Client(project="p", credentials=AnonymousCredentials(), client_options=options)


@pytest.fixture
def bucket(client: storage.Client) -> storage.Bucket:
    return client.bucket("b")


@pytest.fixture
def files(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """gcsfs, led here by the environment; it does not wait before it tries again."""
    for name, value in gcs.environment.items():
        monkeypatch.setenv(name, value)
    import gcsfs.core
    import gcsfs.retry

    sleep = gcsfs.retry.asyncio.sleep
    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=lambda _: sleep(0.001)))
    return gcsfs.core.GCSFileSystem(
        project="p", token="anon", use_listings_cache=False, skip_instance_cache=True
    )

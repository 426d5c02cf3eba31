"""The server asked without a client."""

from __future__ import annotations

from typing import Any

import requests

from tests.gcs_server import GcsServer

CONTENT = bytes(range(256)) * 4
CHUNK = 1 << 18


def listing(gcs: GcsServer, **query: object) -> dict[str, Any]:
    return requests.get(f"{gcs.url}/storage/v1/b/b/o", query, timeout=10).json()


def media(
    gcs: GcsServer, name: str, headers: dict[str, str] | None = None, **query: object
) -> requests.Response:
    url = f"{gcs.url}/download/storage/v1/b/b/o/{name}"
    return requests.get(url, {"alt": "media", **query}, headers=headers, timeout=10)


def upload(gcs: GcsServer, name: str, content: bytes = CONTENT, **query: object) -> requests.Response:
    url = f"{gcs.url}/upload/storage/v1/b/b/o"
    return requests.post(url, content, params={"uploadType": "media", "name": name, **query}, timeout=10)

"""Files at http:// and https:// URLs: one request an attempt, whose answer tells the version besides the content."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
from fsspec.implementations.http import HTTPFileSystem

from transforms.stores import Answer, Store, byte_range, version_in

SILENCE_SECONDS = 60.0
"""A connection on which nothing comes for so long is given up."""

_AS_STORED = {"Accept-Encoding": "identity"}
_GONE = {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
_WITHOUT_HEAD = {HTTPStatus.FORBIDDEN, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}
"""What a server that knows HEAD not at all, or not for a URL that is signed for GET, says to it."""
_CHUNK_BYTES = 1 << 16


class WebStore(Store):
    """Files of web servers, folders by the links of their pages; a version is an ETag or a time of modification."""

    def __init__(self) -> None:
        silence = aiohttp.ClientTimeout(sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
        super().__init__(
            HTTPFileSystem(
                client_kwargs={"timeout": silence}, use_listings_cache=False, skip_instance_cache=True
            )
        )

    async def info(self, url: str) -> tuple[int | None, str | None]:
        async with await self._ask("HEAD", url) as response:
            if response.status not in _WITHOUT_HEAD:
                return _facts(response, url)
        async with await self._ask("GET", url) as response:
            return _facts(response, url)

    async def read(self, url: str, start: int | None = None, end: int | None = None) -> Answer:
        range_header = {} if start is None else {"Range": byte_range(start, end)}
        async with await self._ask("GET", url, range_header) as response:
            if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return Answer(b"")
            _check(response, url)
            if start is None or response.status == HTTPStatus.PARTIAL_CONTENT:
                content = await response.read()
            else:
                content = (await _first_bytes(response, end))[start:end]
        return Answer(content, version_in(response.headers))

    async def _ask(self, method: str, url: str, headers: Mapping[str, str] | None = None) -> Any:
        session = await self._fs.set_session()
        try:
            return await session.request(
                method,
                self._fs.encode_url(url),
                headers={**_AS_STORED, **(headers or {})},
                allow_redirects=True,
            )
        except ValueError as error:
            raise FileNotFoundError(f"{url} is no URL") from error


def _facts(response: aiohttp.ClientResponse, url: str) -> tuple[int | None, str]:
    """Size in bytes and version, which is the size where there is no better one."""
    _check(response, url)
    if response.url.path.endswith("/") and not url.endswith("/"):
        raise IsADirectoryError(url)
    length = response.headers.get("Content-Length")
    # The server may have packed the content for the way; aiohttp unpacks it.
    is_packed = response.headers.get("Content-Encoding", "identity") != "identity"
    size = None if length is None or is_packed else int(length)
    return size, version_in(response.headers) or f"{size} bytes"


def _check(response: aiohttp.ClientResponse, url: str) -> None:
    if response.status in _GONE:
        raise FileNotFoundError(url)
    response.raise_for_status()


async def _first_bytes(response: aiohttp.ClientResponse, most: int | None) -> bytes:
    """What a server that knows no ranges sends, up to `most` bytes or a little more; it may be endless."""
    content = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        content += chunk
        if most is not None and len(content) >= most:
            break
    return bytes(content)

"""Google Cloud Storage through gcsfs: one request an attempt, content checked by its hash, writes on condition."""

from __future__ import annotations

import base64
import os
import re
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import aiohttp
import google_crc32c

# What gcsfs does beyond `core` asks each bucket of what kind it is, which can take a minute.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

from gcsfs.core import GCSFileSystem, initiate_upload
from gcsfs.retry import HttpError

from transforms.key_ranges import Key, Page
from transforms.key_stores import KeyStore
from transforms.patience import ShortRead, status_of
from transforms.stores import Answer, byte_range

SILENCE_SECONDS = 60.0
"""A connection on which nothing comes for so long is given up."""

_FACTS = "name,size,generation"
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)$")


class _OneRequest(GCSFileSystem):
    """Leaves it to `Patience` to ask again, which counts the attempts and knows how the store does as a whole."""

    async def _request(self, *arguments: Any, **options: Any) -> Any:
        return await GCSFileSystem._request.__wrapped__(self, *arguments, **options)


class GcsStore(KeyStore):
    """Objects by the JSON API; a version is a generation, which a change of metadata leaves as it is."""

    def __init__(self) -> None:
        # An emulator wants no credentials, and to look for some takes seconds.
        anonymous = (
            os.environ.get("STORAGE_EMULATOR_HOST") and "GOOGLE_APPLICATION_CREDENTIALS" not in os.environ
        )
        super().__init__(
            _OneRequest(
                token="anon" if anonymous else None,
                project="",
                use_listings_cache=False,
                requests_timeout=aiohttp.ClientTimeout(
                    sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS
                ),
            )
        )

    async def info(self, url: str) -> tuple[int | None, str | None]:
        if not self._bucket_and_key(url)[1]:
            raise IsADirectoryError(url)
        facts = await self._facts(url, _FACTS)
        return int(facts["size"]), facts["generation"]

    async def read(self, url: str, start: int | None = None, end: int | None = None) -> Answer:
        wanted = {} if start is None else {"Range": byte_range(start, end)}
        try:
            headers, content = await self._fs._call("GET", self._fs.url(url), headers=wanted)
        except HttpError as error:
            if status_of(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return Answer(b"")
            raise
        if not _unpacked(headers):
            _check(content, headers)
        return Answer(content, headers.get("x-goog-generation"), not _unpacked(headers))

    async def names(self, directory: str, prefix: str) -> list[str]:
        bucket, folder = self._bucket_and_key(directory.rstrip("/") + "/")
        names: list[str] = []
        token = None
        while True:
            page = await self._fs._call(
                "GET",
                "b/{}/o",
                bucket,
                json_out=True,
                prefix=folder + prefix,
                delimiter="/",
                fields="items(name),prefixes,nextPageToken",
                pageToken=token,
            )
            found = [item["name"] for item in page.get("items", ())] + page.get("prefixes", [])
            names += [name for each in found if (name := each[len(folder) :].rstrip("/"))]
            token = page.get("nextPageToken")
            if token is None:
                return names

    async def _page(self, bucket: str, prefix: str, start: str, end: str | None, most: int | None) -> Page:
        items: list[dict[str, str]] = []
        token = None
        # A page may be shorter than was asked for, even empty.
        while len(items) < (most or 2):
            page = await self._fs._call(
                "GET",
                "b/{}/o",
                bucket,
                json_out=True,
                prefix=prefix,
                startOffset=start,
                endOffset=end,
                maxResults=most,
                fields=f"items({_FACTS}),nextPageToken",
                pageToken=token,
            )
            items += page.get("items", ())
            token = page.get("nextPageToken")
            if token is None:
                break
        keys = [Key(item["name"], int(item["size"]), item["generation"]) for item in items]
        return Page(keys, more=token is not None)

    async def check_writable(self, directory: str) -> None:
        """An upload is begun and cancelled: that takes the bucket and the permission, and no object appears."""
        bucket, key = self._bucket_and_key(f"{directory}/_check")
        upload = await initiate_upload(self._fs, bucket, key)
        with suppress(FileNotFoundError, HttpError):
            # What is not cancelled is forgotten within a week.
            await self._fs._call("DELETE", upload)

    async def regions(self, url: str) -> tuple[str, ...]:
        bucket, _ = self._bucket_and_key(url)
        facts = await self._fs._call(
            "GET", "b/{}", bucket, json_out=True, fields="location,customPlacementConfig"
        )
        return tuple(facts.get("customPlacementConfig", {}).get("dataLocations", ())) or (facts["location"],)

    async def put(self, local_path: str, url: str) -> bool:
        """Upload a file, resumably above 5 MB; False where there was another one already.

        An upload whose answer was lost finds itself there when it is sent again.
        """
        try:
            await self._fs._put_file(local_path, url, mode="create")
        except FileExistsError:
            return await self._holds(url, _crc32c_of_file(local_path))
        except FileNotFoundError:
            # Either there is no bucket, or gcsfs cancels an upload that had come to its end: its answer was lost.
            if not await self.names(url.rsplit("/", 1)[0], url.rsplit("/", 1)[1]):
                raise
            return await self._holds(url, _crc32c_of_file(local_path))
        return True

    async def swap(self, url: str, content: bytes, token: str | None) -> bool:
        bucket, key = self._bucket_and_key(url)
        try:
            await self._fs._call(
                "POST",
                f"{self._fs._location}/upload/storage/v1/b/{quote(bucket, safe='')}/o",
                uploadType="media",
                name=key,
                ifGenerationMatch=token or "0",
                headers={"Content-Type": "application/octet-stream"},
                data=content,
            )
        except FileExistsError:
            return await self._holds(url, _base64(google_crc32c.value(content)))
        return True

    async def _holds(self, url: str, crc32c: str) -> bool:
        try:
            return bool((await self._facts(url, "crc32c"))["crc32c"] == crc32c)
        except FileNotFoundError:
            return False

    async def _facts(self, url: str, fields: str) -> dict[str, str]:
        bucket, key = self._bucket_and_key(url)
        facts: dict[str, str] = await self._fs._call(
            "GET", "b/{}/o/{}", bucket, key, json_out=True, fields=fields
        )
        return facts


def _unpacked(headers: Any) -> bool:
    """Whether an object that was stored with gzip encoding came unpacked."""
    return "gzip" in (headers.get("Content-Encoding"), headers.get("x-goog-stored-content-encoding"))


def _check(content: bytes, headers: Any) -> None:
    """ShortRead where the content is not as long as its range, or the whole object and not what its hash says."""
    part = _CONTENT_RANGE.match(headers.get("Content-Range", ""))
    if part:
        first, last, size = map(int, part.groups())
        if len(content) != last + 1 - first:
            raise ShortRead(f"{len(content):,} bytes came of {last + 1 - first:,}")
        if len(content) != size:
            return
    given = ",".join(headers.getall("x-goog-hash", ()))
    hashes = dict(each.strip().split("=", 1) for each in given.split(",") if each)
    if "crc32c" in hashes and hashes["crc32c"] != _base64(google_crc32c.value(content)):
        raise ShortRead(f"the {len(content):,} bytes that came are not those of the object's crc32c")


def _base64(crc32c: int) -> str:
    return base64.b64encode(crc32c.to_bytes(4, "big")).decode()


def _crc32c_of_file(path: str) -> str:
    crc32c = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            crc32c = google_crc32c.extend(crc32c, chunk)
    return _base64(crc32c)

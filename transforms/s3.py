"""Amazon S3 and what speaks its protocol, through s3fs: one request an attempt, content checked, writes on condition.

Endpoint, region and credentials are found as all AWS clients find them; FSSPEC_S3_ANON=true reads without any.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from botocore.exceptions import BotoCoreError
from s3fs import S3FileSystem

from transforms.key_ranges import Key, Page
from transforms.key_stores import KeyStore, root_of
from transforms.patience import REQUESTS_AT_ONCE, ShortRead, status_of
from transforms.s3_errors import as_os_errors, is_unknown
from transforms.stores import Answer, byte_range

_LAST_CHARACTER = "\U0010ffff"


class _OneRequest(S3FileSystem):
    """Leaves it to `Patience` to ask again, which counts the attempts and knows how the store does as a whole."""

    retries = 1

    async def _abort_mpu(self, bucket: str, key: str, mpu: str) -> None:
        # An upload whose last answer was lost is there no more, and is no reason to give up.
        with suppress(OSError, BotoCoreError):
            await super()._abort_mpu(bucket, key, mpu)


class S3Store(KeyStore):
    """Objects by the REST API; a version is an ETag."""

    def __init__(self) -> None:
        config = {"retries": {"total_max_attempts": 1}, "max_pool_connections": REQUESTS_AT_ONCE}
        super().__init__(
            _OneRequest(config_kwargs=config, use_listings_cache=False, skip_instance_cache=True)
        )

    async def info(self, url: str) -> tuple[int | None, str | None]:
        facts = await self._call("head_object", url)
        return facts["ContentLength"], _etag(facts)

    async def read(self, url: str, start: int | None = None, end: int | None = None) -> Answer:
        parameters = {} if start is None else {"Range": byte_range(start, end)}
        try:
            facts = await self._call("get_object", url, **parameters)
        except OSError as error:
            if status_of(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return Answer(b"")
            raise
        with as_os_errors():
            async with facts["Body"] as body:
                content: bytes = await body.read()
        if start is None and _is_md5(facts) and _md5(content) != _etag(facts):
            raise ShortRead(f"the {len(content):,} bytes that came are not those of the object's MD5")
        return Answer(content, _etag(facts))

    async def names(self, directory: str, prefix: str) -> list[str]:
        bucket, folder = self._bucket_and_key(directory.rstrip("/") + "/")
        names: list[str] = []
        async for page in self._pages(bucket, folder + prefix, Delimiter="/"):
            found = [item["Key"] for item in page.get("Contents", ())]
            found += [item["Prefix"] for item in page.get("CommonPrefixes", ())]
            names += [name for each in found if (name := each[len(folder) :].rstrip("/"))]
        return names

    async def find(self, directory: str) -> list[str]:
        bucket, folder = self._bucket_and_key(directory.rstrip("/") + "/")
        root = root_of(directory, bucket)
        return [
            root + item["Key"]
            async for page in self._pages(bucket, folder)
            for item in page.get("Contents", ())
        ]

    async def _page(self, bucket: str, prefix: str, start: str, end: str | None, most: int | None) -> Page:
        """A page of `key_ranges.PageOf`, whose start is inclusive and who has an end; S3 knows neither."""
        parameters: dict[str, object] = {} if start == prefix else {"StartAfter": _just_before(start)}
        if most is not None:
            parameters["MaxKeys"] = most
        keys: list[Key] = []
        async for page in self._pages(bucket, prefix, **parameters):
            listed = [Key(item["Key"], item["Size"], _etag(item)) for item in page.get("Contents", ())]
            keys += [key for key in listed if start <= key.name and (end is None or key.name < end)]
            if end is not None and listed and listed[-1].name >= end:
                break
            if page["IsTruncated"] and len(keys) >= (most or 2):
                return Page(keys, more=True)
        return Page(keys, more=False)

    async def put(self, local_path: str, url: str) -> bool:
        """Upload a file, in parts from 100 MiB; False where there was another one already.

        An upload whose answer was lost finds itself there when it is sent again.
        """
        try:
            await self._put_file(local_path, url, "create")
        except OSError as error:
            if is_unknown(error):
                await self._put_file(local_path, url, "overwrite")
            elif status_of(error) == HTTPStatus.PRECONDITION_FAILED:
                return await self._holds(url, local_path)
            else:
                raise
        return True

    async def _put_file(self, local_path: str, url: str, mode: str) -> None:
        with as_os_errors():
            await self._fs._put_file(local_path, url, mode=mode)

    async def _holds(self, url: str, local_path: str) -> bool:
        """Whether the object is the file: by its MD5, or where the store does not tell that, by its size."""
        facts = await self._call("head_object", url)
        if _is_md5(facts):
            return _md5_of_file(local_path) == _etag(facts)
        return os.path.getsize(local_path) == int(facts["ContentLength"])

    async def create(self, url: str) -> None:
        await self._call("put_object", url, Body=b"")

    async def swap(self, url: str, content: bytes, token: str | None) -> bool:
        condition = {"IfNoneMatch": "*"} if token is None else {"IfMatch": f'"{token}"'}
        try:
            await self._call("put_object", url, Body=content, ContentType="application/json", **condition)
        except OSError as error:
            if is_unknown(error):
                return await self._swap_unasked(url, content, token)
            if isinstance(error, FileNotFoundError) and token is not None:
                return False
            if status_of(error) == HTTPStatus.PRECONDITION_FAILED:
                return (await self.read(url)).content == content
            raise
        return True

    async def _swap_unasked(self, url: str, content: bytes, token: str | None) -> bool:
        """`swap` in a store without conditions; what another process writes in between is lost."""
        try:
            current = (await self.info(url))[1]
        except FileNotFoundError:
            current = None
        if current == token:
            await self._call("put_object", url, Body=content, ContentType="application/json")
        return current == token

    async def delete(self, url: str) -> None:
        await self._call("delete_object", url)

    async def _call(self, method: str, url: str, **parameters: object) -> dict[str, Any]:
        bucket, key = self._bucket_and_key(url)
        with as_os_errors():
            answer: dict[str, Any] = await self._fs._call_s3(method, Bucket=bucket, Key=key, **parameters)
        return answer

    async def _pages(self, bucket: str, prefix: str, **parameters: object) -> AsyncIterator[dict[str, Any]]:
        while True:
            with as_os_errors():
                page = await self._fs._call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **parameters)
            yield page
            if not page["IsTruncated"]:
                return
            parameters["ContinuationToken"] = page["NextContinuationToken"]

    def _bucket_and_key(self, url: str) -> tuple[str, str]:
        # A bucket may be the ARN of an access point, which has slashes.
        bucket, key = self._fs._find_bucket_key(url.split("://", 1)[1])
        return bucket, key


def _etag(facts: dict[str, Any]) -> str:
    return str(facts["ETag"]).strip('"')


def _is_md5(facts: dict[str, Any]) -> bool:
    """Whether the ETag is the content's MD5: not of an object in parts, nor of one encrypted with a key of KMS."""
    is_plain = facts.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in facts
    return is_plain and re.fullmatch("[0-9a-f]{32}", _etag(facts)) is not None


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _md5_of_file(path: str) -> str:
    md5 = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            md5.update(chunk)
    return md5.hexdigest()


def _just_before(key: str) -> str:
    """A string before `key`, with no key between the two but such as have U+10FFFF in them."""
    code = ord(key[-1]) - 1
    if code < 0:
        return key[:-1]
    return key[:-1] + chr(0xD7FF if 0xD800 <= code < 0xE000 else code) + _LAST_CHARACTER

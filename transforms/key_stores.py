"""Stores of objects by key in buckets, whose keys are listed in many ranges at once."""

from __future__ import annotations

from abc import ABC, abstractmethod

from transforms.key_ranges import Key, Page, list_keys
from transforms.records import ImageRef
from transforms.stores import Store, Take


class KeyStore(Store, ABC):
    """A store that pages through a bucket's keys in their order, and tells a version with what it reads."""

    async def walk(self, directory: str, take: Take) -> None:
        bucket, prefix = self._bucket_and_key(directory)
        root = root_of(directory, bucket)

        async def page_of(start: str, end: str | None, most: int | None = None) -> Page:
            return (await self.patience.call(lambda: self._page(bucket, prefix, start, end, most)))[0]

        async def take_page(keys: list[Key]) -> None:
            await take([ImageRef(root + key.name, key.size, key.version) for key in keys])

        await list_keys(page_of, prefix, take_page)

    @abstractmethod
    async def _page(self, bucket: str, prefix: str, start: str, end: str | None, most: int | None) -> Page:
        """A page of `key_ranges.PageOf`."""

    async def read_versioned(self, url: str) -> tuple[bytes, str]:
        answer = await self.read(url)
        return answer.content, answer.version or ""

    def _bucket_and_key(self, url: str) -> tuple[str, str]:
        bucket, _, key = url.split("://", 1)[1].partition("/")
        return bucket, key


def root_of(url: str, bucket: str) -> str:
    """The URL of a bucket by the scheme of another URL in it, with a slash at its end."""
    return f"{url.split('://', 1)[0]}://{bucket}/"

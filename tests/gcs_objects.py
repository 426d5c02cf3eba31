"""What the test server's buckets hold, and the order in which it is listed; no HTTP, no JSON."""

from __future__ import annotations

import base64
import hashlib
import re
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import count
from typing import Any
from urllib.parse import quote

import google_crc32c

from tests.gcs_wire import ApiError

FIRST_GENERATION = 1_700_000_000_000_000
LAST_CHARACTER = "\U0010ffff"
WRITABLE = (
    "metadata",
    "cacheControl",
    "contentDisposition",
    "contentEncoding",
    "contentLanguage",
    "customTime",
)
Hashes = tuple[str, str]
"""CRC32C and MD5 of one content, base64; the second is empty for an object that was composed."""


@dataclass(frozen=True, eq=False, slots=True)
class StoredObject:
    """One generation of one object; `properties` are those of `WRITABLE` that were set."""

    bucket: str
    name: str
    content: bytes
    crc32c: str
    md5: str
    generation: int
    created: str
    updated: str
    content_type: str
    properties: Mapping[str, Any]
    metageneration: int = 1

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def quoted_name(self) -> str:
        # `quote` alone would take as long as all the rest of a page.
        plain = re.fullmatch(r"[\w.~/-]*", self.name, re.ASCII)
        return self.name.replace("/", "%2F") if plain else quote(self.name, safe="")

    @property
    def etag(self) -> str:
        return f"{self.generation}-{self.metageneration}"


@dataclass(frozen=True, eq=False)
class Page:
    """A part of a listing; `next_name` is the first name that is not in it."""

    items: Sequence[StoredObject]
    prefixes: Sequence[str]
    next_name: str | None


class Bucket:
    """Objects by name, and their names sorted by code points, which is the order of their UTF-8 bytes."""

    def __init__(self) -> None:
        self.objects: dict[str, StoredObject] = {}
        self._names: list[str] = []

    def put(self, stored: StoredObject) -> None:
        """Add an object or replace the one of that name."""
        if stored.name not in self.objects:
            insort(self._names, stored.name)
        self.objects[stored.name] = stored

    def put_many(self, many: Iterable[StoredObject]) -> None:
        """As `put`, but sorts once."""
        self.objects.update((stored.name, stored) for stored in many)
        self._names = sorted(self.objects)

    def delete(self, name: str) -> None:
        """Forget an object that is there."""
        del self.objects[name]
        del self._names[bisect_left(self._names, name)]

    def names(self, prefix: str = "") -> list[str]:
        """Names that start with `prefix`, in order."""
        return self._names[slice(*self._span(prefix, "", ""))]

    def page(self, prefix: str, delimiter: str, start: str, end: str, limit: int) -> Page:
        """At most `limit` items and prefixes from `start` (inclusive) to `end` (exclusive; empty: no end)."""
        position, stop = self._span(prefix, start, end)
        names = self._names
        if not delimiter:
            last = min(stop, position + limit)
            items = [self.objects[name] for name in names[position:last]]
            return Page(items, (), names[last] if last < stop else None)
        found: list[str] = []
        prefixes: list[str] = []
        while position < stop and len(found) + len(prefixes) < limit:
            name = names[position]
            cut = name.find(delimiter, len(prefix))
            if cut < 0:
                found.append(name)
                position += 1
            else:
                prefixes.append(name[: cut + len(delimiter)])
                position = bisect_left(names, _after(prefixes[-1]), position)
        items = [self.objects[name] for name in found]
        return Page(items, prefixes, names[position] if position < stop else None)

    def _span(self, prefix: str, start: str, end: str) -> tuple[int, int]:
        ends = [bound for bound in (_after(prefix), end) if bound]
        stop = bisect_left(self._names, min(ends)) if ends else len(self._names)
        return bisect_left(self._names, max(prefix, start)), stop


def _after(prefix: str) -> str:
    # What sorts behind all that start with `prefix`; empty where nothing does.
    prefix = prefix.rstrip(LAST_CHARACTER)
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else ""


class Store:
    """All buckets; generations count up from a fixed number, so that they are the same in every run."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self._generations = count(FIRST_GENERATION)

    def bucket(self, name: str) -> Bucket:
        """The bucket, or a 404."""
        try:
            return self.buckets[name]
        except KeyError:
            raise ApiError(404, "The specified bucket does not exist.") from None

    def find(self, bucket: str, name: str, generation: str | None = None) -> StoredObject:
        """The object, or a 404; older generations are not kept."""
        stored = self.bucket(bucket).objects.get(name)
        if stored is None or generation not in (None, str(stored.generation)):
            raise ApiError(404, f"No such object: {bucket}/{name}")
        return stored

    def new(
        self, bucket: str, name: str, content: bytes, fields: Mapping[str, Any], hashes: Hashes | None = None
    ) -> StoredObject:
        """A new generation, not yet in its bucket, with those of a resource's `fields` that can be set."""
        crc32c, md5 = hashes or hashes_of(content)
        return StoredObject(
            bucket,
            name,
            content,
            crc32c,
            md5,
            generation=next(self._generations),
            created=(created := now()),
            updated=created,
            content_type=fields.get("contentType") or "application/octet-stream",
            properties={key: fields[key] for key in WRITABLE if key in fields},
        )


def hashes_of(content: bytes) -> Hashes:
    """Both checksums of `content`."""
    crc32c = google_crc32c.Checksum(content).digest()
    return base64.b64encode(crc32c).decode(), base64.b64encode(hashlib.md5(content).digest()).decode()


def now() -> str:
    """The time as the JSON API writes it."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def patched(stored: StoredObject, changes: Mapping[str, Any], *, whole: bool) -> StoredObject:
    """The object with other metadata: `changes` merged into it, or with `whole` instead of what it had."""
    old = {} if whole else dict(stored.properties)
    new = {**old, **{key: changes[key] for key in WRITABLE if key in changes}}
    if "metadata" in changes and not whole:
        new["metadata"] = {**old.get("metadata", {}), **(changes["metadata"] or {})}
    if new.get("metadata"):
        new["metadata"] = {key: value for key, value in new["metadata"].items() if value is not None}
    return replace(
        stored,
        content_type=changes.get("contentType") or stored.content_type,
        metageneration=stored.metageneration + 1,
        updated=now(),
        properties={key: value for key, value in new.items() if value},
    )

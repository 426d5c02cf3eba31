"""Objects and listings of the test server as JSON, whole or only the fields that were asked for.

Written after https://cloud.google.com/storage/docs/json_api/v1/objects.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any

from tests.gcs_objects import Page, StoredObject

FIELDS = {
    "kind": '"storage#object"',
    "id": '"{0.bucket}/{2}/{0.generation}"',
    "selfLink": '"{1}/storage/v1/b/{0.bucket}/o/{0.quoted_name}"',
    "mediaLink": '"{1}/download/storage/v1/b/{0.bucket}/o/{0.quoted_name}?generation={0.generation}&alt=media"',
    "name": '"{2}"',
    "bucket": '"{0.bucket}"',
    "generation": '"{0.generation}"',
    "metageneration": '"{0.metageneration}"',
    "contentType": '"{3}"',
    "storageClass": '"STANDARD"',
    "size": '"{0.size}"',
    "md5Hash": '"{0.md5}"',
    "crc32c": '"{0.crc32c}"',
    "etag": '"{0.etag}"',
    "timeCreated": '"{0.created}"',
    "updated": '"{0.updated}"',
}
"""JSON texts to be formatted with an object, the server's URL, and the name and content type as JSON has them."""


def resource(stored: StoredObject, origin: str) -> dict[str, Any]:
    """All fields of an object, as in an answer of the server at `origin`."""
    fields = {**json.loads(_text(_template(tuple(FIELDS)), stored, origin)), **stored.properties}
    if not stored.md5:
        del fields["md5Hash"]
    return fields


def list_text(page: Page, mask: Mapping[str, Any], origin: str) -> str:
    """A page as JSON, with the fields in `mask`; the page token is the next name, encoded."""
    parts = ['"kind":"storage#objects"'] if chosen(mask, "kind") else []
    if page.next_name is not None and chosen(mask, "nextPageToken"):
        parts.append(f'"nextPageToken":"{base64.urlsafe_b64encode(page.next_name.encode()).decode()}"')
    if page.prefixes and chosen(mask, "prefixes"):
        parts.append(f'"prefixes":{json.dumps(page.prefixes)}')
    if page.items and chosen(mask, "items"):
        parts.append(f'"items":[{",".join(_item_texts(page.items, mask.get("items", {}), origin))}]')
    return f"{{{','.join(parts)}}}"


def _item_texts(items: Sequence[StoredObject], mask: Mapping[str, Any], origin: str) -> Iterable[str]:
    template = _template(tuple(key for key in FIELDS if chosen(mask, key)))
    if all(item.md5 and not item.properties for item in items):
        return [_text(template, item, origin) for item in items]
    return [json.dumps(select(mask, resource(item, origin))) for item in items]


def _text(template: str, stored: StoredObject, origin: str) -> str:
    name, content_type = encode_basestring_ascii(stored.name), encode_basestring_ascii(stored.content_type)
    return template.format(stored, origin, name[1:-1], content_type[1:-1])


@lru_cache
def _template(keys: tuple[str, ...]) -> str:
    return "{{" + ",".join(f'"{key}":{FIELDS[key]}' for key in keys) + "}}"


def from_page_token(token: str) -> str:
    """The name that a page token stands for."""
    return base64.urlsafe_b64decode(token).decode()


@lru_cache
def field_mask(text: str) -> Mapping[str, Any]:
    """`items(name,size),nextPageToken` as `{"items": {"name": {}, "size": {}}, ...}`; empty: everything."""
    return _field_list(re.findall(r"[(),/]|[^(),/]+", text)[::-1])


def _field_list(reversed_tokens: list[str]) -> dict[str, Any]:
    mask: dict[str, Any] = {}
    while reversed_tokens and reversed_tokens[-1] != ")":
        inner = mask.setdefault(reversed_tokens.pop(), {})
        while reversed_tokens and reversed_tokens[-1] == "/":
            reversed_tokens.pop()
            inner = inner.setdefault(reversed_tokens.pop(), {})
        if reversed_tokens and reversed_tokens[-1] == "(":
            reversed_tokens.pop()
            inner.update(_field_list(reversed_tokens))
            reversed_tokens.pop()
        if reversed_tokens and reversed_tokens[-1] == ",":
            reversed_tokens.pop()
    return mask


def chosen(mask: Mapping[str, Any], key: str) -> bool:
    """Whether a field is in the answer."""
    return not mask or key in mask or "*" in mask


def select(mask: Mapping[str, Any], value: Any) -> Any:
    """The parts of a JSON value that `mask` names."""
    if isinstance(value, list):
        return [select(mask, element) for element in value]
    if isinstance(value, dict):
        return {key: select(mask.get(key, {}), inner) for key, inner in value.items() if chosen(mask, key)}
    return value

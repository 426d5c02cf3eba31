"""The JSON API of Google Cloud Storage over objects in memory: a request in, an answer out, no sockets.

Written after https://cloud.google.com/storage/docs/json_api/v1 and the clients that use it: gcsfs,
google-cloud-storage and Beam's gcsio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.gcs_fields import field_mask, from_page_token, list_text, resource, select
from tests.gcs_objects import Bucket, Hashes, Store, StoredObject, hashes_of, now, patched
from tests.gcs_uploads import Uploads, read_hashes, read_upload
from tests.gcs_wire import JSON_TYPE, Answer, ApiError, Asked, error_answer, json_answer, read_range

MAX_RESULTS = 1000
MAX_COMPOSED = 32

Handler = Callable[..., "Answer | dict[str, Any]"]
ROUTES: dict[tuple[str, int], list[tuple[tuple[str, ...], str, Handler]]] = {}


def _route(method: str, pattern: str, kind: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        segments = tuple(pattern.split("/"))
        ROUTES.setdefault((method, len(segments)), []).append((segments, kind, handler))
        return handler

    return register


def _find_route(asked: Asked) -> tuple[str, Handler, list[str]]:
    for pattern, kind, handler in ROUTES.get((asked.method, len(asked.path)), []):
        pairs = list(zip(pattern, asked.path, strict=True))
        if all(expected in ("{}", segment) for expected, segment in pairs):
            return kind, handler, [segment for expected, segment in pairs if expected == "{}"]
    return "unknown", Api.unknown, []


def kind_of(asked: Asked) -> str:
    """What sort of request it is: list, metadata, download, upload, delete, ..."""
    kind = _find_route(asked)[0]
    if kind == "metadata" and asked.query.get("alt") == "media":
        return "download"
    if kind == "upload" and asked.query.get("uploadType") == "resumable":
        return "upload_chunk" if "upload_id" in asked.query else "upload_start"
    return kind


def request_key(asked: Asked) -> str:
    """What makes two requests the same: one that goes on where another broke off is the same as that one."""
    name = ""
    if asked.method == "POST" and asked.path[0] == "upload" and "name" not in asked.query:
        name = read_upload(asked)[0].get("name", "")
    # google-cloud-storage pins the generation only when it goes on.
    query = [f"{key}={value}" for key, value in asked.query.items() if key != "generation"]
    ends = [asked.headers.get(header, "").rpartition("-")[2] for header in ("Range", "Content-Range")]
    return " ".join((asked.method, *asked.path, name, *query, *ends))


def check_conditions(
    query: Mapping[str, str], current: StoredObject | None, *, source: bool = False, reading: bool = False
) -> None:
    """Raise 412 (304 for a read whose object did not change) where a precondition does not hold."""
    infix = "Source" if source else ""
    generation, metageneration = (current.generation, current.metageneration) if current else (0, 0)
    for what, value in (("Generation", generation), ("Metageneration", metageneration)):
        wanted = query.get(f"if{infix}{what}Match", value)
        unwanted = query.get(f"if{infix}{what}NotMatch", -1)
        if int(wanted) != value or int(unwanted) == value:
            status = 304 if reading and int(wanted) == value else 412
            raise ApiError(status, "At least one of the pre-conditions you specified did not hold.")


class Api:
    """Answers requests at the URL `origin`; `rewrite_bytes` is what one rewriteTo copies."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.rewrite_bytes = 1 << 40
        self.keys_a_page = MAX_RESULTS
        self.places: Mapping[str, Sequence[str]] = {}
        self.store = Store()
        self.uploads = Uploads()

    def answer(self, asked: Asked) -> Answer:
        """Carry out one request."""
        _, handler, names = _find_route(asked)
        try:
            answer = handler(self, asked, *names)
        except ApiError as error:
            return Answer(304) if error.status == 304 else error_answer(error.status, str(error))
        if isinstance(answer, Answer):
            return answer
        return json_answer(select(field_mask(asked.query.get("fields", "")), answer))

    # The parts of a batch are requests of their own: see `read_batch`.
    @_route("POST", "batch/storage/v1", "batch")
    def unknown(self, asked: Asked) -> Answer:
        raise ApiError(405, f"this server does not know {asked.method} {asked.target}")

    @_route("POST", "token", "token")
    def token(self, asked: Asked) -> dict[str, Any]:
        return {"access_token": "token", "expires_in": 3600, "token_type": "Bearer"}

    @_route("GET", "storage/v1/b", "bucket")
    def list_buckets(self, asked: Asked) -> dict[str, Any]:
        items = [self._bucket(name) for name in sorted(self.store.buckets)]
        return {"kind": "storage#buckets", "items": items}

    @_route("POST", "storage/v1/b", "bucket_change")
    def create_bucket(self, asked: Asked) -> dict[str, Any]:
        name = asked.json()["name"]
        if name in self.store.buckets:
            raise ApiError(409, "Your previous request to create the named bucket succeeded.")
        self.store.buckets[name] = Bucket()
        return self._bucket(name)

    @_route("GET", "storage/v1/b/{}", "bucket")
    def get_bucket(self, asked: Asked, bucket: str) -> dict[str, Any]:
        self.store.bucket(bucket)
        return self._bucket(bucket)

    @_route("DELETE", "storage/v1/b/{}", "bucket_change")
    def delete_bucket(self, asked: Asked, bucket: str) -> Answer:
        if self.store.bucket(bucket).objects:
            raise ApiError(409, "The bucket you tried to delete is not empty.")
        del self.store.buckets[bucket]
        return Answer(204)

    @_route("GET", "storage/v1/b/{}/storageLayout", "bucket")
    def get_storage_layout(self, asked: Asked, bucket: str) -> dict[str, Any]:
        self.store.bucket(bucket)
        flat = {"hierarchicalNamespace": {"enabled": False}}
        return {"kind": "storage#storageLayout", "bucket": bucket, "location": "US-CENTRAL1", **flat}

    def _bucket(self, name: str) -> dict[str, Any]:
        time = now()
        location, *pair = self.places.get(name, ("US-CENTRAL1",))
        return {
            **({"customPlacementConfig": {"dataLocations": pair}} if pair else {}),
            "kind": "storage#bucket",
            "id": name,
            "name": name,
            "projectNumber": "1",
            "metageneration": "1",
            "location": location,
            "storageClass": "STANDARD",
            "softDeletePolicy": {"retentionDurationSeconds": "0"},
            "timeCreated": time,
            "updated": time,
        }

    @_route("GET", "storage/v1/b/{}/o", "list")
    def list_objects(self, asked: Asked, bucket: str) -> Answer:
        query = asked.query
        if "matchGlob" in query:
            raise ApiError(400, "this server does not know matchGlob")
        token = query.get("pageToken", "")
        start = from_page_token(token) if token else query.get("startOffset", "")
        limit = min(int(query.get("maxResults") or MAX_RESULTS), self.keys_a_page)
        prefix, delimiter, end = (query.get(key, "") for key in ("prefix", "delimiter", "endOffset"))
        page = self.store.bucket(bucket).page(prefix, delimiter, start, end, limit)
        text = list_text(page, field_mask(query.get("fields", "")), self.origin)
        return Answer(200, text.encode(), {"Content-Type": JSON_TYPE})

    @_route("GET", "storage/v1/b/{}/o/{}", "metadata")
    @_route("GET", "download/storage/v1/b/{}/o/{}", "metadata")
    def get(self, asked: Asked, bucket: str, name: str) -> Answer | dict[str, Any]:
        stored = self.store.find(bucket, name, asked.query.get("generation"))
        check_conditions(asked.query, stored, reading=True)
        if asked.query.get("alt") == "media":
            return _media(stored, asked.headers.get("Range"))
        return resource(stored, self.origin)

    @_route("DELETE", "storage/v1/b/{}/o/{}", "delete")
    def delete(self, asked: Asked, bucket: str, name: str) -> Answer:
        stored = self.store.find(bucket, name, asked.query.get("generation"))
        check_conditions(asked.query, stored)
        self.store.bucket(bucket).delete(name)
        return Answer(204)

    @_route("PATCH", "storage/v1/b/{}/o/{}", "patch")
    @_route("PUT", "storage/v1/b/{}/o/{}", "patch")
    def patch(self, asked: Asked, bucket: str, name: str) -> dict[str, Any]:
        stored = self.store.find(bucket, name, asked.query.get("generation"))
        check_conditions(asked.query, stored)
        changed = patched(stored, asked.json(), whole=asked.method == "PUT")
        self.store.bucket(bucket).put(changed)
        return resource(changed, self.origin)

    @_route("POST", "storage/v1/b/{}/o/{}/copyTo/b/{}/o/{}", "copy")
    def copy(self, asked: Asked, bucket: str, name: str, to_bucket: str, to_name: str) -> dict[str, Any]:
        return self._copy(asked, self._source(asked, bucket, name), to_bucket, to_name)

    @_route("POST", "storage/v1/b/{}/o/{}/rewriteTo/b/{}/o/{}", "rewrite")
    def rewrite(self, asked: Asked, bucket: str, name: str, to_bucket: str, to_name: str) -> dict[str, Any]:
        source = self._source(asked, bucket, name)
        generation, _, done = asked.query.get("rewriteToken", f"{source.generation}.0").partition(".")
        if generation != str(source.generation):
            raise ApiError(400, "The rewrite token does not fit the object.")
        done_bytes = min(source.size, int(done) + self.rewrite_bytes)
        answer = {
            "kind": "storage#rewriteResponse",
            "totalBytesRewritten": str(done_bytes),
            "objectSize": str(source.size),
            "done": done_bytes == source.size,
        }
        if not answer["done"]:
            return {**answer, "rewriteToken": f"{source.generation}.{done_bytes}"}
        return {**answer, "resource": self._copy(asked, source, to_bucket, to_name)}

    @_route("POST", "storage/v1/b/{}/o/{}/moveTo/o/{}", "move")
    def move(self, asked: Asked, bucket: str, name: str, to_name: str) -> dict[str, Any]:
        resource = self._copy(asked, self._source(asked, bucket, name), bucket, to_name)
        if to_name != name:
            self.store.bucket(bucket).delete(name)
        return resource

    @_route("POST", "storage/v1/b/{}/o/{}/compose", "compose")
    def compose(self, asked: Asked, bucket: str, name: str) -> dict[str, Any]:
        body = asked.json()
        parts = body["sourceObjects"]
        if not 0 < len(parts) <= MAX_COMPOSED:
            raise ApiError(400, f"There must be at most {MAX_COMPOSED} source objects, got {len(parts)}.")
        sources = [self.store.find(bucket, part["name"], part.get("generation")) for part in parts]
        for part, source in zip(parts, sources, strict=True):
            check_conditions(part.get("objectPreconditions", {}), source)
        content = b"".join(source.content for source in sources)
        hashes = (hashes_of(content)[0], "")
        return self._put(asked.query, bucket, name, content, body.get("destination", {}), hashes)

    def _source(self, asked: Asked, bucket: str, name: str) -> StoredObject:
        source = self.store.find(bucket, name, asked.query.get("sourceGeneration"))
        check_conditions(asked.query, source, source=True)
        return source

    def _copy(self, asked: Asked, source: StoredObject, bucket: str, name: str) -> dict[str, Any]:
        fields = asked.json() or {"contentType": source.content_type, **source.properties}
        return self._put(asked.query, bucket, name, source.content, fields, (source.crc32c, source.md5))

    def _put(
        self,
        conditions: Mapping[str, str],
        bucket: str,
        name: str,
        content: bytes,
        fields: Mapping[str, Any],
        hashes: Hashes | None = None,
    ) -> dict[str, Any]:
        check_conditions(conditions, self.store.bucket(bucket).objects.get(name))
        stored = self.store.new(bucket, name, content, fields, hashes)
        for key, value in (("crc32c", stored.crc32c), ("md5Hash", stored.md5)):
            if hashes is None and fields.get(key, value) != value:
                raise ApiError(400, f"Provided {key} {fields[key]!r} doesn't match calculated {value!r}.")
        self.store.bucket(bucket).put(stored)
        return resource(stored, self.origin)

    @_route("POST", "upload/storage/v1/b/{}/o", "upload")
    def upload(self, asked: Asked, bucket: str) -> Answer | dict[str, Any]:
        if "upload_id" in asked.query:
            return self.upload_chunk(asked, bucket)
        self.store.bucket(bucket)
        fields, content = read_upload(asked)
        name = asked.query.get("name") or fields.get("name")
        if not name:
            raise ApiError(400, "Required parameter: name")
        if asked.query.get("uploadType") != "resumable":
            return self._put(asked.query, bucket, name, content, fields)
        identity = self.uploads.start(bucket, name, asked.query, fields)
        return Answer(200, b"", {"Location": f"{self.origin}{asked.target}&upload_id={identity}"})

    @_route("PUT", "upload/storage/v1/b/{}/o", "upload")
    def upload_chunk(self, asked: Asked, bucket: str) -> Answer | dict[str, Any]:
        session = self.uploads.find(asked.query["upload_id"])
        if session.resource is not None:
            return session.resource
        if not session.receive(asked):
            size = len(session.received)
            return Answer(308, b"", {"Range": f"bytes=0-{size - 1}"} if size else {})
        fields = {**session.fields, **read_hashes(asked)}
        content = bytes(session.received)
        session.resource = self._put(session.conditions, bucket, session.name, content, fields)
        session.received.clear()
        return session.resource

    @_route("DELETE", "upload/storage/v1/b/{}/o", "upload_cancel")
    def cancel_upload(self, asked: Asked, bucket: str) -> Answer:
        self.uploads.cancel(asked.query["upload_id"])
        return Answer(499)


def _media(stored: StoredObject, wanted: str | None) -> Answer:
    hashes = [f"crc32c={stored.crc32c}", *([f"md5={stored.md5}"] if stored.md5 else [])]
    headers = {
        "Content-Type": stored.content_type,
        "ETag": stored.etag,
        "X-Goog-Generation": str(stored.generation),
        "X-Goog-Metageneration": str(stored.metageneration),
        "X-Goog-Hash": ",".join(hashes),
        "X-Goog-Storage-Class": "STANDARD",
        "X-Goog-Stored-Content-Encoding": stored.properties.get("contentEncoding", "identity"),
        "X-Goog-Stored-Content-Length": str(stored.size),
    }
    if "contentEncoding" in stored.properties:
        headers["Content-Encoding"] = stored.properties["contentEncoding"]
    first, end = read_range(wanted, stored.size)
    if first is None:
        return Answer(200, stored.content, headers)
    headers["Content-Range"] = f"bytes {first}-{end - 1}/{stored.size}"
    return Answer(206, stored.content[first:end], headers)

"""Images of a web server: a manifest of URLs, pages of links, what changed and what is gone."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web

from tests import dataset
from transforms import fetching, remote, storage, stores
from transforms.containers import Layout
from transforms.errors import BadImage, UsageError
from transforms.listing import Found, list_images
from transforms.members import KeptColumns
from transforms.records import ImageRef

MAX_BYTES = 1_000_000
MODIFIED = "Sat, 21 Nov 2026 18:00:00 GMT"


class WebServer:
    """A server of the files in `files`; what it does besides is in the attributes.

    Attributes:
        url: With a slash at its end.
        files: Content by path.
        validators: Headers of each answer, made of a content.
        statuses: Answered instead of a file, by method and path, the last one first.
        ranges: Whether it knows Range.
        packs: Whether it sends what it has with gzip though the client does not accept that.
        silent: Whether it says nothing.
        chunks: Of 64 KiB, left of a file that it sends for as long as someone reads.
        requests: Method and path of each, in the order they came.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self.reset()

    def reset(self) -> None:
        self.files: dict[str, bytes] = {}
        self.validators: Callable[[bytes], dict[str, str]] = etag
        self.statuses: dict[str, list[int]] = {}
        self.ranges = True
        self.packs = False
        self.silent = False
        self.chunks = 0
        self.requests: list[str] = []

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path.lstrip("/")
        asked = f"{request.method} {path}"
        self.requests.append(asked)
        if self.statuses.get(asked):
            return web.Response(status=self.statuses[asked].pop())
        if self.silent:
            self.silent = False
            await asyncio.sleep(5)
        if self.chunks:
            return await self._send_chunks(request)
        if path.endswith("/") or not path:
            return self._links(path)
        if f"{path}/" in self.files:
            raise web.HTTPFound(f"/{path}/")
        if path not in self.files:
            return web.Response(status=404)
        return self._file(request, self.files[path])

    def _file(self, request: web.BaseRequest, content: bytes) -> web.Response:
        headers = self.validators(content)
        response = web.Response(body=content, headers=headers, content_type="image/jpeg")
        response.enable_compression(web.ContentCoding.gzip if self.packs else None)
        if not self.packs and self.ranges and request.http_range != slice(None, None, 1):
            if not content:
                return web.Response(status=416)
            response = web.Response(body=content[request.http_range], status=206, headers=headers)
        return response

    async def _send_chunks(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            while self.chunks:
                await response.write(bytes(1 << 16))
                self.chunks -= 1
        return response

    def _links(self, folder: str) -> web.Response:
        names = {path[len(folder) :].partition("/") for path in self.files if path.startswith(folder)}
        links = "".join(f'<a href="{name}{slash}">x</a>' for name, slash, _ in names if name)
        return web.Response(
            text=f'<a href="../">x</a><a href="/{folder}">x</a>{links}',
            content_type="text/html",
            status=200 if links else 404,
        )


def etag(content: bytes) -> dict[str, str]:
    return {"ETag": f'"{hashlib.md5(content).hexdigest()[:8]}"'}


def modified(content: bytes) -> dict[str, str]:
    return {"Last-Modified": MODIFIED if content == b"content" else MODIFIED.replace("18", "19")}


def nothing(content: bytes) -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    started: Future[WebServer] = Future()
    stop: Future[None] = Future()

    async def serve() -> None:
        # What answers is known once the port is.
        runner = web.ServerRunner(web.Server(lambda request: started.result().answer(request)))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        started.set_result(WebServer(runner.addresses[0][1]))
        await asyncio.wrap_future(stop)
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    yield started.result(10)
    stop.set_result(None)
    thread.join()


@pytest.fixture
def site(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> WebServer:
    """The server without files; nothing is waited for long."""
    server.reset()
    monkeypatch.setattr("transforms.patience.LONGEST_WAIT_SECONDS", 0.05)
    return server


def reason(ref: ImageRef) -> str:
    content = fetching.fetch(ref, MAX_BYTES).content
    assert isinstance(content, BadImage)
    return content.error


@pytest.mark.parametrize(
    ("validators", "version"), [(etag, "9a0364b9"), (modified, MODIFIED), (nothing, "7 bytes")]
)
def test_an_image_takes_one_request_and_has_what_the_server_tells_as_version(
    site: WebServer, validators: Callable[[bytes], dict[str, str]], version: str
) -> None:
    site.files["a b%é.jpg"] = b"content"
    site.validators = validators
    (ref,) = list_images([f"{site.url}a b%25é.jpg"], Found())
    assert (ref.size, ref.version) == (7, version)
    assert site.requests == ["HEAD a b%é.jpg"]
    site.requests.clear()
    fetched = fetching.fetch(ref, MAX_BYTES)
    assert (fetched.content, fetched.attempts) == (b"content", 1)
    assert site.requests == ["GET a b%é.jpg"]


def test_a_manifest_names_urls(site: WebServer, tmp_path: Path) -> None:
    names = [f"{number:03d}.jpg" for number in range(100)]
    site.files.update({name: name.encode() for name in names if name != "007.jpg"})
    manifest = tmp_path / "urls.txt"
    manifest.write_text("".join(f"{site.url}{name}\n" for name in names))
    refs = list(list_images([str(manifest)], Found()))
    fetched = list(fetching.fetch_many(refs, MAX_BYTES))
    for name, each in zip(names, fetched, strict=True):
        if name != "007.jpg":
            assert each.content == name.encode()
    assert fetched[7].content.error == "not_found"


def test_of_a_manifest_no_more_urls_are_asked_about_than_the_window(site: WebServer) -> None:
    drawn = []
    urls = (drawn.append(number) or f"{site.url}{number}.jpg" for number in range(400))
    references = storage.references(urls)
    next(references)
    assert len(drawn) == remote.REFERENCES_AHEAD == 256
    references.close()


def test_what_a_manifest_says_of_urls_that_are_asked_about_at_once_stays_with_each(
    site: WebServer, tmp_path: Path
) -> None:
    names = [f"{number:03d}.jpg" for number in range(20)]
    site.files.update(dict.fromkeys(names, b"content"))
    manifest = tmp_path / "urls.csv"
    manifest.write_text("uri,label\n" + "".join(f"{site.url}{name},{name}\n" for name in names))
    layout = Layout(keep=("label",))
    refs = list_images([str(manifest)], Found(KeptColumns(layout.keep)), layout)
    assert [(ref.uri, ref.kept) for ref in refs] == [(f"{site.url}{name}", (name,)) for name in names]


@pytest.mark.parametrize("validators", [etag, modified])
def test_what_happened_since_listing_is_told(
    site: WebServer, validators: Callable[[bytes], dict[str, str]]
) -> None:
    site.validators = validators
    site.files.update(dict.fromkeys(("same.jpg", "changed.jpg", "longer.jpg", "gone.jpg"), b"content"))
    same, changed, longer, gone = storage.references(f"{site.url}{name}" for name in site.files)
    site.files.update({"changed.jpg": b"CONTENT", "longer.jpg": b"longer content"})
    del site.files["gone.jpg"]
    assert fetching.fetch(same, MAX_BYTES).content == b"content"
    assert reason(changed) == "changed"
    assert reason(longer) == "changed"
    assert reason(gone) == "not_found"


def test_where_nothing_tells_a_version_the_size_does(site: WebServer) -> None:
    site.validators = nothing
    site.files["a.jpg"] = b"content"
    ref = storage.reference(f"{site.url}a.jpg")
    assert fetching.fetch(ref, MAX_BYTES).content == b"content"
    site.files["a.jpg"] = b"other content"
    assert reason(ref) == "changed"


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_gone_is_not_found(site: WebServer, status: int) -> None:
    site.statuses["GET a.jpg"] = [status]
    assert reason(ImageRef(f"{site.url}a.jpg", 7, "x")) == "not_found"
    assert reason(storage.reference("http://[/a.jpg")) == "not_found"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_asked_about_once(site: WebServer, status: int) -> None:
    site.statuses["GET a.jpg"] = [status]
    assert reason(ImageRef(f"{site.url}a.jpg", 7, "x")) == "permission_denied"
    assert site.requests == ["GET a.jpg"]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_is_asked_for_again(site: WebServer, status: int) -> None:
    site.files["a.jpg"] = b"content"
    site.statuses = {"HEAD a.jpg": [status] * 3, "GET a.jpg": [status] * 3}
    ref = storage.reference(f"{site.url}a.jpg")
    assert ref.size == 7
    fetched = fetching.fetch(ref, MAX_BYTES)
    assert (fetched.content, fetched.attempts) == (b"content", 4)


def test_a_silent_connection_is_given_up(site: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.web.SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(stores, "_stores", {})
    site.files["a.jpg"] = b"content"
    site.silent = True
    fetched = fetching.fetch(ImageRef(f"{site.url}a.jpg", 7, None), MAX_BYTES)
    assert (fetched.content, fetched.attempts) == (b"content", 2)
    assert fetched.seconds < 4


@pytest.mark.parametrize("status", [403, 405, 501])
def test_a_server_need_not_know_head(site: WebServer, status: int) -> None:
    site.files["a.jpg"] = b"content"
    site.statuses["HEAD a.jpg"] = [status]
    ref = storage.reference(f"{site.url}a.jpg")
    assert (ref.size, ref.version) == (7, "9a0364b9")


def test_what_is_packed_on_the_way_has_no_size_before_it_comes(site: WebServer) -> None:
    site.files["a.jpg"] = b"content" * 100
    site.packs = True
    ref = storage.reference(f"{site.url}a.jpg")
    assert ref.size is None
    assert fetching.fetch(ref, MAX_BYTES).content == b"content" * 100


@pytest.mark.parametrize("ranges", [True, False])
def test_ranges_are_cut_where_the_server_does_not(site: WebServer, ranges: bool) -> None:
    site.ranges = ranges
    site.files.update({"a.txt": bytes(range(200)), "empty": b""})
    assert storage.read_tail(f"{site.url}a.txt", 10) == bytes(range(190, 200))
    assert storage.read_tail(f"{site.url}a.txt", 1000) == bytes(range(200))
    assert storage.read_tail(f"{site.url}empty", 10) == b""
    with storage.open_file(f"{site.url}a.txt") as file:
        file.seek(50)
        assert file.read(10) == bytes(range(50, 60))


def test_of_too_large_a_file_the_beginning_is_read(site: WebServer) -> None:
    site.chunks = 1000
    assert reason(ImageRef(f"{site.url}endless.jpg", None, None)) == "too_many_bytes"
    assert site.chunks > 500


def test_pages_of_links_are_folders(site: WebServer) -> None:
    site.files.update(dict.fromkeys(("in/a.jpg", "in/b/c.jpg", "in/d.txt", "other.jpg"), b"content"))
    site.files["in/"] = b""
    for pattern in (f"{site.url}in/", f"{site.url}in"):
        counts = Found()
        # A page links to itself, too, and would be gone into for ever.
        listed = sorted(ref.uri for ref in itertools.islice(list_images([pattern], counts), 9))
        assert listed == [f"{site.url}in/a.jpg", f"{site.url}in/b/c.jpg"]
        assert counts.ignored == 1
    assert not storage.exists(f"{site.url}in")
    with pytest.raises(UsageError, match=r"^there is no .*/none/; check --input$"):
        list(list_images([f"{site.url}none"], Found()))


def test_a_run_over_a_manifest_of_urls(
    site: WebServer,
    pixelbeam: Callable[..., tuple[int, str, str]],
    photographs: Path,
    tiny_toml: str,
    tmp_path: Path,
) -> None:
    paths = sorted(photographs.iterdir())
    site.files.update({path.name: path.read_bytes() for path in paths})
    manifest = tmp_path / "urls.csv"
    manifest.write_text(
        "uri\n" + "".join(f"{site.url}{path.name}\n" for path in paths) + f"{site.url}none.jpg\n"
    )
    code, _, errors = pixelbeam(
        "run", "--input", manifest, "--output", tmp_path / "out", "--variant", tiny_toml
    )
    assert code == 0, errors
    dataset.assert_conserved(tmp_path / "out")
    (failure,) = dataset.failures(dataset.variants(tmp_path / "out")[0])
    assert (failure["uri"], failure["error"]) == (f"{site.url}none.jpg", "not_found")
    assert pixelbeam("verify", tmp_path / "out")[0] == 0
    gets = [request for request in site.requests if request.startswith("GET ")]
    assert len(gets) == len(paths) + 1

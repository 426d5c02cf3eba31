"""A TF Hub on loopback that has the tiny module, and variants whose module is anywhere."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests import tiny
from transforms.variants import Variant, find


@contextmanager
def serve(module: Path) -> Iterator[str]:
    """A server that speaks TF Hub's protocol for compressed modules; gives its address."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(module, arcname=".")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == f"/{tiny.NAME}?tf-hub-format=compressed"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(archive.getvalue() if found else b"")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def variant_at(folder: Path, handle: str) -> tuple[str, Variant]:
    """A TOML file whose module is at `handle`."""
    folder.mkdir(exist_ok=True)
    (folder / "module").mkdir()
    path = Path(tiny.write_variant(str(folder)))
    path.write_text(path.read_text().replace('handle = "module"', f'handle = "{handle}"'))
    return str(path), find(str(path))

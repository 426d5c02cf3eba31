"""An S3 on 127.0.0.1 for tests: moto's, in a thread of this process, which counts requests and fails when told."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import S3Backend, s3_backends
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from tests.gcs_server import Counts

ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{0}</Code><Message>{0}</Message></Error>'


@dataclass
class Fault:
    """What happens to the next requests of a kind.

    Attributes:
        method: Theirs; "" for any.
        path: Part of theirs, of the form /bucket/name.
        header: Which they have; "" for any.
        times: How many of them.
        status: Answered to them.
        code: S3's name for the status; where there is none, the answer is the true one but for `change`.
        carried_out: Whether what they ask for is done all the same: only the answer is lost.
        change: Of the body of the true answer, whose headers stay.
    """

    method: str = ""
    path: str = "/"
    header: str = ""
    times: int = 1
    status: int = 200
    code: str = ""
    carried_out: bool = False
    change: Callable[[bytes], bytes] = bytes

    def concerns(self, request: Request) -> bool:
        """Whether it happens to this request."""
        is_theirs = self.method in ("", request.method) and self.path in request.path
        return self.times > 0 and is_theirs and (not self.header or self.header in request.headers)

    def answer(self, app: Any, environ: dict[str, Any]) -> Response:
        """What is answered in place of the application."""
        if self.code:
            if self.carried_out:
                Response.from_app(app, environ)
            return Response(ERROR.format(self.code), self.status, content_type="application/xml")
        answer = Response.from_app(app, environ)
        length = len(answer.data)
        answer.data = self.change(answer.data)
        answer.content_length = length
        return answer


class S3Server:
    """The server that runs at `url`, with the controls of `GcsServer`.

    Attributes:
        requests: Method and path of each, in the order they came.
        faults: Of which the first that concerns a request happens to it.
        latency_seconds: Waited before every answer.
    """

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.latency_seconds = 0.0
        self._faults_met: Counter[str] = Counter()
        self._in_flight = 0
        self._peak_in_flight = 0
        self._lock = threading.Lock()
        self._app = DomainDispatcherApplication(create_backend_app)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead the clients of S3 here."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def put(self, bucket: str, name: str, content: bytes, **options: Any) -> str:
        """Store an object; returns its ETag."""
        return _backend().put_object(bucket, name, content, **options).etag.strip('"')

    def get(self, bucket: str, name: str) -> bytes:
        """An object's content."""
        return _backend().get_object(bucket, name).value

    def delete(self, bucket: str, name: str) -> None:
        """Forget an object."""
        _backend().delete_object(bucket, name)

    def objects(self, bucket: str) -> list[str]:
        """Names in a bucket, sorted."""
        return sorted(_backend().get_bucket(bucket).keys)

    def reset(self, *buckets: str) -> None:
        """Forget all and make empty buckets."""
        _backend().reset()
        for bucket in buckets:
            _backend().create_bucket(bucket, "us-east-1")
        self.set(faults=[], latency_seconds=0.0)
        self.reset_counts()

    def set(self, **changes: Any) -> None:
        """Change `faults` or `latency_seconds`, at once."""
        vars(self).update(changes)

    @property
    def counts(self) -> Counts:
        """What was asked so far: requests by method, faults by code."""
        paths = (request.removeprefix("GET /") for request in self.requests if request.startswith("GET /"))
        return Counts(
            requests=Counter(request.split(" ")[0] for request in self.requests),
            downloads=Counter(path for path in paths if path.partition("/")[2]),
            faults=self._faults_met,
            peak_in_flight=self._peak_in_flight,
        )

    def reset_counts(self) -> None:
        """Count from zero."""
        self.requests, self._faults_met, self._peak_in_flight = [], Counter(), 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        with self._lock:
            self.requests.append(f"{request.method} {request.path}")
            self._in_flight += 1
            self._peak_in_flight = max(self._peak_in_flight, self._in_flight)
            fault = next((fault for fault in self.faults if fault.concerns(request)), None)
            if fault:
                fault.times -= 1
                self._faults_met[fault.code] += 1
        time.sleep(self.latency_seconds)
        try:
            answering = fault.answer(self._app, environ) if fault else self._app
            return answering(environ, start_response)
        finally:
            with self._lock:
                self._in_flight -= 1


def _backend() -> S3Backend:
    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]


class _Quiet(WSGIRequestHandler):
    def log(self, *arguments: Any) -> None:
        """Nothing is logged."""


@contextmanager
def serve() -> Iterator[S3Server]:
    """A server at a free port."""
    application = S3Server()
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Quiet)
    application.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield application
    finally:
        server.shutdown()
        thread.join()

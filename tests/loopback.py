"""What the servers of the tests have in common: a process of their own on 127.0.0.1, and controls over HTTP."""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

CONTROL = "/_control/"
LONGEST_LINE = 1 << 16
"""Bytes: a name may have 1024, three times as many when encoded, and a listing names up to four."""
KEPT_ALIVE_SECONDS = 3600

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Controls:
    """The controls of a server that runs at `url`, from whichever process."""

    def __init__(self, url: str) -> None:
        self.url = url

    def control(self, command: str, **arguments: Any) -> Any:
        """What the server's method `control_COMMAND` returns for these arguments; all of it is JSON."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=120)
        try:
            connection.request("POST", CONTROL + command, json.dumps(arguments))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"{command} failed: {content.decode()}")
        return json.loads(content)


@contextmanager
def serve(module: str, port: int = 0) -> Iterator[str]:
    """The URL of a server in a process of its own, at a free port unless told; it ends with this process at the latest.

    Args:
        module: What to run; its `main` is the one below.
        port: Where it listens.
    """
    command = [sys.executable, "-m", module, "--port", str(port), "--stop-with-stdin"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdin=pipe, stdout=pipe, text=True
    ) as process:
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError("the server did not start")
            yield url
        finally:
            process.kill()


def main(description: str, handler_at: Callable[[str], Handler]) -> None:
    """Serve until killed; the first line of stdout is the URL.

    Args:
        description: For `--help`.
        handler_at: Makes what answers requests, given the URL.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--stop-with-stdin", action="store_true", help="stop when stdin is closed")
    arguments = parser.parse_args()
    asyncio.run(_run(handler_at, arguments.port, stop_with_stdin=arguments.stop_with_stdin))


async def _run(handler_at: Callable[[str], Handler], port: int, *, stop_with_stdin: bool) -> None:
    listening = socket.create_server(("127.0.0.1", port), backlog=1024)
    origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = web.Server(
        handler_at(origin),
        access_log=None,
        keepalive_timeout=KEPT_ALIVE_SECONDS,
        max_line_size=LONGEST_LINE,
        max_field_size=LONGEST_LINE,
    )
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.SockSite(runner, listening, backlog=1024).start()
    print(origin, flush=True)
    stopped = asyncio.Event()
    if stop_with_stdin:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stopped.set)
    await stopped.wait()

"""One image behind a URL: its bytes as they were listed, or the reason why not."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from functools import partial

from transforms.errors import BadImage
from transforms.fetching import CHANGED, PASSING_ERROR, REFUSED, Fetched, check_size
from transforms.patience import GaveUp, ShortRead, is_refusal
from transforms.records import ImageRef
from transforms.stores import Store, loop, store_of


def begin(ref: ImageRef, max_bytes: int) -> Future[Fetched]:
    """The image's bytes, asked for and on their way."""
    return asyncio.run_coroutine_threadsafe(_fetch(ref, max_bytes), loop())


async def _fetch(ref: ImageRef, max_bytes: int) -> Fetched:
    started, attempts = time.perf_counter(), 1
    content: bytes | BadImage
    try:
        check_size(ref, max_bytes)
        store = store_of(ref.uri)
        content, attempts = await store.patience.call(partial(_read_as_listed, store, ref, max_bytes))
    except BadImage as reason:
        content = reason
    except GaveUp as failed:
        content, attempts = _reason(failed.error), failed.attempts
    return Fetched(ref, content, time.perf_counter() - started, attempts)


async def _read_as_listed(store: Store, ref: ImageRef, max_bytes: int) -> bytes:
    # Of unknown size is what was not there when it was listed.
    answer = await (store.read(ref.uri) if ref.size is not None else store.read(ref.uri, 0, max_bytes + 1))
    if None not in (ref.version, answer.version) and answer.version != ref.version:
        raise CHANGED
    if len(answer.content) > max_bytes:
        raise BadImage("too_many_bytes", f"more than the limit of {max_bytes:,} bytes")
    if answer.as_stored and ref.size is not None and len(answer.content) != ref.size:
        if answer.version is None and (await store.info(ref.uri))[1] != ref.version:
            raise CHANGED
        raise ShortRead(f"{len(answer.content):,} bytes came of {ref.size:,}")
    return answer.content


def _reason(error: Exception) -> BadImage:
    if isinstance(error, BadImage):
        return error
    if isinstance(error, FileNotFoundError):
        return BadImage("not_found", "no such object")
    if isinstance(error, IsADirectoryError):
        return BadImage("not_a_file", "it is a directory")
    if is_refusal(error):
        return BadImage(REFUSED, "the store refuses to give it: 401 or 403")
    text = str(error).strip() or type(error).__name__
    return BadImage(PASSING_ERROR, text.splitlines()[0][:200])

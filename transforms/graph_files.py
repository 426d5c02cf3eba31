"""Optimised graphs kept in files, one beside each module, each with a hash of its own."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from contextlib import suppress

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework.graph_pb2 import GraphDef

from transforms.graphs import GraphFacts, Optimised
from transforms.variants import Variant

FORMAT = 1
"""Changes with what a kept file holds, so that older ones are made anew."""


def keep(path: str, optimised: Optimised) -> None:
    """Writes one file, atomically: a line of JSON with the facts and the graph's hash, then the graph.

    It may be written twice or by two processes: the last one wins, with the same content.
    """
    body = b"" if optimised.graph is None else optimised.graph.SerializeToString(deterministic=True)
    head = {
        "format": FORMAT,
        "sha256": hashlib.sha256(body).hexdigest(),
        "facts": optimised.facts.to_json(),
    }
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex[:8]}"
    try:
        with open(temporary, "wb") as file:
            file.write(json.dumps(head).encode() + b"\n" + body)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def read(path: str, module_sha256: str) -> Optimised | None:
    """What `keep` wrote; None where it is missing, broken, or of another module, TensorFlow or format."""
    found = _read(path, module_sha256)
    if found is None:
        return None
    facts, body = found
    try:
        return Optimised(None if facts.form == "loaded" else GraphDef.FromString(body), facts)
    except DecodeError:
        return None


def digest(path: str) -> str:
    """SHA-256 of a kept file, 64 hex digits."""
    content = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            content.update(chunk)
    return content.hexdigest()


def origin(path: str) -> tuple[str, int]:
    """Version of the TensorFlow that made a whole file, and the file's format."""
    with open(path, "rb") as file:
        head = json.loads(file.readline())
    return head["facts"]["tensorflow"], head["format"]


def read_facts(path: str, variant: Variant, module_sha256: str) -> GraphFacts | None:
    """The facts of a kept graph that `read` would give and that is for this variant's size and outputs.

    The graph's hash is checked, which takes as long as its bytes; it is not parsed.
    """
    found = _read(path, module_sha256)
    if found is None or found[0].size != variant.size or set(found[0].outputs) != set(variant.outputs):
        return None
    return found[0]


def _read(path: str, module_sha256: str) -> tuple[GraphFacts, bytes] | None:
    try:
        with open(path, "rb") as file:
            head, body = json.loads(file.readline()), file.read()
        facts = GraphFacts.from_json(head["facts"])
        fresh = (head["format"], facts.module_sha256, facts.tensorflow) == (
            FORMAT,
            module_sha256,
            tf.__version__,
        )
        whole = head["sha256"] == hashlib.sha256(body).hexdigest()
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return (facts, body) if fresh and whole else None

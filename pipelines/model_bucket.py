"""Modules kept in a bucket, for workers that never touch the internet.

```
MODEL_DIR/NAME.json           the description, which names all else by its hash: the commit
MODEL_DIR/NAME-HASH.graph     the optimised graph, all that workers read
MODEL_DIR/NAME-HASH/          the SavedModel as it was pulled; one that somebody put in MODEL_DIR/NAME/ stays there
```

Only the description is ever replaced. What it named before stays, since workers of a running job may want it still.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass

import tensorflow as tf

from pipelines import module_sources
from pipelines.module_sources import Kept, in_store
from pipelines.terminal import Line
from transforms import graph_files, graphs, modules, storage
from transforms.errors import RunError
from transforms.variants import Variant

HASH_DIGITS = 12


@dataclass(frozen=True)
class Found:
    """What a bucket holds of a variant.

    Attributes:
        kept: The module; None where a run could not use it.
        lack: Why not, in a few words; empty where there is nothing to be said.
        module: Directory of the SavedModel that the description names, usable or not; None where there is none.
        token: The description's, for `storage.swap`.
    """

    kept: Kept | None
    lack: str
    module: str | None
    token: str | None


def look(variant: Variant, model_dir: str) -> Found:
    """What `model_dir` holds of a variant, told by the description and by the versions of what it names."""
    content, token = storage.read_versioned(_description_path(variant, model_dir))
    if content is None:
        return Found(None, "it is not there", None, token)
    try:
        kept, versions, graph_format = _from_json(content, variant, model_dir)
    except (ValueError, TypeError, LookupError):
        return Found(None, "its description cannot be read", None, token)
    lack = _lack(kept, variant, graph_format)
    if not lack and versions != _versions(kept, _tree_version(kept.module_path)):
        lack = "its files are not those that were pulled"
    return Found(None if lack else kept, lack, kept.module_path, token)


def adopt(variant: Variant, model_dir: str) -> Kept | None:
    """Check, describe, optimise and keep a module that need not be fetched; None where there is none.

    It is in a directory of one's own, here or in a store; else where somebody put it or an earlier pull did.
    """
    if os.path.isdir(variant.handle):
        return keep(variant, model_dir, variant.handle)
    own = variant.handle if in_store(variant.handle) else os.path.join(model_dir, variant.directory)
    for place in dict.fromkeys((own, look(variant, model_dir).module or own)):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, variant.directory)
            version = _tree_version(place)
            if module_sources.download(variant, place, path) and (place == own or _is_whole(place, path)):
                return keep(variant, model_dir, path, (place, version))
    return None


def keep(variant: Variant, model_dir: str, path: str, place: tuple[str, str] | None = None) -> Kept:
    """Check, describe, optimise and keep the module in the local directory `path`.

    May run twice, in two processes at once: all files but the description are named by their content, and who
    finds another description of use adopts it.

    Args:
        variant: Whose module it is.
        model_dir: A URL.
        path: The module.
        place: Where the module lies in a store, and the version of that; None where it is to be put into `model_dir`.

    Raises:
        RunError: The module is not what the catalogue promises, or the store takes nothing.
    """
    token = storage.read_versioned(_description_path(variant, model_dir))[1]
    try:
        description, optimised = module_sources.describe(path, variant)
    except RunError as error:
        raise RunError(str(error).replace(path, place[0] if place else path)) from error
    with Line(f"putting {variant.name} into {model_dir}"):
        if place is None:
            module = _named(variant, model_dir, description.sha256)
            _put_tree(path, module)
            place = module, _tree_version(module)
        graph, sha256 = _put_graph(variant, model_dir, optimised)
    kept = Kept(description, optimised.facts, place[0], graph, sha256)
    return _commit(variant, model_dir, kept, _to_json(kept, place[1]), token)


def _commit(variant: Variant, model_dir: str, kept: Kept, content: bytes, token: str | None) -> Kept:
    while not storage.swap(_description_path(variant, model_dir), content, token):
        found = look(variant, model_dir)
        if found.kept and (kept.description.random_weights or not found.kept.description.random_weights):
            return found.kept
        token = found.token
    return kept


def _lack(kept: Kept, variant: Variant, graph_format: int) -> str:
    """Why a module is of no use here, as far as its description tells; empty where it is."""
    facts = kept.facts
    if graph_format != graph_files.FORMAT:
        return "another version of Pixelbeam pulled it"
    if facts.tensorflow != tf.__version__:
        return f"it was optimised by TensorFlow {facts.tensorflow}, and this is {tf.__version__}"
    if facts.size != variant.size or set(facts.outputs) != set(variant.outputs):
        return "it was pulled for another size or other outputs"
    if os.path.isdir(variant.handle) and modules.digest(variant.handle) != kept.description.sha256:
        return f"it is not the module in {variant.handle}"
    return ""


def _description_path(variant: Variant, model_dir: str) -> str:
    return os.path.join(model_dir, f"{variant.directory}.json")


def _named(variant: Variant, model_dir: str, sha256: str) -> str:
    return os.path.join(model_dir, f"{variant.directory}-{sha256[:HASH_DIGITS]}")


def _is_whole(place: str, path: str) -> bool:
    """Whether the files in `path`, which came from `place`, are those that its name is the hash of."""
    return place.endswith(f"-{modules.digest(path)[:HASH_DIGITS]}")


def _tree_version(url: str) -> str:
    """A hash of names, sizes and versions of all files in a directory of a store."""
    refs = [(name, ref.size, ref.version) for name, ref in storage.tree(url).items()]
    return hashlib.sha256(json.dumps(refs).encode()).hexdigest()


def _versions(kept: Kept, module_version: str) -> list[str]:
    graph = storage.reference(kept.graph_path)
    return [module_version, f"{graph.size} {graph.version}"]


def _to_json(kept: Kept, module_version: str) -> bytes:
    fields = {
        **kept.description.to_json(),
        "module": os.path.basename(kept.module_path),
        "graph": os.path.basename(kept.graph_path),
        "graph_sha256": kept.graph_sha256,
        "graph_format": graph_files.FORMAT,
        "graph_facts": kept.facts.to_json(),
        "versions": _versions(kept, module_version),
    }
    return json.dumps(fields, indent=1).encode()


def _from_json(content: bytes, variant: Variant, model_dir: str) -> tuple[Kept, list[str], int]:
    """The inverse of `_to_json`; ValueError, TypeError or LookupError where it is something else."""
    fields = json.loads(content)
    facts = graphs.GraphFacts.from_json(fields.pop("graph_facts"))
    versions, graph_format = fields.pop("versions"), fields.pop("graph_format")
    graph, sha256 = os.path.join(model_dir, fields.pop("graph")), fields.pop("graph_sha256")
    module = os.path.join(model_dir, fields.pop("module"))
    if in_store(variant.handle):
        module = variant.handle
    return Kept(modules.Description.from_json(fields), facts, module, graph, sha256), versions, graph_format


def _put_tree(path: str, url: str) -> None:
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            _put(file, f"{url}/{os.path.relpath(file, path)}")


def _put_graph(variant: Variant, model_dir: str, optimised: graphs.Optimised) -> tuple[str, str]:
    """The URL and hash of the file with the optimised graph."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "graph")
        graph_files.keep(path, optimised)
        sha256 = graph_files.digest(path)
        url = f"{_named(variant, model_dir, sha256)}.graph"
        _put(path, url)
    return url, sha256


def _put(path: str, url: str) -> None:
    """Upload a file whose name is its content's; what is there with other content was damaged, and gives way."""
    if not storage.commit(path, url):
        storage.delete(url)
        storage.commit(path, url)

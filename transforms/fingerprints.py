"""What decides the content of a rows file, folded into hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from transforms import images
from transforms.records import ImageRef, Target, Unit
from transforms.variants import Variant

Settings = dict[str, str | int | list[float] | list[str] | None]

FORMAT_VERSION = 1
HASH_MODULUS = 1 << 128


def uri_hash(uri: str) -> int:
    """The first 128 bits of BLAKE2b over the uri's UTF-8 bytes."""
    return int.from_bytes(hashlib.blake2b(uri.encode(), digest_size=16).digest(), "big")


def uri_hash_sum(uris: Iterable[str]) -> str:
    """The sum modulo 2^128 of the uris' hashes, 32 hex digits: equal for equal sets in any order."""
    return f"{sum(map(uri_hash, uris)) % HASH_MODULUS:032x}"


def add_hash_sums(*sums: str) -> str:
    """The hash sum of the union of disjoint sets."""
    return f"{sum(int(each, 16) for each in sums) % HASH_MODULUS:032x}"


def members_hash(refs: Iterable[ImageRef]) -> str:
    """SHA-256 over what decides every image's row, in order, 64 hex digits: uri, size, version, kept values."""
    digest = hashlib.sha256()
    encode = json.JSONEncoder(default=repr).encode
    for ref in refs:
        column = ref.place.image_column if ref.place else None
        digest.update(encode((ref.uri, ref.size, ref.version, column, ref.kept)).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class VariantRun:
    """One variant as this run does it: all that the workers are told of it.

    Attributes:
        variant: From the catalogue.
        module_path: Directory of the SavedModel, a path or a URL.
        module_sha256: Of the module's files.
        graph_path: Where its optimised graph is kept, a path or a URL.
        n_classes: Width of the logits; None where the module has none.
        n_features: Width of the features; None where the module has none.
        precision: `exact` or `fast`.
        class_names: One a class, or None.
        random_weights: The module was made without trained weights.
        keep: Names of the columns that are carried along from the source.
        graph_sha256: Of the graph's file where that is in a store; a local one is checked by its own first line.
    """

    variant: Variant
    module_path: str
    module_sha256: str
    graph_path: str
    n_classes: int | None
    n_features: int | None
    precision: str
    class_names: tuple[str, ...] | None
    random_weights: bool
    keep: tuple[str, ...] = ()
    graph_sha256: str | None = None

    @cached_property
    def settings(self) -> Settings:
        """Everything but the images that decides the rows, in plain JSON types."""
        names = self.class_names
        return {
            "format": FORMAT_VERSION,
            "variant": self.variant.name,
            "module": self.module_sha256,
            "resize": self.variant.resize,
            "size": self.variant.size,
            "input_range": list(self.variant.input_range),
            "orientation": "exif",
            "max_bytes": images.MAX_BYTES,
            "max_pixels": images.MAX_PIXELS,
            "precision": self.precision,
            "activation": self.variant.activation,
            "n_classes": self.n_classes,
            "n_features": self.n_features,
            "keep": list(self.keep),
            "class_names": None if names is None else hashlib.sha256("\n".join(names).encode()).hexdigest(),
        }

    def fingerprint(self, unit: Unit) -> str:
        """12 hex digits that change when the module, the preprocessing, the schema or an image does."""
        text = json.dumps([self.settings, unit.members], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def target(self, unit: Unit) -> Target:
        """The unit as this variant's target."""
        return Target(unit, self.variant.name, self.fingerprint(unit), unit.n_images)

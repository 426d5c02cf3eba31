"""What each model variant wants and gives: the catalogue, a user's own TOML file, class names."""

from __future__ import annotations

import difflib
import functools
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

from transforms import storage
from transforms.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Format = Literal["tf1-hub", "tf2"]
Resize = Literal["center_crop_bicubic", "center_crop_bilinear", "squash_bilinear"]
Output = Literal["logits", "features"]
Activation = Literal["softmax", "sigmoid"]

FORMATS = ("tf1-hub", "tf2")
RESIZE_POLICIES = ("center_crop_bicubic", "center_crop_bilinear", "squash_bilinear")
ACTIVATIONS = ("softmax", "sigmoid")

_CATALOGUE = Path(__file__).with_name("catalogue.toml")


@dataclass(frozen=True)
class Variant:
    """One model variant: where its module is, what it wants to see and what it gives.

    Attributes:
        name: The TF Hub name, such as `google/efficientnet/b4/classification/1`.
        format: `tf1-hub` (a TF1 module, MetaGraph without tags) or `tf2` (a TF2 SavedModel).
        size: Side of the square input image, pixels.
        fixed_size: Whether the module takes no other size.
        resize: The policy that makes the square, by its name.
        outputs: What the module gives.
        handle: URL or directory of the module.
        input_range: What black and white (0 and 255) become in the float32 `[n, size, size, 3]` RGB input.
        n_classes: Accepted widths of the logits, the expected one first; empty: whatever the module says.
        n_features: Accepted widths of the features, the expected one first; empty: whatever the module says.
        activation: What turns logits into probabilities; `sigmoid` for the multi-label heads of ImageNet-21k.
        parameters_millions: As published, with the classification head; None where unknown.
        multiply_adds_billions: As published, for one image of `size`; None where unknown.
        top1_percent: As published, on ImageNet; None where unknown or not a classifier.
    """

    name: str
    format: Format
    size: int
    fixed_size: bool
    resize: Resize
    outputs: tuple[Output, ...]
    handle: str
    input_range: tuple[float, float] = (0.0, 1.0)
    n_classes: tuple[int, ...] = ()
    n_features: tuple[int, ...] = ()
    activation: Activation = "softmax"
    parameters_millions: float | None = None
    multiply_adds_billions: float | None = None
    top1_percent: float | None = None

    @property
    def directory(self) -> str:
        """The name as one path segment, such as `google-efficientnet-b4-classification-1`."""
        return self.name.replace("/", "-")


@functools.cache
def catalogue() -> tuple[Variant, ...]:
    """The variants that come with the package, in the catalogue's order."""
    return read(_CATALOGUE)


def find(spec: str) -> Variant:
    """The variant that `spec` names.

    Args:
        spec: A TF Hub name, its directory's spelling, or the path of a TOML file with one variant.

    Raises:
        UsageError: No variant is called so, or the file does not hold exactly one valid variant.
    """
    if spec.endswith(".toml"):
        own = read(Path(spec))
        if len(own) != 1:
            raise UsageError(f"{spec}: holds {len(own)} variants; keep one in a file and name each file")
        return own[0]
    for variant in catalogue():
        if spec in (variant.name, variant.directory):
            return variant
    raise UsageError(f"no variant is called {spec!r}; {_nearest(spec)}`pixelbeam variants` lists them")


def read(path: Path) -> tuple[Variant, ...]:
    """The variants of a TOML file: an array `variants` of tables with the fields of `Variant`.

    A relative `handle` is a directory beside the file; without one it is `https://tfhub.dev/NAME`.

    Raises:
        UsageError: The file cannot be read, or a field is missing, unknown or wrong.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; correct --variant") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not TOML: {error}; mend that line") from error
    tables = document.get("variants")
    if set(document) != {"variants"} or not _is_list_of(dict, tables) or not tables:
        raise UsageError(f"{path}: holds {sorted(document)}; write one [[variants]] table a variant only")
    variants = tuple(_parse(path, number, table) for number, table in enumerate(tables, start=1))
    directories = [variant.directory for variant in variants]
    twice = sorted({name for name in directories if directories.count(name) > 1})
    if twice:
        raise UsageError(f"{path}: more than one variant is called {twice[0]}; give each its own name")
    return variants


def class_names(path: str, n_classes: int) -> list[str]:
    """The names of classes 0 to `n_classes - 1` from a text file with one name a line.

    A file with one line more than there are classes starts with a background class, which is left out
    (`ImageNetLabels.txt` has 1,001 lines, the 1,000-class modules do not give "background").

    Raises:
        UsageError: The file cannot be read or has neither `n_classes` nor `n_classes + 1` lines.
    """
    try:
        lines = storage.read(path).decode("utf-8-sig").replace("\r\n", "\n").rstrip("\n").split("\n")
    except OSError as error:
        raise UsageError(
            f"{path}: class names cannot be read: {error.strerror or 'No such file'}; correct --class-names"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: class names are not UTF-8 text: {error}; save the file as UTF-8"
        ) from error
    if len(lines) not in (n_classes, n_classes + 1):
        raise UsageError(
            f"{path}: has {len(lines)} class names, the module gives {n_classes} classes;"
            f" write one name a line, {n_classes} lines (or one more, the first for a background class)"
        )
    return [line.strip() for line in lines[len(lines) - n_classes :]]


def _parse(path: Path, number: int, table: Mapping[str, object]) -> Variant:
    """The variant that the `number`th table of a file describes."""
    where = f"{path}: variant {table.get('name', number)!r}"
    for key in table:
        if key not in _RULES:
            near = difflib.get_close_matches(key, _RULES, n=1)
            raise UsageError(
                f"{where}: unknown field {key!r}; {f'nearest: {near[0]}' if near else 'leave it out'}"
            )
    for field in fields(Variant):
        if field.default is MISSING and field.name not in table and field.name != "handle":
            raise UsageError(f"{where}: field {field.name} is missing; it {_RULES[field.name].text}")
    values: dict[str, Any] = {}
    for key, value in table.items():
        if not _RULES[key].accepts(value):
            raise UsageError(f"{where}: field {key} {_RULES[key].text}, got {value!r}")
        values[key] = tuple(value) if isinstance(value, list) else value
    handle = cast(str, table.get("handle", f"https://tfhub.dev/{table['name']}"))
    values["handle"] = handle.rstrip("/") if "://" in handle else str(path.absolute().parent / handle)
    return Variant(**values)


@dataclass(frozen=True)
class _Rule:
    """What one field may hold: the rule as a person reads it, and the check."""

    text: str
    accepts: Callable[[object], bool]


def _one_of(names: tuple[str, ...]) -> _Rule:
    return _Rule(f"must be one of {', '.join(names)}", lambda value: value in names)


def _nearest(spec: str) -> str:
    names = [name for variant in catalogue() for name in (variant.name, variant.directory)]
    near = difflib.get_close_matches(spec, names, n=3) or [name for name in names if spec in name][:3]
    return f"nearest: {', '.join(near)}; " if near else ""


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_int(value) or isinstance(value, float)


def _is_list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_name(value: object) -> bool:
    # The name becomes a directory, `variant=NAME`, so nothing in it may climb, hide or need escaping.
    return isinstance(value, str) and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", value, re.ASCII) is not None


def _is_size(value: object) -> bool:
    return _is_int(value) and cast(int, value) >= 1


def _are_widths(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_size, value))


def _are_outputs(value: object) -> bool:
    return value in (["logits"], ["features"], ["logits", "features"])


def _is_range(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]


_POSITIVE = _Rule("must be a number above 0", lambda value: _is_number(value) and cast(float, value) > 0)
_WIDTHS = _Rule("must be a list of whole numbers of at least 1", _are_widths)
_RULES = {
    "name": _Rule("must be letters, digits, '.', '_' and '-' between slashes", _is_name),
    "format": _one_of(FORMATS),
    "size": _Rule("must be a whole number of pixels, at least 1", _is_size),
    "fixed_size": _Rule("must be true or false", lambda value: isinstance(value, bool)),
    "resize": _one_of(RESIZE_POLICIES),
    "outputs": _Rule('must be ["logits"], ["features"] or ["logits", "features"]', _are_outputs),
    "handle": _Rule("must be a directory or a URL", lambda value: isinstance(value, str) and value != ""),
    "input_range": _Rule("must be two numbers, the lower first", _is_range),
    "n_classes": _WIDTHS,
    "n_features": _WIDTHS,
    "activation": _one_of(ACTIVATIONS),
    "parameters_millions": _POSITIVE,
    "multiply_adds_billions": _POSITIVE,
    "top1_percent": _POSITIVE,
}

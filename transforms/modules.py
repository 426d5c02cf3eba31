"""A module's directory → a function of a batch, checked against what the catalogue promises."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager.lift_to_graph import UnliftableError

from transforms.errors import RunError
from transforms.random_weights import RANDOM_WEIGHTS_MARK
from transforms.saved_models import first_convolution, first_line, read_graph
from transforms.variants import Format, Variant

# From black to white V1 moves the first convolution's input by 4.4 and V2 by 2; a module that wants 255 times
# more than it is given moves it by 0.02.
_NORMALISED_SPAN = (0.5, 10.0)

Channels = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Module:
    """A loaded module as a function of a batch.

    Attributes:
        path: Its directory.
        function: float32 `[n, height, width, 3]` (RGB in [0, 1]; numpy or TensorFlow) to float32 `logits`
            `[n, n_classes]` and `features` `[n, n_features]`, whichever the variant gives, in one forward
            pass and in the order of the batch. Raises ValueError for a shape that the module cannot take.
        graph_function: The same for images in the variant's input range, as a concrete function of TensorFlow
            without inner functions, called by position.
        n_classes: Width of the logits; None where the variant gives none.
        n_features: Width of the features; None where the variant gives none.
        size: Height and width in pixels that the module says it expects; None where it does not say.
    """

    path: str
    function: Callable[[Any], dict[str, Any]]
    graph_function: Any
    n_classes: int | None
    n_features: int | None
    size: tuple[int, int] | None


@dataclass(frozen=True)
class Description:
    """What a checked module is, for the file beside it and for the run's record.

    Attributes:
        sha256: `digest` of its directory.
        format: As found in the files.
        n_classes: Width of the logits; None where the variant gives none.
        n_features: Width of the features; None where the variant gives none.
        size: Height and width in pixels that the module says it expects; None where it does not say.
        random_weights: Whether the weights are random instead of trained.
        input_at_low: What the first convolution is fed for the low end of the input range, per channel.
        input_at_high: The same for the high end.
    """

    sha256: str
    format: Format
    n_classes: int | None
    n_features: int | None
    size: tuple[int, int] | None
    random_weights: bool
    input_at_low: Channels
    input_at_high: Channels

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Description:
        """The inverse of `to_json`, also after a way through JSON, which turns tuples into lists."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**values)


def describe(module: Module, variant: Variant) -> Description:
    """Checks all of a loaded module that can be checked without knowing its scores, and says what it found.

    Raises:
        RunError: As `check_input_range` and `digest` do.
    """
    low, high = check_input_range(module, variant)
    return Description(
        sha256=digest(module.path),
        format=variant.format,
        n_classes=module.n_classes,
        n_features=module.n_features,
        size=module.size,
        random_weights=os.path.exists(os.path.join(module.path, RANDOM_WEIGHTS_MARK)),
        input_at_low=low,
        input_at_high=high,
    )


def load(path: str, variant: Variant) -> Module:
    """Loads the module in the directory `path` and scores one black image, to check it against `variant`.

    Raises:
        RunError: The directory holds no module, or none with the format, signatures, size and widths that the
            catalogue promises.
    """
    graph = read_graph(path, variant)
    wanted = tf.TensorShape([None, variant.size, variant.size, 3])
    if graph.images.dtype != tf.float32 or not graph.images.shape.is_compatible_with(wanted):
        raise RunError(
            f"{path}: takes {graph.images.dtype.name} images of shape {graph.images.shape},"
            f" the catalogue says float32 {wanted}; correct size of {variant.name}"
        )
    try:
        graph_function = graph.prune(graph.images, graph.outputs)
    except UnliftableError as error:
        raise RunError(
            f"{path}: holds what its graph alone does not, such as a table; export it without"
        ) from error
    low, high = variant.input_range

    def function(images: Any) -> dict[str, Any]:
        batch = tf.convert_to_tensor(images, tf.float32)
        if (low, high) != (0.0, 1.0):
            batch = batch * (high - low) + low
        if not batch.shape.is_compatible_with(graph.images.shape):
            raise ValueError(f"{path}: takes images of shape {graph.images.shape}, got {batch.shape}")
        outputs: dict[str, Any] = graph_function(batch)
        return outputs

    widths = _widths(path, variant, function)
    return Module(
        path=path,
        function=function,
        graph_function=graph_function,
        n_classes=widths.get("logits"),
        n_features=widths.get("features"),
        size=graph.size,
    )


def check_input_range(module: Module, variant: Variant) -> tuple[Channels, Channels]:
    """Checks by what reaches the first convolution that the module wants the variant's input range.

    The rule: from black to white each channel of the first convolution's input moves by 0.5 to 10, as it does
    where a module normalises its input, or by exactly the input's own span, where it leaves it as it is.

    Returns:
        What the first convolution is fed for the low and for the high end of the range, per channel.

    Raises:
        RunError: The module wants another range, or has no convolution to look at.
    """
    low, high = input_affine(module, variant)
    own = variant.input_range[1] - variant.input_range[0]
    spans = [abs(b - a) for a, b in zip(low, high, strict=True)]
    least, most = _NORMALISED_SPAN
    if not all(least <= span <= most or math.isclose(span, own, rel_tol=1e-3) for span in spans):
        raise RunError(
            f"{module.path}: wants another input range than {list(variant.input_range)}:"
            f" the first convolution is fed {_rounded(low)} for black and {_rounded(high)} for white,"
            f" which should differ by {least} to {most}; correct input_range of {variant.name}"
        )
    return low, high


def input_affine(module: Module, variant: Variant) -> tuple[Channels, Channels]:
    """What the first convolution is fed at the centre of a black and of a white image, per channel.

    V1 modules give (-2.118, -2.036, -1.804) and (2.249, 2.429, 2.640), V2 modules -1 and +1.

    Raises:
        RunError: No convolution follows the module's input.
    """
    convolution = first_convolution(module.graph_function.inputs[0])
    if convolution is None:
        raise RunError(
            f"{module.path}: no convolution follows its input, so its input range cannot be checked; export it with one"
        )
    fed = module.graph_function.prune(module.graph_function.inputs[0], convolution.inputs[0])
    channels_first = convolution.get_attr("data_format") == b"NCHW"
    ends = []
    for value in variant.input_range:
        image = np.asarray(fed(tf.fill([1, variant.size, variant.size, 3], np.float32(value))))[0]
        image = np.moveaxis(image, 0, -1) if channels_first else image
        ends.append(tuple(float(x) for x in image[image.shape[0] // 2, image.shape[1] // 2]))
    return ends[0], ends[1]


def digest(path: str) -> str:
    """SHA-256 of a module directory, of its files' relative paths and bytes in sorted order; 64 hex digits.

    Raises:
        RunError: There is no file in it, or one cannot be read.
    """
    try:
        files = sorted(
            os.path.join(folder, name) for folder, _, names in tf.io.gfile.walk(path) for name in names
        )
        contents = [(os.path.relpath(file, path), _content_digest(file)) for file in files]
    except tf.errors.OpError as error:
        raise RunError(
            f"{path}: cannot be read: {first_line(error)}; mend that or pull the module again"
        ) from error
    if not files:
        raise RunError(f"{path}: holds no files; pull the module again")
    lines = "".join(f"{name}\0{content}\n" for name, content in contents)
    return hashlib.sha256(lines.encode()).hexdigest()


def _content_digest(file: str) -> str:
    content = hashlib.sha256()
    with tf.io.gfile.GFile(file, "rb") as stream:
        while chunk := stream.read(1 << 20):
            content.update(chunk)
    return content.hexdigest()


def _widths(path: str, variant: Variant, function: Callable[[Any], dict[str, Any]]) -> dict[str, int]:
    """The width of each output, by a batch of one, checked against the catalogue."""
    try:
        outputs = function(tf.zeros([1, variant.size, variant.size, 3]))
    except tf.errors.OpError as error:
        raise RunError(
            f"{path}: fails on an image of {variant.size}x{variant.size}: {first_line(error)};"
            f" correct size of {variant.name}"
        ) from error
    for name, values in outputs.items():
        accepted = variant.n_classes if name == "logits" else variant.n_features
        if values.shape.rank != 2 or (accepted and values.shape[1] not in accepted):
            raise RunError(
                f"{path}: {name} of one image have shape {values.shape}, the catalogue says"
                f" (1, {' or '.join(map(str, accepted)) or 'any'}); correct the widths of {variant.name}"
            )
    return {name: values.shape[1] for name, values in outputs.items()}


def _rounded(channels: Channels) -> list[float]:
    return [round(value, 4) for value in channels]

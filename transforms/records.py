"""The records that travel from stage to stage, in the order of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
PixelArray = npt.NDArray[np.uint8]

Step = Literal["fetch", "decode", "infer"]
ModelFacts = Mapping[str, str | int | float | dict[str, float] | None]


@dataclass(frozen=True)
class Place:
    """Where an image lies in a container.

    Attributes:
        container: Absolute path or URL of the file.
        offset: Where `containers.read` finds it; increasing.
        image_column: The feature or column that was named as the images'; None for the usual one.
    """

    container: str
    offset: int
    image_column: str | None = None


@dataclass(frozen=True)
class ImageRef:
    """One image as it was listed.

    Attributes:
        uri: Absolute path or URL, verbatim; in a container `CONTAINER::MEMBER`.
        size: Bytes; None where listing could not tell (a manifest's missing file, a row of Parquet). Of a record of
            TFRecord, the whole record's.
        version: What changes when the content does (a local file's size and mtime), of a container as a whole;
            None where there was no such file.
        place: Where it lies in a container; None for a file of its own.
        kept: Values of the columns that are carried along from the source, in their order.
    """

    uri: str
    size: int | None
    version: str | None
    place: Place | None = None
    kept: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Unit:
    """The unit of work, of retry, of resume and of output: one row group of one index part.

    Attributes:
        number: Position in the whole index, from 0; never changes.
        index_part: Path of the Parquet part that lists the unit's images.
        row_group: Which row group of that part.
        n_images: Images in the unit.
        uri_hash_sum: Sum modulo 2^128 of the images' uri hashes, 32 hex digits.
        members: SHA-256 of every image's uri, size and version, 64 hex digits.
    """

    number: int
    index_part: str
    row_group: int
    n_images: int
    uri_hash_sum: str
    members: str


@dataclass(frozen=True)
class ImageInfo:
    """What a row says of its image besides the scores.

    Attributes:
        ref: The image as listed.
        sha256: Of the fetched bytes, 64 hex digits.
        width: Pixels of the upright image.
        height: Pixels of the upright image.
        orientation: The EXIF orientation that was applied, 1 to 8; 1 where there is none.
    """

    ref: ImageRef
    sha256: str
    width: int
    height: int
    orientation: int


@dataclass(frozen=True)
class Failure:
    """Why one image has no row.

    Attributes:
        ref: The image as listed.
        step: Where it failed.
        error: Short, stable kind, for grouping: `truncated`, `not_found`, ...
        message: One line for a person.
        attempts: How often the step was tried.
    """

    ref: ImageRef
    step: Step
    error: str
    message: str
    attempts: int = 1


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """One upright image.

    Attributes:
        height: Pixels, EXIF orientation applied.
        width: Pixels, EXIF orientation applied.
        orientation: The EXIF orientation that was applied, 1 to 8.
        pixels: uint8 `[height, width, 3]`, RGB, 0 to 255, upright; None where `jpeg` is yet to be decoded.
        jpeg: The file, where it is a JPEG that was not turned: its crops are decoded by themselves.
    """

    height: int
    width: int
    orientation: int
    pixels: PixelArray | None
    jpeg: bytes | None = None


@dataclass(frozen=True)
class StepSeconds:
    """Seconds spent in each step, summed over the threads that worked on it.

    Attributes:
        fetch: Reading, on the fetch threads.
        decode: Decoding and resizing, on the decode threads.
        wait: What the chain of one harness thread waited for the next image to be ready.
        model: What it waited for the device and spent on it.
        write: What it spent on the output.
    """

    fetch: float = 0.0
    decode: float = 0.0
    wait: float = 0.0
    model: float = 0.0
    write: float = 0.0

    def __add__(self, other: StepSeconds) -> StepSeconds:
        return StepSeconds(
            self.fetch + other.fetch,
            self.decode + other.decode,
            self.wait + other.wait,
            self.model + other.model,
            self.write + other.write,
        )

    def __truediv__(self, divisor: float) -> StepSeconds:
        return StepSeconds(
            self.fetch / divisor,
            self.decode / divisor,
            self.wait / divisor,
            self.model / divisor,
            self.write / divisor,
        )


@dataclass(frozen=True)
class Target:
    """One unit for one variant: what becomes one rows file.

    Attributes:
        unit: The unit.
        variant: The variant's TF Hub name.
        fingerprint: 12 hex digits over everything that decides the rows' content.
        n_images: How many images are to be done.
        round: 0 for the whole unit; 1, 2, ... for what failed in the round before.
    """

    unit: Unit
    variant: str
    fingerprint: str
    n_images: int
    round: int = 0


@dataclass(frozen=True)
class Receipt:
    """Proof that one target's rows file is committed.

    Attributes:
        variant: The variant's TF Hub name.
        unit: The unit's number.
        rows: Images with a row, in all rounds.
        failures: Images without.
        path: The first round's rows file, relative to the output directory.
    """

    variant: str
    unit: int
    rows: int
    failures: int
    path: str


@dataclass(frozen=True, eq=False)
class PixelBatch:
    """Images ready for one variant's model, and the failures met on the way to them.

    Every target ends in exactly one batch with `last`, even if that one holds no image.

    Attributes:
        target: The unit and variant.
        number: 0, 1, 2, ... within the target.
        last: No batch of this target follows.
        images: One for each image, in the order of `pixels`.
        pixels: `[n, size, size, 3]`, RGB. For `exact` float32, nominally 0 to 1 (bicubic overshoots are kept); for
            `fast` uint8, 0 to 255.
        failures: Images that have no pixels.
        seconds: Fetching, decoding and waiting for both, this batch's share.
        started: Unix time in seconds when the unit's first image was asked for.
        done: Set where nothing is left for the model to do, because an earlier run committed the target or the
            images were scored in quarantine; then the batch holds nothing else.
    """

    target: Target
    number: int
    last: bool
    images: tuple[ImageInfo, ...]
    pixels: FloatArray | PixelArray
    failures: tuple[Failure, ...]
    seconds: StepSeconds
    started: float
    done: ScoreBatch | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class ScoreBatch:
    """What the model said of a `PixelBatch`; the images and failures are carried along, the pixels are not.

    Attributes:
        target: The unit and variant.
        number: 0, 1, 2, ... within the target.
        last: No batch of this target follows.
        images: One for each row of the scores.
        logits: float32 `[n, n_classes]`; None where the module has none.
        features: float32 `[n, n_features]`; None where the module has none.
        failures: Images that have no row.
        seconds: Fetching, decoding and the model, this batch's share.
        started: As in `PixelBatch`.
        model: How the module was run, in plain JSON types; empty where it was not.
        failed_calls: How often the model raised for this batch or a part of it.
        receipt: Set where the target was done by an earlier run; then nothing else is in the batch.
    """

    target: Target
    number: int
    last: bool
    images: tuple[ImageInfo, ...]
    logits: FloatArray | None
    features: FloatArray | None
    failures: tuple[Failure, ...]
    seconds: StepSeconds
    started: float
    model: ModelFacts = field(default_factory=dict)
    failed_calls: int = 0
    receipt: Receipt | None = None

"""How fast modules are on a device, before anything ran: from published figures, and from guesses that say so."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from transforms.variants import Variant, catalogue

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Measured with EfficientNet-B0 and B3: 160 and 36 images a second on two cores.
MULTIPLY_ADDS_PER_CORE_SECOND = 32e9
# Measured with photographs of 500x375, all variants of the README together, on one core.
DECODE_SECONDS = 0.005
# On a V100 with EfficientNet-B0, B4 and V2-S: 0.48, 0.45 and 0.49 (NVIDIA DeepLearningExamples).
EXACT_SHARE = 0.47
"""The rate in 32 bits is this part of the rate in 16."""
WORK_EXPONENT = 0.77
"""By which a GPU's rate falls as multiply-adds grow: from EfficientNet-B0 to B4 on an A100."""
MULTIPLY_ADDS_A_PARAMETER_AND_PIXEL = 2e-6
"""In units of 1e9 for each million parameters and each pixel: 2.05e-6 for EfficientNetV2-L, 1.46e-6 for B0."""

_GENERATION = "efficientnet_v2"


@dataclass(frozen=True)
class Accelerator:
    """A GPU that Dataflow's workers can have.

    Attributes:
        name: As Google calls it.
        memory_gb: On the GPU.
        machines: Machine types that carry one, each with its vCPUs, the smallest first.
        source: Where its figures come from.
        rates: Images a second in 16 bits, by a pattern of the variant's name.
        of: The GPU whose rates are scaled, where there are no own ones.
        ratio: By what.
    """

    name: str
    memory_gb: int
    machines: tuple[tuple[str, int], ...]
    source: str
    rates: dict[str, float] = field(default_factory=dict, hash=False)
    of: str | None = None
    ratio: float = 1.0


@dataclass(frozen=True)
class Rate:
    """How fast a module is on a device.

    Attributes:
        images_per_second: Of the model alone.
        source: Where that comes from.
        guessed: Whether it is more than what the source says: scaled from another GPU, module or precision.
    """

    images_per_second: float
    source: str
    guessed: bool


@functools.cache
def accelerators() -> dict[str, Accelerator]:
    """The GPUs that are known, by name."""
    document = tomllib.loads(Path(__file__).with_name("accelerators.toml").read_text(encoding="utf-8"))
    return {
        name: Accelerator(name, **{**fields, "machines": tuple(map(tuple, fields["machines"]))})
        for name, fields in document.items()
    }


def rate(variant: Variant, accelerator: Accelerator, precision: str) -> Rate:
    """How fast a module is on a GPU: as published, or scaled from the nearest that is."""
    owner = accelerators()[accelerator.of] if accelerator.of else accelerator
    published = next(
        (value for pattern, value in owner.rates.items() if fnmatch(variant.name, pattern)), None
    )
    scale = accelerator.ratio * (EXACT_SHARE if precision == "exact" else 1.0)
    if published is None:
        work, published = _nearest(variant, owner)
        scale *= (work / multiply_adds(variant)) ** WORK_EXPONENT
        return Rate(published * scale, accelerator.source, guessed=True)
    return Rate(published * scale, accelerator.source, guessed=scale != 1.0)


def rate_on_cpu(variant: Variant, vcpus: int) -> Rate:
    """How fast a module is on so many cores."""
    images_per_second = vcpus * MULTIPLY_ADDS_PER_CORE_SECOND / (multiply_adds(variant) * 1e9)
    return Rate(
        images_per_second, "EfficientNet-B0 and B3, measured on two cores of an AMD EPYC", guessed=True
    )


def together(rates: Iterable[Rate]) -> float:
    """Images a second where one device scores each image with every module."""
    return 1 / sum(1 / each.images_per_second for each in rates)


def multiply_adds(variant: Variant) -> float:
    """Billions for one image: as published, or from the parameters; 1.0 where nothing is known."""
    if variant.multiply_adds_billions:
        return variant.multiply_adds_billions
    if variant.parameters_millions:
        return MULTIPLY_ADDS_A_PARAMETER_AND_PIXEL * variant.parameters_millions * variant.size**2
    return 1.0


def _nearest(variant: Variant, accelerator: Accelerator) -> tuple[float, float]:
    """Multiply-adds and rate of the published module that is nearest in size, of the same generation.

    The second generation is three times as fast at the same multiply-adds.
    """
    generation = _GENERATION in variant.name
    rated = [
        (multiply_adds(next(each for each in catalogue() if fnmatch(each.name, pattern))), value)
        for pattern, value in accelerator.rates.items()
        if (_GENERATION in pattern) == generation
    ]
    return min(rated, key=lambda each: abs(math.log(each[0] / multiply_adds(variant))))

"""What a run would take on workers with a GPU and without: hours from published rates and a measured sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipelines import estimate
from pipelines.config import RunConfig
from pipelines.sample import Sample
from pipelines.workers import workers_of
from transforms.errors import UsageError
from transforms.variants import Variant

CPU = "cpu"
DEVICES = ("nvidia-tesla-t4", "nvidia-l4", "nvidia-tesla-a100", CPU)


@dataclass(frozen=True)
class Cost:
    """What a run would take on one kind of worker.

    Attributes:
        worker: An accelerator, or `cpu`.
        machine: Machine type.
        images_per_second: Of one worker, all variants together.
        bound_by: `model` or `decode`, whichever takes longer.
        worker_hours: Of all workers together, their start not included.
        price: These hours times the price that was given; None where none was.
        source: Where the rates of the models come from.
        guessed: Whether they are more than what the source says.
    """

    worker: str
    machine: str
    images_per_second: float
    bound_by: str
    worker_hours: float
    price: float | None
    source: str
    guessed: bool


def check_prices(given: list[str]) -> dict[str, float]:
    """Prices of a worker hour by worker, from `nvidia-l4=0.9` and the like; UsageError where one is none."""
    prices = {}
    for each in given:
        worker, _, price = each.partition("=")
        try:
            prices[worker] = float(price)
        except ValueError as error:
            raise UsageError(f"--hourly-price must be like nvidia-l4=0.90, got {each!r}") from error
        if worker not in DEVICES:
            raise UsageError(f"--hourly-price is for one of {', '.join(DEVICES)}, got {worker!r}")
    return prices


def cost_of(
    config: RunConfig, images: Mapping[Variant, int], measured: Sample, hourly_prices: Mapping[str, float]
) -> list[Cost]:
    """What the images of each variant take on each kind of worker."""
    return [_on(device, config, images, measured, hourly_prices.get(device)) for device in DEVICES]


def _on(
    device: str,
    config: RunConfig,
    images: Mapping[Variant, int],
    measured: Sample,
    hourly_price: float | None,
) -> Cost:
    each = workers_of(
        replace(config, accelerator=None if device == CPU else device, beam_options=(), mps=False)
    )
    rates = {
        variant: estimate.rate(variant, each.accelerator, config.precision)
        if each.accelerator
        else estimate.rate_on_cpu(variant, each.vcpus)
        for variant in images
    }
    model = sum(count / rates[variant].images_per_second for variant, count in images.items())
    decode = max(images.values()) * measured.decode_seconds / each.vcpus
    # A GPU scores while the cores decode; without one they do both.
    seconds = max(model, decode) if each.accelerator else model + decode
    return Cost(
        worker=device,
        machine=each.machine,
        images_per_second=max(images.values()) / seconds,
        bound_by="model" if model > decode else "decode",
        worker_hours=seconds / 3600,
        price=None if hourly_price is None else seconds / 3600 * hourly_price,
        source=next(iter(rates.values())).source,
        guessed=any(rate.guessed for rate in rates.values()),
    )

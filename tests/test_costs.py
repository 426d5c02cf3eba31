"""What a run would take on each kind of worker: the model or the cores, whichever is slower, and money."""

from __future__ import annotations

import pytest

from pipelines.config import RunConfig
from pipelines.costs import DEVICES, Cost, check_prices, cost_of
from pipelines.sample import Sample
from transforms.errors import UsageError
from transforms.variants import Variant, find

B4 = find("google/efficientnet/b4/classification/1")
B0 = find("google/efficientnet/b0/classification/1")


def costs(
    images: dict[Variant, int], decode_seconds: float = 0.001, prices: dict[str, float] | None = None
) -> dict[str, Cost]:
    names = tuple(variant.name for variant in images)
    config = RunConfig(("gs://in",), "gs://out", names, "gs://models", precision="fast")
    measured = Sample(10, {}, 1e5, 100.0, decode_seconds)
    return {each.worker: each for each in cost_of(config, images, measured, prices or {})}


def test_hours_are_images_over_the_rate_of_the_model() -> None:
    found = costs({B4: 1_000_000})
    assert tuple(found) == DEVICES
    l4 = found["nvidia-l4"]
    assert (l4.machine, l4.bound_by, l4.price, l4.guessed) == ("g2-standard-4", "model", None, True)
    assert l4.worker_hours == pytest.approx(1e6 / (1497 * 0.25) / 3600)
    assert l4.images_per_second == pytest.approx(1497 * 0.25)
    assert found["nvidia-tesla-a100"].worker_hours < l4.worker_hours < found["cpu"].worker_hours


def test_slow_decoding_is_what_counts_where_the_model_is_faster() -> None:
    l4 = costs({B4: 1_000_000}, decode_seconds=0.1)["nvidia-l4"]
    assert l4.bound_by == "decode"
    assert l4.worker_hours == pytest.approx(1e6 * 0.1 / 4 / 3600)


def test_variants_add_up_and_share_the_decoding() -> None:
    both = costs({B4: 1_000_000, B0: 500_000})["nvidia-l4"]
    assert both.worker_hours == pytest.approx((1e6 / (1497 * 0.25) + 5e5 / (9730 * 0.25)) / 3600)
    assert both.images_per_second == pytest.approx(1e6 / (both.worker_hours * 3600))
    slow = costs({B4: 1_000_000, B0: 500_000}, decode_seconds=0.1)["nvidia-l4"]
    assert slow.worker_hours == pytest.approx(1e6 * 0.1 / 4 / 3600)


def test_cores_decode_and_score_by_turns() -> None:
    cpu = costs({B4: 1000}, decode_seconds=0.08)["cpu"]
    model = 1000 * 4.39e9 / (8 * 32e9)
    assert cpu.worker_hours == pytest.approx((model + 1000 * 0.08 / 8) / 3600)


def test_a_price_is_for_its_worker_alone() -> None:
    found = costs({B4: 1_000_000}, prices={"nvidia-l4": 2.0})
    assert found["nvidia-l4"].price == pytest.approx(2 * found["nvidia-l4"].worker_hours)
    assert {worker for worker, cost in found.items() if cost.price is None} == set(DEVICES) - {"nvidia-l4"}


def test_prices_are_read() -> None:
    assert check_prices(["nvidia-l4=0.9", "cpu=1"]) == {"nvidia-l4": 0.9, "cpu": 1.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0.9", "--hourly-price must be like nvidia-l4=0.90, got '0.9'"),
        ("nvidia-l4=cheap", "--hourly-price must be like nvidia-l4=0.90, got 'nvidia-l4=cheap'"),
        (
            "nvidia-l5=1",
            "--hourly-price is for one of nvidia-tesla-t4, nvidia-l4, nvidia-tesla-a100, cpu, got",
        ),
    ],
)
def test_prices_that_cannot_be_meant(given: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        check_prices([given])
    assert str(error.value).startswith(message)

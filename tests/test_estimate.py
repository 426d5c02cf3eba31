"""Rates of modules on devices: published ones as they are, others scaled from the nearest, and said to be guesses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines import estimate
from pipelines.estimate import Rate, accelerators, multiply_adds, rate, rate_on_cpu, together
from transforms.variants import catalogue, find

B4 = find("google/efficientnet/b4/classification/1")
V2_M = find("google/imagenet/efficientnet_v2_imagenet21k_ft1k_m/feature_vector/1")


def test_a_published_rate_is_given_as_it_is() -> None:
    a100 = accelerators()["nvidia-a100-80gb"]
    assert rate(B4, a100, "fast") == Rate(1497, a100.source, guessed=False)
    assert rate(V2_M, a100, "fast").images_per_second == 544
    assert rate(find("tensorflow/efficientnet/b4/feature-vector/1"), a100, "fast").images_per_second == 1497


def test_32_bits_are_a_guess_of_half_the_rate() -> None:
    exact = rate(B4, accelerators()["nvidia-a100-80gb"], "exact")
    assert exact.images_per_second == pytest.approx(1497 * 0.47)
    assert exact.guessed


def test_a_gpu_without_figures_of_its_own_is_scaled_from_another() -> None:
    l4 = accelerators()["nvidia-l4"]
    assert l4.rates == {}
    scaled = rate(B4, l4, "fast")
    assert scaled.images_per_second == pytest.approx(1497 * 0.25)
    assert (scaled.source, scaled.guessed) == (l4.source, True)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("google/efficientnet/b3/classification/1", 2500, 3500),
        ("google/efficientnet/b5/feature-vector/1", 650, 850),
        ("google/efficientnet/b7/classification/1", 200, 330),
        ("google/imagenet/efficientnet_v2_imagenet1k_b0/classification/2", 11_000, 15_000),
    ],
)
def test_a_module_without_a_figure_is_scaled_from_the_nearest(name: str, least: float, most: float) -> None:
    # By ratios that others measured: 3,050, 720, 240 to 327 and 12,600.
    found = rate(find(name), accelerators()["nvidia-a100-80gb"], "fast")
    assert least < found.images_per_second < most
    assert found.guessed


def test_the_nearest_is_that_of_the_most_alike_multiply_adds() -> None:
    b7 = find("google/efficientnet/b7/classification/1")
    scaled = 1497 * (multiply_adds(B4) / multiply_adds(b7)) ** estimate.WORK_EXPONENT
    assert rate(b7, accelerators()["nvidia-a100-80gb"], "fast").images_per_second == pytest.approx(scaled)


def test_the_smaller_a_module_the_faster_it_is_on_every_device() -> None:
    names = [f"google/efficientnet/b{number}/classification/1" for number in range(8)]
    for accelerator in accelerators().values():
        rates = [rate(find(name), accelerator, "fast").images_per_second for name in names]
        assert rates == sorted(rates, reverse=True)


def test_every_figure_belongs_to_modules_of_the_catalogue_and_has_a_source() -> None:
    for accelerator in accelerators().values():
        assert accelerator.source
        assert bool(accelerator.rates) is (accelerator.of is None)
        for pattern in accelerator.rates:
            sizes = {each.size for each in catalogue() if estimate.fnmatch(each.name, pattern)}
            assert len(sizes) == 1, pattern


def test_devices_take_turns() -> None:
    assert together([Rate(100, "", False), Rate(300, "", False)]) == pytest.approx(75)


def test_multiply_adds_are_published_or_told_from_parameters() -> None:
    assert multiply_adds(B4) == 4.39
    unpublished = replace(B4, multiply_adds_billions=None)
    assert multiply_adds(unpublished) == pytest.approx(5.6, abs=0.1)
    assert multiply_adds(replace(unpublished, parameters_millions=None)) == 1.0


def test_cores_are_as_fast_as_they_were_measured() -> None:
    b0 = rate_on_cpu(find("google/efficientnet/b0/classification/1"), 2)
    assert 150 < b0.images_per_second < 170
    assert b0.guessed

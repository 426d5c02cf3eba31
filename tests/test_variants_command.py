"""`pixelbeam variants`: the whole catalogue, for a person and for a machine."""

from __future__ import annotations

import json

from transforms.variants import catalogue


def test_the_table_puts_each_figure_under_its_heading(pixelbeam) -> None:
    code, output, _ = pixelbeam("variants")
    assert code == 0
    lines = output.splitlines()
    headings = [cell.strip() for cell in next(line for line in lines if "top-1 %" in line).split("┃")[1:-1]]
    row = next(line for line in lines if "google/efficientnet/b4/classification/1" in line)
    cells = dict(zip(headings, [cell.strip() for cell in row.split("│")[1:-1]], strict=True))
    assert cells == {
        "variant": "google/efficientnet/b4/classification/1",
        "format": "tf1-hub",
        "size": "380",
        "resize": "center_crop_bicubic",
        "gives": "1000 logits, 1792 features",
        "params M": "19.47",
        "mult-adds G": "4.39",
        "top-1 %": "82.9",
    }
    for variant in catalogue():
        assert f" {variant.name} " in output
        assert f" {variant.directory} " in output


def test_json_holds_every_field(pixelbeam) -> None:
    code, output, _ = pixelbeam("variants", "--json")
    assert code == 0
    listed = {each["name"]: each for each in json.loads(output)}
    assert set(listed) == {variant.name for variant in catalogue()}
    v2 = listed["google/imagenet/efficientnet_v2_imagenet21k_ft1k_m/feature_vector/1"]
    assert (v2["size"], v2["fixed_size"], v2["resize"], v2["input_range"]) == (
        480,
        True,
        "squash_bilinear",
        [0, 1],
    )

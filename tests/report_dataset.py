"""A small dataset for the tests of the report: three variants, bad images, copies, and names that are hard to show."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

from pipelines import cli
from tests import bad, photos, tiny, tiny_modules

EVIL = "<script>alert('1')</script>"
EVIL_NAME = 'ü "quoted" & <b onmouseover=alert(2)>.jpg'
NAMES = (EVIL, "</script><img src=x>", "tabby", "a & b", 'say "cheese"')
"""Of the tiny module's classes."""
BOTH, FEATURES, LOGITS = (f"acme/{name}/1" for name in ("both", "features", "logits"))
PHOTOGRAPHS = 24
BAD = ("text.jpg", "cut.jpg", "empty.jpg")
IMAGES = PHOTOGRAPHS + 4 + len(BAD)
ROWS = PHOTOGRAPHS + 4


def write(root: Path, models: str) -> Path:
    """Run the three variants over images in `root`; returns the output directory."""
    photographs = root / "photos"
    photographs.mkdir()
    photos.write_photographs(photographs, PHOTOGRAPHS, size=(60, 45))
    for name in ("copy-1.jpg", "copy-2.jpg"):
        shutil.copy(photographs / "photo-00000.jpg", photographs / name)
    (photographs / EVIL_NAME).write_bytes(photos.jpeg(photos.scene(45, 60, 98)))
    (photographs / "png.png").write_bytes(photos.encode(photos.scene(45, 60, 99), "PNG"))
    for number, name in enumerate(BAD):
        bad.write(photographs, name, number)
    (root / "names.txt").write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
    options = [
        "--images-per-unit",
        "8",
        "--batch-size",
        "4",
        "--model-dir",
        models,
        "--max-failure-ratio",
        "1",
    ]
    names = ["--class-names", str(root / "names.txt")]
    common = ["run", "--input", str(photographs), "--output", str(root / "out"), *options]
    classifiers = [variant(root, BOTH, ("logits", "features")), variant(root, LOGITS, ("logits",))]
    assert cli.main([*common, *names, "--variant", *classifiers]) == 0
    assert cli.main([*common, "--variant", variant(root, FEATURES, ("features",))]) == 0
    return root / "out"


def variant(root: Path, name: str, outputs: tuple[str, ...]) -> str:
    """The TOML file of a tiny module that gives these outputs."""
    folder = root / name.replace("/", "-")
    folder.mkdir()
    if outputs == ("features",):
        (folder / "module").mkdir()
        tiny_modules.write_tf2(folder / "module", tiny_modules.features_of)
    path = Path(tiny.write_variant(str(folder), name=name))
    text = path.read_text(encoding="utf-8")
    text = text.replace('outputs = ["logits", "features"]', f"outputs = {list(outputs)}".replace("'", '"'))
    if outputs == ("features",):
        text = re.sub(r"n_classes.*\n|n_features.*\n", "", text)
    path.write_text(text, encoding="utf-8")
    return str(path)


def article(page: str, name: str) -> str:
    """What the page says of one variant, as text without tags."""
    (found,) = (
        part
        for part in page.split("<article ")[1:]
        if f'class="variant">{name.replace("/", "/<wbr>")}<' in part
    )
    return words(found.partition("</article>")[0])


def words(markup: str) -> str:
    """The text of some HTML."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def page_of(output: Path) -> str:
    """The page of an output directory, written into it."""
    assert cli.main(["report", str(output)]) == 0
    return (output / "report.html").read_text(encoding="utf-8")


def data(page: str) -> dict:
    """The data that the page's script reads."""
    return json.loads(page.split('<script type="application/json" id="data">')[1].partition("</script>")[0])

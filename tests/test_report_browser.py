"""The report as a person meets it: in a browser, without a network, on a desk and on a phone, in light and dark."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from pipelines import cli
from tests.report_dataset import BOTH, EVIL_NAME, FEATURES, LOGITS, ROWS

pytestmark = pytest.mark.full

DESK, PHONE = (1280, 900), (390, 844)
CONTRAST_OF_TEXT, CONTRAST_OF_LARGE_TEXT = 4.5, 3.0
"""WCAG 2.2, 1.4.3, level AA."""
CONTRAST_OF_MARKS = 3.0
"""WCAG 2.2, 1.4.11, level AA."""

TEXTS = """() => [...document.querySelectorAll('body *, .chart svg text')].filter((element) =>
    element.checkVisibility() && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())
  ).map((element) => {
    const style = getComputedStyle(element);
    const grounds = [];
    for (let node = element; node; node = node.parentElement) grounds.push(getComputedStyle(node).backgroundColor);
    const svg = element instanceof SVGElement;
    return { text: element.textContent.trim().slice(0, 40), colour: svg ? style.fill : style.color, grounds,
      large: parseFloat(style.fontSize) >= 24 };
  })"""
"""Every visible element with text of its own, its colour, and the grounds below it, the nearest first."""


@dataclass
class Shown:
    """A page in the browser, and what it did that it should not.

    Attributes:
        page: The page.
        said: Messages of the console and errors.
        asked: What it asked for besides itself.
    """

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, three_variants: Path) -> Path:
    """The page of the small dataset."""
    path = tmp_path_factory.mktemp("browser") / "report.html"
    assert cli.main(["report", str(three_variants), "--output", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "chromium is not here; `make chromium` installs it"
    with sync_playwright() as playwright:
        # Inside of containers Chromium's own sandbox cannot be set up.
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser: Browser, report: Path) -> Iterator[Callable[..., Shown]]:
    """Opens the page; nothing may have been said or asked for when the test is over."""
    opened: list[Shown] = []

    def show(size: tuple[int, int] = DESK, scheme: str = "light") -> Shown:
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=size == PHONE
        )
        shown = Shown(context.new_page())
        shown.page.on("console", lambda message: shown.said.append(message.text))
        shown.page.on("pageerror", lambda error: shown.said.append(str(error)))
        shown.page.on(
            "request",
            lambda request: None if request.url.startswith("data:") else shown.asked.append(request.url),
        )
        opened.append(shown)
        shown.page.goto(report.as_uri())
        wait_for_charts(shown.page)
        return shown

    yield show
    for shown in opened:
        assert shown.said == []
        assert shown.asked == [report.as_uri()]
        shown.page.context.close()


def wait_for_charts(page: Page) -> None:
    """Until every chart that is visible is drawn."""
    page.wait_for_function(
        "[...document.querySelectorAll('article:not([hidden]) .chart')].every((chart) => chart.querySelector('svg'))"
    )


def visible_variant(page: Page) -> str:
    (name,) = (each.inner_text() for each in page.locator("article h2").all() if each.is_visible())
    return name


def test_every_chart_has_marks_and_every_picture_is_one(show) -> None:
    page = show().page
    charts = page.locator("article:not([hidden]) .chart").all()
    assert len(charts) == 5
    for chart in charts:
        assert chart.locator(".mark-rect path, .mark-symbol path").count() > 0
        # An empty bar or a dot outside would be drawn as well.
        boxes = [
            mark.bounding_box() for mark in chart.locator("[class*='-marks'] path, .role-mark path").all()
        ]
        assert max(box["height"] for box in boxes if box) > 3
    sizes = page.eval_on_selector_all(
        "img", "(all) => all.filter((e) => e.checkVisibility()).map((e) => e.naturalWidth)"
    )
    assert len(sizes) > ROWS
    assert min(sizes) > 10


def test_the_variant_is_chosen_with_the_mouse_and_by_keyboard(show) -> None:
    page = show().page
    assert visible_variant(page) == BOTH
    page.select_option("#variant", label=LOGITS)
    wait_for_charts(page)
    assert visible_variant(page) == LOGITS
    assert not page.get_by_role("heading", name="Map of the features").is_visible()
    page.focus("#variant")
    page.keyboard.press("ArrowUp")
    wait_for_charts(page)
    assert visible_variant(page) == FEATURES
    assert page.get_by_role("heading", name="Map of the features").is_visible()
    assert not page.get_by_role("heading", name="Classes and confidence").is_visible()


def point_at(page: Page, part: str) -> tuple[str, Locator]:
    """Point at a dot of the map that no other one covers and whose name holds `part`: its name and the tooltip."""
    page.locator("#v0-map").evaluate("(map) => map.scrollIntoView({ block: 'center' })")
    name, x, y = page.evaluate(
        """(part) => [...document.querySelectorAll('#v0-map path[aria-label]')]
             .filter((dot) => dot.getAttribute('aria-label').includes(part)).map((dot) => {
               const box = dot.getBoundingClientRect();
               return [dot, box.x + box.width / 2, box.y + box.height / 2];
             }).filter(([dot, x, y]) => document.elementFromPoint(x, y) === dot)
             .map(([dot, x, y]) => [dot.getAttribute('aria-label'), x, y])[0]""",
        part,
    )
    page.mouse.move(x, y)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    return name, tooltip


def test_a_dot_of_the_map_shows_its_picture_and_its_name(show) -> None:
    page = show().page
    name, tooltip = point_at(page, "photo-")
    assert re.fullmatch(r"photo-\d{5}\.jpg", name)
    assert name in tooltip.inner_text()
    picture = tooltip.locator("img")
    assert picture.get_attribute("src").startswith("data:image/webp;base64,")
    assert picture.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 10
    page.mouse.move(5, 5)
    tooltip.wait_for(state="hidden")


def test_a_name_with_markup_is_text_in_a_tooltip(show) -> None:
    page = show().page
    name, tooltip = point_at(page, "onmouseover")
    assert name == EVIL_NAME
    assert EVIL_NAME in tooltip.inner_text()
    assert tooltip.locator("b, script").count() == 0


def test_the_map_shows_the_class_that_is_chosen(show) -> None:
    page = show().page
    chosen = page.locator("select[data-map] option").nth(1)
    label = chosen.get_attribute("value")
    count = int(re.search(r": (\d+)$", chosen.inner_text())[1])
    assert strong(page) == ROWS
    page.select_option("select[data-map]", value=label)
    page.wait_for_function(f"({STRONG})() === {count}")
    page.select_option("select[data-map]", value="")
    page.wait_for_function(f"({STRONG})() === {ROWS}")


STRONG = """() => [...document.querySelectorAll('#v0-map .mark-symbol.role-mark path')]
  .filter((dot) => Number(dot.getAttribute('opacity')) > 0.3).length"""


def strong(page: Page) -> int:
    """How many dots of the map are not faded."""
    return page.evaluate(STRONG)


def test_the_reasons_of_failures_open_by_keyboard(show) -> None:
    page = show().page
    summary = page.locator("article:not([hidden]) details.reason summary", has_text="not_an_image")
    assert not page.get_by_text("as no image does").first.is_visible()
    summary.focus()
    page.keyboard.press("Enter")
    assert page.get_by_text("as no image does").first.is_visible()


def test_a_change_of_the_scheme_redraws_the_charts(show) -> None:
    page = show().page
    bar = page.locator("#v0-classes .mark-rect path").first
    light = bar.get_attribute("fill")
    page.select_option("select[data-map]", index=1)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "(light) => document.querySelector('#v0-classes .mark-rect path').getAttribute('fill') !== light",
        arg=light,
    )
    # What was chosen stays.
    page.wait_for_function(f"({STRONG})() < {ROWS}")
    assert page.evaluate("document.querySelectorAll('#v0-classes svg').length") == 1


@pytest.mark.parametrize("size", [PHONE, (320, 568), DESK])
@pytest.mark.parametrize("variant", [BOTH, FEATURES, LOGITS])
def test_no_page_is_wider_than_its_screen(show, size: tuple[int, int], variant: str) -> None:
    page = show(size).page
    page.select_option("#variant", label=variant)
    wait_for_charts(page)
    for summary in page.locator("article:not([hidden]) summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    # Nothing is cut off either, but for names with an ellipsis and tables that scroll.
    beyond = page.evaluate(
        """() => [...document.querySelectorAll('article *, header *')].filter((element) => element.checkVisibility()
             && element.getBoundingClientRect().right > innerWidth + 1 && !element.closest('.scroll'))
             .map((element) => element.outerHTML.slice(0, 80))"""
    )
    assert beyond == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE])
def test_text_has_the_contrast_that_wcag_asks_for(show, scheme: str, size: tuple[int, int]) -> None:
    page = show(size, scheme).page
    for summary in page.locator("article:not([hidden]) summary").all():
        summary.click()
    texts = page.evaluate(TEXTS)
    assert len(texts) > 100
    for each in texts:
        ground = next(rgb(ground) for ground in each["grounds"] if rgb(ground))
        least = CONTRAST_OF_LARGE_TEXT if each["large"] else CONTRAST_OF_TEXT
        assert contrast(rgb(each["colour"]), ground) >= least, each


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_have_the_contrast_that_wcag_asks_for(show, scheme: str) -> None:
    page = show(DESK, scheme).page
    surface = rgb(
        page.evaluate("getComputedStyle(document.querySelector('article > section')).backgroundColor")
    )
    fills = page.eval_on_selector_all(
        ".mark-rect path, .mark-symbol.role-mark path",
        "(all) => [...new Set(all.map((e) => getComputedStyle(e).fill))]",
    )
    assert len(fills) >= 3
    for fill in fills:
        assert contrast(rgb(fill), surface) >= CONTRAST_OF_MARKS, fill


def rgb(colour: str) -> tuple[int, ...] | None:
    """The three channels of a computed colour; None where it lets all through."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", colour)]
    assert len(numbers) == 3 or numbers[3] in (0.0, 1.0), colour
    return None if len(numbers) == 4 and numbers[3] == 0 else tuple(int(number) for number in numbers[:3])


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """The contrast ratio of WCAG 2.2."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: tuple[int, ...]) -> float:
    """The relative luminance of WCAG 2.2."""
    channels = (value / 255 for value in colour)
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_everything_has_a_name_for_those_who_do_not_see_it(show) -> None:
    page = show().page
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("[...document.querySelectorAll('img')].every((image) => image.alt)")
    assert page.evaluate(
        "[...document.querySelectorAll('select')].every((select) => select.labels.length === 1)"
    )
    labels = page.eval_on_selector_all(
        "#v0-map path[aria-label]", "(all) => all.map((dot) => dot.getAttribute('aria-label'))"
    )
    assert len(labels) == ROWS
    assert max(map(len, labels)) < 60
    levels = page.eval_on_selector_all(
        "h1, h2, h3, h4",
        "(all) => all.filter((each) => each.checkVisibility()).map((each) => Number(each.tagName[1]))",
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_without_scripts_the_counts_are_still_there(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert "Charts and pictures need JavaScript" in page.inner_text("body")
    assert page.get_by_text("could not be decoded").first.is_visible()
    context.close()

"""The pages: links lead somewhere, and the files, tests, options, messages and figures that they name are there."""

from __future__ import annotations

import ast
import functools
import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import arguments, beam_options, options
from transforms.variants import Variant, catalogue

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    *DOCS,
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted(ROOT.glob("[a-z]*/README.md")),
    ROOT / "deploy" / "RUNBOOK.md",
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


@functools.cache
def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", names(PAGES))
def test_every_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    for link in LINK.findall(prose(page)):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_overview_names_every_page() -> None:
    linked = set(LINK.findall(prose(ROOT / "docs" / "README.md")))
    assert {page.name for page in DOCS} - {"README.md"} <= linked
    assert "docs/README.md" in LINK.findall(prose(ROOT / "README.md"))


@pytest.mark.parametrize("name", names(DOCS))
def test_every_file_that_is_named_exists(name: str) -> None:
    named = re.findall(
        r"`((?:pipelines|transforms|tests|deploy|docs|benchmarks)/[\w./]+)", prose(ROOT / name)
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_promise_names_tests_that_exist() -> None:
    text = prose(ROOT / "docs" / "promises.md")
    promises = re.split(r"^\*\*\d\. ", text, flags=re.MULTILINE)[1:]
    assert len(promises) == 6
    for promise in promises:
        proofs = re.findall(r"^- `(tests/[\w/]+\.py)(.*)$", promise, re.MULTILINE)
        assert len(proofs) >= 2
        for path, rest in proofs:
            there = (ROOT / path).read_text(encoding="utf-8")
            for test in re.findall(r"(?<=[:`])test_\w+", rest):
                assert re.search(rf"^def {test}\(", there, re.MULTILINE), f"{path}::{test}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The API reference, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    binaries = Path(sys.executable).parent
    # What is installed is what the tests run with.
    command = ["make", "--assume-old=setup", f"BIN={binaries}", f"SITE={folder}", "docs"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return folder


def test_the_reference_has_every_module_with_its_contract(site: Path) -> None:
    modules = [path for folder in ("pipelines", "transforms") for path in (ROOT / folder).rglob("*.py")]
    assert len(modules) > 80
    for module in modules:
        name = module.relative_to(ROOT).with_suffix("")
        page = site / (name.parent if name.name == "__init__" else name).with_suffix(".html")
        contract = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
        assert contract, module
        plain = re.sub(r"<[^>]+>", "", html.unescape(page.read_text(encoding="utf-8")))
        assert contract.split("`")[0].split("\n")[0].rstrip(".")[:40] in plain, module


def test_the_reference_explains_arguments_and_errors(site: Path) -> None:
    page = (site / "transforms" / "variants.html").read_text(encoding="utf-8")
    assert "class_names" in page
    assert re.search(r"Raises:.{0,200}UsageError", page, re.DOTALL)


@functools.cache
def texts() -> list[str]:
    """All that the code may say, with … for what is filled in."""
    found = []
    for folder in ("pipelines", "transforms", "deploy"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                    found.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def test_every_message_that_is_explained_can_be_said() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", prose(ROOT / "docs" / "troubleshooting.md"), re.MULTILINE)
    messages = [
        text for row in rows for text in re.findall(r"`([^`]+)`", row) if " " in text and "--" not in text[:2]
    ]
    assert len(messages) >= 30
    for message in messages:
        for part in filter(None, (part.strip() for part in message.split("…"))):
            assert any(part in text for text in texts()), part


@pytest.mark.parametrize("name", names(DOCS))
def test_every_option_that_is_named_exists(name: str) -> None:
    ours = arguments.option_names(options.build_parser())
    known = ours | set(beam_options.beam_parser()._option_string_actions)
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", (ROOT / name).read_text(encoding="utf-8")))
    assert named - known - {"--port", "--service_port", "--nthreads", "--dask_client_address"} <= {
        "--dask_partition_size"
    }


def table_after(heading: str) -> list[list[str]]:
    """The cells of the table in docs/choosing.md whose first column is called so."""
    lines = prose(ROOT / "docs" / "choosing.md").split(f"| {heading} |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def of_family(pattern: str) -> dict[str, Variant]:
    found = {}
    for variant in catalogue():
        if match := re.fullmatch(pattern, variant.name):
            found.setdefault(match.group(1), variant)
    return found


def figure(cell: str) -> float | None:
    return None if cell == "–" else float(cell)


def test_the_first_generation_is_as_in_the_catalogue() -> None:
    family = of_family(r"google/efficientnet/(b\d)/classification/1")
    assert [row[0] for row in table_after("V1")] == list(family)
    for name, size, features, parameters, work, top1 in table_after("V1"):
        variant = family[name]
        assert (int(size), int(features)) == (variant.size, variant.n_features[0])
        published = (variant.parameters_millions, variant.multiply_adds_billions, variant.top1_percent)
        assert [float(cell) for cell in (parameters, work, top1)] == list(published)


def test_the_second_generation_is_as_in_the_catalogue() -> None:
    prefix = "google/imagenet/efficientnet_v2_imagenet"
    tuned = of_family(rf"{prefix}21k_ft1k_(\w+)/classification/2")
    plain = of_family(rf"{prefix}1k_(\w+)/classification/2")
    assert {row[0] for row in table_after("V2")} == set(tuned)
    for name, size, features, parameters, work, top1, tuned_top1 in table_after("V2"):
        variant = tuned[name]
        assert (size, features) == (str(variant.size), " or ".join(map(str, variant.n_features)))
        published = (variant.parameters_millions, variant.multiply_adds_billions, variant.top1_percent)
        assert [figure(cell) for cell in (parameters, work, tuned_top1)] == list(published)
        assert figure(top1) == (plain[name].top1_percent if name in plain else None)


@pytest.mark.parametrize("name", ["docs/choosing.md", "docs/alternatives.md"])
def test_what_was_measured_is_in_the_benchmarks(name: str) -> None:
    measured = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    text = (ROOT / name).read_text(encoding="utf-8")
    figures = re.findall(r"^\| .*(?:`exact`|`fast`|by hand).* \| ([\d.]+)", text, re.MULTILINE)
    assert {"96", "142"} <= set(figures)
    for each in figures:
        assert re.search(rf"\| {re.escape(each)} \(", measured), each

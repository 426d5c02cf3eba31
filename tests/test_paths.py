"""Paths as text: `file://` URLs are paths."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import dataset
from transforms import fetching, storage
from transforms.errors import UsageError
from transforms.listing import Found, check_patterns, list_images
from transforms.paths import absolute, from_here, without_file_scheme


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("file:///a/b.jpg", "/a/b.jpg"),
        ("FILE://localhost/a/b.jpg", "/a/b.jpg"),
        ("file:///a%20b/%C3%A9%FF.jpg", os.fsdecode(b"/a b/\xc3\xa9\xff.jpg")),
        ("file:///a b/100%.jpg", "/a b/100%.jpg"),
        ("/a%20b.jpg", "/a%20b.jpg"),
        ("gs://in/file:///a%20b.jpg", "gs://in/file:///a%20b.jpg"),
        ("file://elsewhere/a.jpg", "file://elsewhere/a.jpg"),
    ],
)
def test_a_file_url_is_a_path(given: str, path: str) -> None:
    assert without_file_scheme(given) == path


def test_absolute_paths() -> None:
    assert absolute("file:///a/b/") == "/a/b"
    assert absolute("gs://b/c/") == "gs://b/c"
    assert absolute("a") == os.path.abspath("a")


def test_paths_below_the_working_directory_are_shown_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert from_here(str(tmp_path / "here" / "a" / "b")) == "a/b"
    for path in (str(tmp_path / "here"), str(tmp_path / "hereafter"), str(tmp_path), "gs://b/c"):
        assert from_here(path) == path


def test_file_urls_name_folders_globs_files_and_lines_of_manifests(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    image = folder / "1.jpg"
    image.write_bytes(b"content")
    manifest = tmp_path / "all.txt"
    manifest.write_text(f"{image.as_uri()}\na b/1.jpg\n{image}\n")
    (listed,) = {
        ref
        for url in (folder.as_uri(), f"{folder.as_uri()}/*.jpg", image.as_uri(), manifest.as_uri())
        for ref in list_images([url], Found())
    }
    assert listed == storage.reference(str(image))
    assert fetching.fetch(listed, 100).content == b"content"


def test_a_file_url_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or directory"):
        check_patterns([(tmp_path / "none").as_uri()])


def test_a_run_between_file_urls_names_paths(
    pixelbeam: Callable[..., tuple[int, str, str]], photographs: Path, tiny_toml: str, tmp_path: Path
) -> None:
    output = tmp_path / "a b"
    code, _, errors = pixelbeam(
        "run", "--input", photographs.as_uri(), "--output", output.as_uri(), "--variant", tiny_toml
    )
    assert code == 0, errors
    assert dataset.uris(output) == sorted(str(path) for path in photographs.iterdir())
    assert pixelbeam("verify", output.as_uri())[0] == 0

"""Patterns to images."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.test_fetching import without_privileges
from transforms.containers import Layout
from transforms.errors import RunError, UsageError
from transforms.listing import Found, list_images
from transforms.members import KeptColumns


def listed(*patterns: object) -> list[str]:
    return [ref.uri for ref in list_images([str(pattern) for pattern in patterns], Found())]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "sub/deep/d.tiff", ".hidden.jpg", ".git/e.jpg", "notes.txt"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def test_a_directory_is_searched_for_images_and_counts_the_rest(folder: Path) -> None:
    counts = Found()
    uris = [ref.uri for ref in list_images([str(folder)], counts)]
    assert uris == [str(folder / name) for name in ("a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.tiff")]
    assert counts == Found(listed=4, ignored=2)


def test_references_carry_size_and_version(folder: Path) -> None:
    (ref,) = list_images([str(folder / "b.jpg")], Found())
    status = os.stat(folder / "b.jpg")
    assert (ref.size, ref.version) == (5, f"5-{status.st_mtime_ns}")


def test_a_glob_takes_files_whatever_their_names(folder: Path) -> None:
    assert listed(folder / "*") == [str(folder / name) for name in ("a.PNG", "b.jpg", "notes.txt")]
    assert listed(folder / "**" / "*.webp") == [str(folder / "sub/c.webp")]


def test_a_name_with_a_glob_s_letters_is_a_name_first(tmp_path: Path) -> None:
    path = tmp_path / "what [1].jpg"
    path.write_bytes(b"")
    assert listed(path) == [str(path)]


@pytest.mark.parametrize(
    "name", ["with space.jpg", "a#b.jpg", "100%25.jpg", "x::y.jpg", "naïve-日本.jpg", "a\nb.jpg"]
)
def test_strange_names_are_taken_verbatim(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"1")
    (ref,) = list_images([str(tmp_path)], Found())
    assert (ref.uri, ref.size) == (str(tmp_path / name), 1)


def test_a_name_that_is_not_utf8_is_listed_all_the_same(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb"):
        pass
    assert listed(tmp_path) == [f"{tmp_path}/caf\\xe9.jpg"]


def test_a_relative_pattern_gives_absolute_uris(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert listed("photos/b.jpg") == [str(folder / "b.jpg")]


def test_the_order_is_not_the_file_system_s(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "another").mkdir()
    (folder / "another" / "z.jpg").write_bytes(b"")
    expected = listed(folder)
    walk = os.walk

    def backwards(*arguments: object, **options: object):
        for root, folders, files in walk(*arguments, **options):
            folders.sort(reverse=True)
            files.sort(reverse=True)
            yield root, folders, files

    monkeypatch.setattr(os, "walk", backwards)
    assert listed(folder) == expected
    assert [os.path.basename(uri) for uri in expected] == ["a.PNG", "b.jpg", "z.jpg", "c.webp", "d.tiff"]


def test_linked_folders_are_followed_and_loops_end(folder: Path) -> None:
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "other").symlink_to(folder / "sub" / "deep")
    names = [os.path.basename(uri) for uri in listed(folder)]
    assert sorted(names) == ["a.PNG", "b.jpg", "c.webp", "d.tiff"]


def test_manifests_name_images(folder: Path) -> None:
    uris = ["b.jpg", str(folder / "sub" / "c.webp"), "missing.jpg"]
    (folder / "list.txt").write_text("\n".join([*uris, "", ""]))
    (folder / "list.csv").write_text("label,uri\n" + "".join(f"x,{uri}\n" for uri in [*uris, ""]))
    pq.write_table(pa.table({"uri": uris, "label": [1, 2, 3]}), folder / "list.parquet")
    wanted = [str(folder / name) for name in ("b.jpg", "sub/c.webp", "missing.jpg")]
    for name in ("list.txt", "list.csv", "list.parquet"):
        refs = list(list_images([str(folder / name)], Found()))
        assert [ref.uri for ref in refs] == wanted
        assert [ref.size for ref in refs] == [5, 10, None]


@pytest.mark.parametrize("name", ["missing.tar", "missing.parquet"])
def test_a_container_that_is_not_there_is_an_image_that_is_not_there(folder: Path, name: str) -> None:
    (folder / "list.txt").write_text(f"{name}\nb.jpg\n")
    refs = list_images([str(folder / "list.txt")], Found())
    assert [(ref.uri, ref.size) for ref in refs] == [(str(folder / name), None), (str(folder / "b.jpg"), 5)]


def test_a_file_that_brings_nothing_along_has_none_of_what_is_kept(folder: Path) -> None:
    layout = Layout(keep=("label", "title"))
    refs = list_images([str(folder / "b.jpg")], Found(KeptColumns(layout.keep)), layout)
    assert [ref.kept for ref in refs] == [(None, None)]


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_a_manifest_without_the_column_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "list.csv").write_text("path,label\na.jpg,1\n")
    pq.write_table(pa.table({"path": ["a.jpg"], "label": [1]}), tmp_path / "list.parquet")
    with pytest.raises(UsageError, match=r"no (column )?'uri', only '?path"):
        listed(tmp_path / name)


@pytest.mark.parametrize(
    ("make", "pattern", "message"),
    [
        ("nothing", "nowhere", "no such file or directory"),
        ("nothing", "*.jpg", "the glob matches no file"),
        ("notes.md", ".", r"no file's name is an image's \(ignored: 1\)"),
        ("empty.txt", "empty.txt", "the manifest is empty"),
        ("nothing", "nonsense://bucket/a", "no scheme that fsspec knows"),
    ],
)
def test_a_pattern_that_names_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str, pattern: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if make != "nothing":
        (tmp_path / make).write_bytes(b"")
    with pytest.raises(UsageError, match=message):
        listed(pattern)


def test_one_empty_pattern_among_others_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="the glob matches no file"):
        listed(folder, folder / "*.nothing")


def test_a_broken_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"uri\n" + b"a" * 200_000)
    with pytest.raises(UsageError, match="cannot be read"):
        listed(tmp_path / "list.csv")


def test_of_a_broken_parquet_file_nobody_knows_what_it_was_and_it_is_accounted_for(tmp_path: Path) -> None:
    (tmp_path / "list.parquet").write_bytes(b"PAR1 and nothing more")
    assert listed(tmp_path / "list.parquet") == [f"{tmp_path}/list.parquet::@0"]


def test_a_manifest_may_hold_names_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.jpg\n")
    assert listed(tmp_path / "list.txt") == [f"{tmp_path}/caf\\xe9.jpg"]


def test_a_folder_that_cannot_be_listed_is_not_passed_over() -> None:
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        closed = Path(root) / "closed"
        closed.mkdir()
        (closed / "a.jpg").write_bytes(b"")
        (Path(root) / "b.jpg").write_bytes(b"")
        closed.chmod(0)
        with without_privileges(), pytest.raises(RunError, match=f"cannot list {closed}: Permission denied"):
            listed(root)
        closed.chmod(0o755)


def test_a_container_that_may_not_be_read_is_one_line() -> None:
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        path = Path(root) / "a.tar"
        path.write_bytes(b"")
        path.chmod(0)
        message = f"cannot read {path}: Permission denied; mend it or leave it out"
        with without_privileges(), pytest.raises(RunError, match=message):
            listed(path)


def test_a_glob_starts_in_the_folder_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos [2026]"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"")
    monkeypatch.chdir(folder)
    assert listed("*.jpg") == [str(folder / "a.jpg")]


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_byte_order_mark_is_no_part_of_a_name(folder: Path, name: str) -> None:
    header = "uri\n" if name == "list.csv" else ""
    (folder / name).write_text(f"{header}b.jpg\n", encoding="utf-8-sig")
    assert listed(folder / name) == [str(folder / "b.jpg")]


def test_a_manifest_may_hold_names_with_a_line_s_end_in_them(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a\rb.jpg\r\nc.jpg")
    (tmp_path / "list.csv").write_bytes(b'uri\r\n"a\r\nb.jpg"\r\nc.jpg\r\n')
    assert listed(tmp_path / "list.txt") == [f"{tmp_path}/a\rb.jpg", f"{tmp_path}/c.jpg"]
    assert listed(tmp_path / "list.csv") == [f"{tmp_path}/a\r\nb.jpg", f"{tmp_path}/c.jpg"]


def test_a_manifest_of_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\0b.jpg")
    with pytest.raises(UsageError, match="holds a NUL"):
        listed(tmp_path / "list.txt")


def test_a_manifest_s_uris_must_be_strings(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": [b"a.jpg"]}), tmp_path / "list.parquet")
    with pytest.raises(UsageError, match="holds no strings"):
        listed(tmp_path / "list.parquet")


def test_an_empty_pattern_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot read ''"):
        listed("")

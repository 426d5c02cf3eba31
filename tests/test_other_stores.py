"""A store that is known only through fsspec: in memory, where who writes last wins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.records import refs
from transforms import snapshots, storage, stores
from transforms.changes import Changes
from transforms.errors import RunError
from transforms.snapshots import UnitSize

URL = "memory://data"


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store holds nothing, and is met for the first time."""
    monkeypatch.setattr(stores, "_stores", {})
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])


def test_what_is_committed_is_read(local: Callable[[bytes], str]) -> None:
    assert storage.commit(local(b"content"), f"{URL}/out/part")
    assert storage.read(f"{URL}/out/part") == b"content"
    assert storage.read_tail(f"{URL}/out/part", 3) == b"ent"
    assert storage.reference(f"{URL}/out/part").size == 7
    with storage.open_file(f"{URL}/out/part") as file:
        assert file.read() == b"content"
    with pytest.raises(FileNotFoundError):
        storage.read(f"{URL}/none")


def test_a_range_that_comes_short_is_no_end_of_the_file(
    local: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.patience.OUTAGE_SECONDS", 0.1)
    url = f"{URL}/out/part"
    storage.commit(local(bytes(1_000_000)), url)
    with storage.open_file(url) as file:
        assert file.read(1000) == bytes(1000)
        storage.commit(local(bytes(1500)), url)
        with pytest.raises(RunError, match=r"500 bytes came of 1,000"):
            file.read(1000)


def test_swap_replaces_only_what_was_read() -> None:
    url = f"{URL}/CURRENT.json"
    assert storage.read_versioned(url) == (None, None)
    assert storage.swap(url, b"one", None)
    assert not storage.swap(url, b"two", None)
    token = storage.read_versioned(url)[1]
    assert storage.swap(url, b"two", token)
    assert not storage.swap(url, b"three", token)
    assert storage.read(url) == b"two"


def test_names_files_and_folders_are_found_made_and_removed() -> None:
    for name in ("out/a.json", "out/ab/c", "out/b", "out2/a"):
        storage.create(f"{URL}/{name}")
    assert storage.exists(f"{URL}/out/b")
    assert not storage.exists(f"{URL}/out")
    assert storage.list_names(f"{URL}/out") == ["a.json", "ab", "b"]
    assert storage.list_names(f"{URL}/out", "a") == ["a.json", "ab"]
    assert storage.list_names(f"{URL}/none") == []
    for _ in range(2):
        storage.delete(f"{URL}/out/b")
        assert storage.list_names(f"{URL}/out") == ["a.json", "ab"]
    for _ in range(2):
        storage.delete_directory(f"{URL}/out")
        assert storage.list_names(URL) == ["out2"]


def test_a_tree_of_many_folders_is_listed_whole() -> None:
    names = [f"{number:03d}/{deep}a.jpg" for number in range(70) for deep in ("", "b/")]
    for name in names:
        storage.create(f"{URL}/in/{name}")
    listed = [ref.uri.partition("/in/")[2] for ref in storage.list_tree(f"{URL}/in/")]
    assert sorted(listed) == sorted(names)


def test_an_index_of_several_parts_is_brought_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "UNITS_PER_PART", 1)
    first, _ = snapshots.update(f"{URL}/out", refs(8), UnitSize(4))
    assert len(first.parts) == 2
    assert snapshots.update(f"{URL}/out", refs(8), UnitSize(4)) == (first, Changes(0, 0, 0, 0))
    _, changes = snapshots.update(f"{URL}/out", refs(9)[1:], UnitSize(4))
    assert changes == Changes(new=1, changed=0, duplicates=0, gone=1)

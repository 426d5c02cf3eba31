"""Committing once, swapping on condition, listing and deleting on a local disk."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from transforms import storage


def test_commit_appears_once_and_whole(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"first")
    second.write_bytes(b"second")
    destination = tmp_path / "out" / "part.parquet"
    assert storage.commit(str(first), str(destination))
    assert not storage.commit(str(second), str(destination))
    assert destination.read_bytes() == b"first"
    assert storage.list_names(str(destination.parent)) == ["part.parquet"]


def test_a_commit_survives_a_sweep_of_its_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local").write_bytes(b"content")
    link, sweeps = os.link, []

    def link_after_a_sweep(source: str, destination: str) -> None:
        if not sweeps:
            sweeps.append(source)
            os.remove(source)
        link(source, destination)

    monkeypatch.setattr(os, "link", link_after_a_sweep)
    assert storage.commit(str(tmp_path / "local"), str(tmp_path / "out" / "part"))
    assert (tmp_path / "out" / "part").read_bytes() == b"content"
    assert os.listdir(tmp_path / "out") == ["part"]


def test_a_commit_is_on_disk_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "local").write_bytes(b"content")
    order = []
    fsync, link = os.fsync, os.link
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("sync"), fsync(file))[1])
    monkeypatch.setattr(os, "link", lambda *paths: (order.append("link"), link(*paths))[1])
    storage.commit(str(tmp_path / "local"), str(tmp_path / "out" / "part"))
    assert order == ["sync", "link", "sync"]


def test_a_swap_is_on_disk_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("sync"), fsync(file))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("replace"), replace(*paths))[1])
    assert storage.swap(str(tmp_path / "CURRENT.json"), b"one", None)
    assert order == ["sync", "replace"]


def test_of_many_commits_at_once_one_wins(tmp_path: Path) -> None:
    destination = str(tmp_path / "out" / "part")
    won = []

    def commit(number: int) -> None:
        local = tmp_path / str(number)
        local.write_bytes(bytes([number]) * 100_000)
        if storage.commit(str(local), destination):
            won.append(number)

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert Path(destination).read_bytes() == bytes(won) * 100_000


def test_swap_replaces_only_what_was_read(tmp_path: Path) -> None:
    path = str(tmp_path / "dir" / "CURRENT.json")
    content, token = storage.read_versioned(path)
    assert content is None
    assert storage.swap(path, b"one", token)
    assert not storage.swap(path, b"two", token)
    content, token = storage.read_versioned(path)
    assert content == b"one"
    assert storage.swap(path, b"two", token)
    assert storage.read_versioned(path)[0] == b"two"
    assert storage.list_names(os.path.dirname(path)) == ["CURRENT.json"]


def test_delete_may_run_twice(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(b"")
    for _ in range(2):
        storage.delete(str(folder / "file"))
        assert os.listdir(folder) == []
    for _ in range(2):
        storage.delete_directory(str(folder))
        assert not folder.exists()


def test_a_file_is_created_with_its_directories_though_they_vanish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a" / "b" / "marker"
    make, vanished = os.makedirs, iter([True, False])

    def makedirs(name: str, exist_ok: bool = False) -> None:
        make(name, exist_ok=exist_ok)
        if name == str(path.parent) and next(vanished):
            os.rmdir(name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "makedirs", makedirs)
        storage.create(str(path))
    assert path.read_bytes() == b""
    path.write_bytes(b"content")
    storage.create(str(path))
    assert path.read_bytes() == b"content"

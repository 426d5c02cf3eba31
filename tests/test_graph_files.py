"""A kept graph: one file that is whole or not there."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_modules import TF2_FEATURES, normalised_module, random_module
from transforms import graph_files, graphs


@pytest.fixture(scope="module")
def optimised(tmp_path_factory: pytest.TempPathFactory) -> graphs.Optimised:
    """The graph of a tiny module."""
    module, variant = normalised_module(tmp_path_factory.mktemp("module"))
    return graphs.optimise(module, variant, "0")


class TestKept:
    def test_comes_back_as_it_was(self, tmp_path: Path, optimised: graphs.Optimised) -> None:
        path = str(tmp_path / "new" / "graph")
        graph_files.keep(path, optimised)
        again = graph_files.read(path, "0")
        assert again.facts == optimised.facts == graph_files.read_facts(path, TF2_FEATURES, "0")
        assert again.graph == optimised.graph
        graph_files.keep(path, optimised)
        assert os.listdir(tmp_path / "new") == ["graph"]

    def test_that_there_is_none_is_kept_too(self, tmp_path: Path) -> None:
        module, variant = random_module(tmp_path / "module")
        optimised = graphs.optimise(module, variant, "0")
        graph_files.keep(str(tmp_path / "graph"), optimised)
        again = graph_files.read(str(tmp_path / "graph"), "0")
        assert (again.graph, again.facts) == (None, optimised.facts)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda path: path.unlink(),
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            lambda path: path.write_bytes(path.read_bytes()[:100]),
            lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\0"),
            lambda path: path.write_bytes(path.read_bytes().partition(b"\n")[0] + b"\n"),
            lambda path: path.write_bytes(b"[]\n" + path.read_bytes()),
            lambda path: path.write_bytes(b"\xff\n" + path.read_bytes()),
            lambda path: rewrite(path, lambda head: head.pop("sha256")),
            lambda path: rewrite(path, lambda head: head.update(format=graph_files.FORMAT + 1)),
            lambda path: rewrite(path, lambda head: head.update(facts=None)),
            lambda path: rewrite(path, lambda head: head["facts"].pop("form")),
            lambda path: rewrite(path, lambda head: head["facts"].update(tensorflow="2.20.0")),
            lambda path: rewrite(path, lambda head: head["facts"].update(module_sha256="1")),
        ],
    )
    def test_broken_or_of_another_kind_is_not_there(
        self, tmp_path: Path, optimised: graphs.Optimised, spoil: Any
    ) -> None:
        path = tmp_path / "graph"
        graph_files.keep(str(path), optimised)
        spoil(path)
        assert graph_files.read(str(path), "0") is None
        assert graph_files.read_facts(str(path), TF2_FEATURES, "0") is None

    def test_that_is_no_graph_is_not_there(self, tmp_path: Path, optimised: graphs.Optimised) -> None:
        class Garbage:
            def SerializeToString(self, deterministic: bool) -> bytes:  # noqa: N802
                return b"\xff" * 9

        graph_files.keep(str(tmp_path / "graph"), dataclasses.replace(optimised, graph=Garbage()))
        assert graph_files.read(str(tmp_path / "graph"), "0") is None

    @pytest.mark.parametrize("change", [{"size": 24}, {"outputs": ("logits",)}])
    def test_facts_are_of_one_size_and_of_some_outputs(
        self, tmp_path: Path, optimised: graphs.Optimised, change: dict
    ) -> None:
        path = str(tmp_path / "graph")
        graph_files.keep(path, optimised)
        assert graph_files.read_facts(path, TF2_FEATURES, "0") == optimised.facts
        assert graph_files.read_facts(path, dataclasses.replace(TF2_FEATURES, **change), "0") is None

    def test_an_interrupted_write_leaves_what_was_there(
        self, tmp_path: Path, optimised: graphs.Optimised, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = str(tmp_path / "graph")
        graph_files.keep(path, optimised)

        def fail(*_: Any) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            graph_files.keep(path, dataclasses.replace(optimised, graph=None))
        assert os.listdir(tmp_path) == ["graph"]
        assert graph_files.read(path, "0").graph == optimised.graph


def rewrite(path: Path, change: Any) -> None:
    """Changes the header of a kept graph."""
    line, _, body = path.read_bytes().partition(b"\n")
    head = json.loads(line)
    change(head)
    path.write_bytes(json.dumps(head).encode() + b"\n" + body)

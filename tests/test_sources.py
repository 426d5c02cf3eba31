"""Every kind of source through whole runs: the same images give the same rows, and what is kept comes along."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests import dataset, photos
from tests.gcs_server import GcsServer
from tests.test_containers import framed, parquet, tar, zstd
from tests.test_tfrecords import example

N_IMAGES = 300


@pytest.fixture(scope="module")
def images() -> dict[str, bytes]:
    """Distinct photographs of a few KB each, by name."""
    return {f"{number:04d}.jpg": photos.jpeg(photos.scene(60, 80, number)) for number in range(N_IMAGES)}


@pytest.fixture(scope="module")
def sources(images: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the same images in every way there is."""
    folder = tmp_path_factory.mktemp("sources")
    contents = list(images.values())
    (folder / "files").mkdir()
    for name, content in images.items():
        (folder / "files" / name).write_bytes(content)
    names = [f"files/{name}" for name in images]
    # A manifest's files have uris of their own, and so they are others than the folder's.
    for kind in ("txt", "csv", "rows"):
        (folder / kind).symlink_to(folder / "files")
    listed = {kind: [name.replace("files", kind) for name in names] for kind in ("txt", "csv", "rows")}
    (folder / "list.txt").write_text("\n".join(["", *listed["txt"], "", listed["txt"][0]]) + "\n")
    (folder / "list.csv").write_text("uri\n" + "\n".join(listed["csv"]))
    pq.write_table(pa.table({"uri": listed["rows"]}), folder / "list.parquet")
    records = framed([example(**{"image/encoded": [content]}) for content in contents])
    (folder / "a.tfrecord").write_bytes(records)
    (folder / "b.tfrecord-00000-of-00001.gz").write_bytes(gzip.compress(records, 1))
    archive = tar(list(images.items()), tarfile.GNU_FORMAT)
    (folder / "a.tar").write_bytes(archive)
    (folder / "b.tgz").write_bytes(gzip.compress(archive, 1))
    (folder / "c.tar.zst").write_bytes(zstd(archive))
    (folder / "bytes.parquet").write_bytes(parquet(pa.table({"image": contents}), row_group_size=70))
    faces = [{"bytes": content, "path": name} for name, content in images.items()]
    (folder / "faces.parquet").write_bytes(parquet(pa.table({"image": faces}), row_group_size=70))
    return folder


CONTAINERS = (
    *("a.tfrecord", "b.tfrecord-00000-of-00001.gz", "a.tar", "b.tgz", "c.tar.zst"),
    *("bytes.parquet", "faces.parquet"),
)


def source_of(uri: str, folder: str) -> str:
    return uri.removeprefix(folder).lstrip("/").split("::")[0].split("/")[0]


def assert_equal_rows(rows: pa.Table, folder: str, sources: list[str], images: dict[str, bytes]) -> None:
    """Each source's rows are the first's: the same but for uri and version, scores within rounding."""
    by_source: dict[str, list[int]] = {}
    for number, uri in enumerate(rows.column("uri").to_pylist()):
        by_source.setdefault(source_of(uri, folder), []).append(number)
    assert sorted(by_source) == sorted(sources)
    tables = [rows.take(numbers).sort_by("sha256") for numbers in by_source.values()]
    for table in tables:
        assert table.num_rows == len(images)
        for column in ("sha256", "size", "width", "height", "orientation"):
            assert table.column(column).equals(tables[0].column(column)), column
        for column in ("logits", "features"):
            vectors = [np.stack(each.column(column).to_numpy()) for each in (table, tables[0])]
            np.testing.assert_allclose(*vectors, rtol=1e-5, atol=1e-6)
    assert set(tables[0].column("size").to_pylist()) == {len(content) for content in images.values()}


def test_the_same_images_from_every_source_give_the_same_rows(
    pixelbeam, sources: Path, images: dict[str, bytes], tiny_toml: str, tmp_path: Path
) -> None:
    inputs = [
        *(
            sources / name
            for name in ("files", "list.txt", "list.csv", "list.parquet", "*.tar*", "*s.parquet")
        ),
        *(sources / name for name in CONTAINERS if name.endswith(("tgz", "gz", "tfrecord"))),
    ]
    options = ["--variant", tiny_toml, "--images-per-unit", 128, "--batch-size", 32]
    code, _, errors = pixelbeam("run", "--input", *inputs, "--output", tmp_path, *options)
    assert code == 0, errors
    assert ", 1 listed twice" in errors
    assert pixelbeam("verify", tmp_path, "--deep")[0] == 0
    (directory,) = dataset.variants(tmp_path)
    names = ["files", "txt", "csv", "rows", *CONTAINERS]
    assert_equal_rows(dataset.rows(directory), str(sources), names, images)
    uris = set(dataset.rows(directory).column("uri").to_pylist())
    assert {f"{sources}/a.tar::0007.jpg", f"{sources}/a.tfrecord::7", f"{sources}/bytes.parquet::7"} <= uris


def test_containers_in_a_bucket_give_the_same_rows_and_are_read_in_large_pieces(
    pixelbeam, gcs: GcsServer, sources: Path, images: dict[str, bytes], tiny_toml: str, tmp_path: Path
) -> None:
    gcs.put_directory(sources / "files", "in", "data/files/")
    for name in CONTAINERS:
        gcs.put("in", f"data/{name}", (sources / name).read_bytes())
    inputs = ["gs://in/data", *(f"gs://in/data/{name}" for name in CONTAINERS)]
    options = ["--variant", tiny_toml, "--images-per-unit", 128, "--batch-size", 32]
    code, _, errors = pixelbeam("run", "--input", *inputs, "--output", tmp_path, *options)
    assert code == 0, errors
    (directory,) = dataset.variants(tmp_path)
    assert_equal_rows(dataset.rows(directory), "gs://in/data", ["files", *CONTAINERS], images)
    # Types, a scan, and a read by each of three units; a Parquet file's metadata are read by themselves.
    assert all(gcs.counts.downloads[f"in/data/{name}"] < 40 for name in CONTAINERS)


def test_what_is_kept_comes_along_as_columns(
    pixelbeam, images: dict[str, bytes], tiny_toml: str, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    contents = list(images.values())[:4]
    for number, content in enumerate(contents):
        (folder / f"{number}.jpg").write_bytes(content)
    members = [
        *((f"s{number}.cls", str(number).encode()) for number in reversed(range(3))),
        *((f"s{number}.jpg", content) for number, content in enumerate(contents)),
        ("s1.json", json.dumps({"a": 1}).encode()),
    ]
    (folder / "a.tar").write_bytes(tar(members))
    table = pa.table(
        {"uri": [f"{number}.jpg" for number in range(4)], "cls": [9, 8, None, 6], "json": ["x"] * 4}
    )
    pq.write_table(table, folder / "list.parquet")
    inputs = [folder / "a.tar", folder / "list.parquet"]
    options = ["--variant", tiny_toml, "--keep", "cls", "json", "--images-per-unit", 3]
    assert pixelbeam("run", "--input", *inputs, "--output", out, *options)[0] == 0
    (directory,) = dataset.variants(out)
    rows = dataset.rows(directory)
    kept = dict(zip(rows.column("uri").to_pylist(), rows.select(["cls", "json"]).to_pylist(), strict=True))
    expected = {
        f"{folder}/{number}.jpg": {"cls": [9, 8, None, 6][number], "json": "x"} for number in range(4)
    }
    expected |= {
        f"{folder}/a.tar::s{number}.jpg": {
            "cls": number if number < 3 else None,
            "json": '{"a": 1}' if number == 1 else None,
        }
        for number in range(4)
    }
    assert kept == expected
    assert (rows.schema.field("cls").type, rows.schema.field("json").type) == (pa.int64(), pa.string())
    # The same again does nothing; without the columns it is refused, and done anew with them changed.
    before = dataset.files(directory)
    assert pixelbeam("run", "--input", *inputs, "--output", out, *options)[0] == 0
    assert dataset.files(directory) == before
    code, _, errors = pixelbeam("run", "--input", *inputs, "--output", out, "--variant", tiny_toml)
    assert (code, errors.count("\n")) == (2, 1)
    assert "keep ['cls', 'json'], not []" in errors
    fewer = ["--variant", tiny_toml, "--keep", "json", "--replace"]
    assert pixelbeam("run", "--input", *inputs, "--output", out, *fewer)[0] == 0
    rows = dataset.rows(directory)
    assert "cls" not in rows.column_names
    assert pc.sum(pc.equal(rows.column("json"), "x")).as_py() == 4
    assert pixelbeam("verify", out, "--deep")[0] == 0


def test_a_label_that_changes_makes_its_unit_anew(
    pixelbeam, images: dict[str, bytes], tiny_toml: str, tmp_path: Path
) -> None:
    names = [f"{number}.jpg" for number in range(6)]
    for name, content in zip(names, images.values(), strict=False):
        (tmp_path / name).write_bytes(content)

    def run(labels: list[str]) -> dict[str, int]:
        lines = [f"{name},{label}" for name, label in zip(names, labels, strict=True)]
        (tmp_path / "list.csv").write_text("uri,label\n" + "\n".join(lines))
        options = ["--variant", tiny_toml, "--keep", "label", "--images-per-unit", 2]
        arguments = ["--input", tmp_path / "list.csv", "--output", tmp_path / "out", *options]
        assert pixelbeam("run", *arguments)[0] == 0
        (directory,) = dataset.variants(tmp_path / "out")
        assert dataset.rows(directory).column("label").to_pylist() == labels
        return dataset.files(directory)

    before, after = run(["a"] * 6), run(["a", "a", "a", "b", "a", "a"])
    assert len(before) == len(after) == 3
    assert len(before.items() & after.items()) == 2


BAD = {
    "climbs out": ("x.tar", tar([("../../etc/passwd.jpg", b"root")]), "fetch: unsafe_path"),
    "cut in a record": ("x.tfrecord", framed([b"a" * 100])[:50], "fetch: broken_container"),
    "a wrong crc": ("x.tfrecord", framed([b"a" * 100])[:-1] + b"x", "fetch: corrupt"),
    "no example": ("x.tfrecord", framed([b"\xff\xff"]), "fetch: no_image"),
    "no tar": ("x.tar", b"this is no tar" * 100, "fetch: broken_container"),
    "cut parquet": ("x.parquet", b"PAR1 and no more", "fetch: broken_container"),
    "no bytes": (
        "x.parquet",
        parquet(pa.table({"image": pa.array([None], pa.binary())})),
        "fetch: no_image",
    ),
}


@pytest.mark.parametrize(("name", "content", "reason"), BAD.values(), ids=BAD)
def test_what_is_bad_in_a_container_is_one_failure(
    pixelbeam, photographs: Path, tiny_toml: str, tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    arguments = [
        "--input",
        photographs,
        tmp_path / name,
        "--output",
        tmp_path / "out",
        "--variant",
        tiny_toml,
    ]
    assert pixelbeam("run", *arguments)[0] == 0
    (directory,) = dataset.variants(tmp_path / "out")
    (failure,) = dataset.failures(directory)
    assert f"{failure['step']}: {failure['error']}" == reason
    assert failure["uri"].startswith(f"{tmp_path}/{name}::")
    assert dataset.rows(directory).num_rows == 24


def test_a_container_that_breaks_half_way_gives_what_came_before(
    pixelbeam, images: dict[str, bytes], tiny_toml: str, tmp_path: Path
) -> None:
    whole = tar(list(images.items())[:20])
    (tmp_path / "x.tar").write_bytes(whole[: len(whole) // 2])
    arguments = ["--input", tmp_path / "x.tar", "--output", tmp_path / "out", "--variant", tiny_toml]
    pixelbeam("run", *arguments, "--max-failure-ratio", 1)
    (directory,) = dataset.variants(tmp_path / "out")
    rows, (failure,) = dataset.rows(directory), dataset.failures(directory)
    assert 5 < rows.num_rows < 15
    assert f"::@{failure['uri'].split('@')[1]}" in failure["uri"]
    assert f"byte {failure['uri'].split('@')[1]}" in failure["message"]


REFUSED = {
    "no images": (
        "x.parquet",
        parquet(pa.table({"a": [1]})),
        [],
        "no column of bytes and no 'uri', only 'a'",
    ),
    "two columns": (
        "x.parquet",
        parquet(pa.table({"a": [b"1"], "b": [b"2"]})),
        [],
        "'a', 'b'; say which are the images by --image-column",
    ),
    "another column": (
        "x.parquet",
        parquet(pa.table({"a": [b"1"]})),
        ["--image-column", "b"],
        "no column 'b'",
    ),
    "nothing to keep": ("x.parquet", parquet(pa.table({"a": [b"1"]})), ["--keep", "label"], "label"),
    "no such feature": (
        "x.tfrecord",
        framed([example(**{"image/encoded": [b"1"]})]),
        ["--keep", "label"],
        "--keep label: no input has such a column",
    ),
    "a column of rows": ("x.csv", b"uri\n", ["--keep", "uri"], "--keep uri: rows have such a column already"),
    "a manifest in a glob": (
        "x.parquet",
        parquet(pa.table({"uri": ["a"]})),
        ["--input", "{}/*.parquet"],
        "by itself",
    ),
    "nothing in it": ("x.tar", b"\0" * 10240, [], "no images in"),
}


@pytest.mark.parametrize(("name", "content", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_one_line(
    pixelbeam,
    tiny_toml: str,
    tmp_path: Path,
    name: str,
    content: bytes,
    options: list[str],
    message: str,
) -> None:
    (tmp_path / name).write_bytes(content)
    options = [option.format(tmp_path) for option in options]
    arguments = ["--input", tmp_path / name, "--output", tmp_path / "out", "--variant", tiny_toml, *options]
    code, _, errors = pixelbeam("run", *arguments)
    assert (code, errors.count("\n")) == (2, 1)
    assert message in errors
    assert not (tmp_path / "out").exists()


def test_types_that_differ_between_sources_are_refused(pixelbeam, tiny_toml: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": ["a.jpg"], "label": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"uri": ["b.jpg"], "label": ["x"]}), tmp_path / "b.parquet")
    inputs = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    arguments = ["--output", tmp_path / "out", "--variant", tiny_toml, "--keep", "label"]
    code, _, errors = pixelbeam("run", "--input", *inputs, *arguments)
    assert code == 2
    assert f"--keep label: it is string in {tmp_path}/b.parquet, but int64 in another input" in errors

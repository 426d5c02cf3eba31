"""Parquet files with images: which column, which rows, how much memory."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.test_containers import all_images, assert_breaks_at, images, jpegs, parquet, scanned
from transforms import containers
from transforms.containers import Layout, Member, kept_types, read, scan
from transforms.errors import BadImage, UsageError
from transforms.image_tables import has_images

HUGGING_FACE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def hugging_face(contents: list[bytes | None]) -> pa.Array:
    return pa.array([{"bytes": content, "path": "a.jpg"} for content in contents], HUGGING_FACE)


def is_container(content: bytes, column: str | None = None) -> bool:
    return has_images(io.BytesIO(content), "/d/a.parquet", Layout(column))


SAME_SIZE = [jpeg[:1000] for jpeg in jpegs()]
COLUMNS = {
    "binary": pa.array(jpegs()),
    "large_binary": pa.array(jpegs(), pa.large_binary()),
    "binary_view": pa.array(jpegs()).cast(pa.binary_view()),
    "fixed_size_binary": pa.array(SAME_SIZE, pa.binary(1000)),
    "dictionary": pa.array(jpegs()).dictionary_encode(),
    "struct": hugging_face(list(jpegs())),
    "large struct": pa.array(
        [{"path": None, "bytes": jpeg} for jpeg in jpegs()],
        pa.struct({"path": pa.string(), "bytes": pa.large_binary()}),
    ),
    "bytes only": pa.array([{"bytes": jpeg} for jpeg in jpegs()], pa.struct({"bytes": pa.binary()})),
}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_every_kind_of_bytes_is_read(column: str, rows: int) -> None:
    content = parquet(pa.table({"label": range(6), "photo": COLUMNS[column]}), row_group_size=rows)
    assert scanned(content, "a.parquet") == [Member(str(row), row, None, ()) for row in range(6)]
    expected = SAME_SIZE if column == "fixed_size_binary" else jpegs()
    assert all_images(content, "a.parquet") == {str(row): image for row, image in enumerate(expected)}
    for wanted in ([0], [5], [1, 2, 4], [3, 5], []):
        found = list(read(io.BytesIO(content), "a.parquet", Layout(), wanted))
        assert found == [expected[row] for row in wanted]
    assert is_container(content)


def test_rows_without_bytes_are_failures() -> None:
    for column in (pa.array([b"0", None, b""]), hugging_face([b"0", None, b""])):
        assert all_images(parquet(pa.table({"image": column})), "a.parquet") == {
            "0": b"0",
            "1": ("no_image", "row 1 holds no bytes"),
            "2": ("no_image", "row 2 holds no bytes"),
        }
    nothing = pa.array([None, {"bytes": b"1", "path": None}], HUGGING_FACE)
    assert list(all_images(parquet(pa.table({"image": nothing})), "a.parquet").values()) == [
        ("no_image", "row 0 holds no bytes"),
        b"1",
    ]


def test_an_image_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_BYTES", 10)
    content = parquet(pa.table({"image": [bytes(10), bytes(11)]}))
    reason = ("too_many_bytes", "11 bytes; the limit is 10")
    assert list(all_images(content, "a.parquet").values()) == [bytes(10), reason]


def test_a_column_called_image_comes_first_and_others_must_be_named() -> None:
    columns = {"label": [1], "mask": [b"M"], "thumbnail": hugging_face([b"T"])}
    with_image = parquet(pa.table({**columns, "image": [b"I"]}))
    assert all_images(with_image, "a.parquet") == {"0": b"I"}
    assert all_images(with_image, "a.parquet", column="mask") == {"0": b"M"}
    several = parquet(pa.table(columns))
    message = (
        r"^/d/a\.parquet: several columns hold bytes: 'mask', 'thumbnail'; say which .* by --image-column$"
    )
    with pytest.raises(UsageError, match=message):
        scanned(several, "/d/a.parquet")
    with pytest.raises(UsageError, match=message):
        is_container(several)
    assert all_images(several, "a.parquet", column="thumbnail") == {"0": b"T"}


def test_a_name_with_a_dot_or_a_slash_is_a_name() -> None:
    content = parquet(pa.table({"a.b": [b"1"], "image/encoded": hugging_face([b"2"])}))
    assert all_images(content, "a.parquet", column="a.b") == {"0": b"1"}
    assert all_images(content, "a.parquet", column="image/encoded") == {"0": b"2"}


def test_hashes_are_no_images_beside_images() -> None:
    hashes = pa.array([bytes(32)], pa.binary(32))
    assert all_images(parquet(pa.table({"sha256": hashes, "photo": [b"P"]})), "a.parquet") == {"0": b"P"}
    assert not is_container(parquet(pa.table({"sha256": hashes, "uri": ["a.jpg"]})))
    assert is_container(parquet(pa.table({"sha256": hashes, "uri": ["a.jpg"]})), "sha256")


def test_a_manifest_is_told_from_a_container() -> None:
    assert not is_container(parquet(pa.table({"uri": ["a.jpg"], "label": [1]})))
    assert not is_container(parquet(pa.table({"uri": pa.array(["a.jpg"], pa.large_string())})))
    assert is_container(parquet(pa.table({"uri": ["a.jpg"], "image": [b"I"]})))
    assert is_container(parquet(pa.table({"image": [b"I"]})))
    assert is_container(b"")
    assert is_container(b"PAR1 cut off")


@pytest.mark.parametrize("columns", [{"label": [1], "path": ["a.jpg"]}, {"label": [1], "path": ["a"]}])
def test_a_table_without_either_is_refused(columns: dict[str, list[object]]) -> None:
    content = parquet(pa.table(columns))
    message = (
        r"^/d/a\.parquet holds no images: no column of bytes and no 'uri', only 'label' \(int64\), 'path' "
    )
    for look in (is_container, lambda content: scanned(content, "/d/a.parquet")):
        with pytest.raises(UsageError, match=message):
            look(content)


def test_a_column_that_is_not_there_or_holds_no_bytes_is_refused() -> None:
    content = parquet(pa.table({"image": [b"I"], "label": [1]}))
    with pytest.raises(
        UsageError, match=r"/d/a\.parquet has no column 'photo' for the images, only 'image' \(binary\)"
    ):
        scanned(content, "/d/a.parquet", column="photo")
    with pytest.raises(UsageError, match=r"column 'label' holds int64, not the bytes of images"):
        all_images(content, "/d/a.parquet", column="label")
    with pytest.raises(
        UsageError, match=r"/d/a\.parquet has no column 'lable' to keep, only 'image' \(binary\), 'label'"
    ):
        scanned(content, "/d/a.parquet", "lable")
    with pytest.raises(UsageError, match="'image' holds the images, which are not kept"):
        scanned(content, "/d/a.parquet", "image")


KEPT = {
    "label": pa.array([1, None, 3], pa.int16()),
    "caption": pa.array(["a", "ü", None]).dictionary_encode(),
    "box": pa.array([[1.5], [], None], pa.list_(pa.float32())),
    "taken": pa.array([1, None, 1_700_000_000_123_456_789], pa.timestamp("ns", "UTC")),
    "meta": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]),
}


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_columns_are_kept_with_their_own_types(rows: int) -> None:
    content = parquet(pa.table({"image": [b"0", b"1", b"2"], **KEPT}), row_group_size=rows)
    keep = ("meta", "label", "box", "caption", "taken")
    schema = kept_types(io.BytesIO(content), "a.parquet", Layout(None, keep))
    assert schema.names == list(keep)
    assert schema.field("caption").type == pa.string()
    assert schema.field("label").type == pa.int16()
    members = scanned(content, "a.parquet", *keep)
    assert [(member.name, member.offset) for member in members] == [("0", 0), ("1", 1), ("2", 2)]
    assert members[1].kept[:4] == (None, None, [], "ü")
    # Python's own are too coarse, or are pandas's, which may not be there.
    assert isinstance(members[0].kept[-1], pa.TimestampScalar)
    for values, field in zip(zip(*[member.kept for member in members], strict=True), schema, strict=True):
        assert pa.array(values, field.type).equals(KEPT[field.name].cast(field.type))


def test_a_file_without_its_footer_is_a_break() -> None:
    content = parquet(pa.table({"image": jpegs(), "label": range(6)}))
    for cut in (
        content[:-1],
        content[:-500],
        content[:2000],
        content[:6],
        content[:-8] + b"\xff\xff\xff\x7fPAR1",
    ):
        assert scanned(cut, "a.parquet", "label") == [Member("@0", 0, None, (None,))]
        (result,) = images(cut, "a.parquet", [Member("@0", 0, None, ())])
        assert_breaks_at(result, "byte 0")
        assert (
            kept_types(io.BytesIO(cut), "a.parquet", Layout(None, ("label",))).field("label").type
            == pa.null()
        )


def test_a_broken_row_group_fails_and_the_next_is_read() -> None:
    content = bytearray(parquet(pa.table({"image": jpegs()}), row_group_size=2, use_dictionary=False))
    chunk = pq.ParquetFile(io.BytesIO(bytes(content))).metadata.row_group(1).column(0)
    content[chunk.data_page_offset : chunk.data_page_offset + 40] = bytes(40)
    found = all_images(bytes(content), "a.parquet")
    assert [found[row] for row in "0145"] == [jpegs()[int(row)] for row in "0145"]
    assert_breaks_at(found["2"], "row 2")
    assert_breaks_at(found["3"], "row 2")


def test_rows_before_a_broken_page_are_read() -> None:
    distinct = [bytes([row]) * 1000 for row in range(80)]
    options = {"write_batch_size": 1, "data_page_size": 1, "write_statistics": False, "compression": "none"}
    content = bytearray(parquet(pa.table({"image": distinct}), use_dictionary=False, **options))
    place = content.index(distinct[70])
    content[place - 4 : place] = b"\xff\xff\xff\x7f"  # the length of the row's bytes
    found = all_images(bytes(content), "a.parquet")
    assert [found[str(row)] for row in range(70)] == distinct[:70]
    for row in range(70, 80):
        assert_breaks_at(found[str(row)], "row 70")
    (seventh, ninth) = read(io.BytesIO(content), "a.parquet", Layout(), [71, 79])
    assert isinstance(seventh, BadImage)
    assert "broken at row 71" in seventh.message
    assert str(ninth) == str(seventh)


def test_rows_that_a_row_group_promises_and_has_not_are_failures() -> None:
    distinct = [bytes([row]) * 50 for row in range(61)]
    content = bytearray(parquet(pa.table({"image": distinct}), use_dictionary=False, store_schema=False))
    # Its number of rows is the last 61 of the footer, which spells it as 122.
    content[content.rindex(122, 0, len(content) - 8)] = 126
    assert pq.ParquetFile(io.BytesIO(bytes(content))).metadata.row_group(0).num_rows == 63
    found = all_images(bytes(content), "a.parquet")
    assert list(found.values())[:61] == distinct
    assert list(found) == [str(row) for row in range(63)]
    for row in ("61", "62"):
        assert_breaks_at(found[row], "row 61")


def test_a_kept_column_that_cannot_be_read_is_refused() -> None:
    content = bytearray(parquet(pa.table({"image": jpegs(), "label": range(6)}), row_group_size=2))
    chunk = pq.ParquetFile(io.BytesIO(bytes(content))).metadata.row_group(1).column(1)
    content[chunk.dictionary_page_offset : chunk.dictionary_page_offset + 20] = bytes(20)
    with pytest.raises(
        UsageError, match=r"^/d/a\.parquet: 'label' cannot be read from row 2 on: .*; do not keep it$"
    ):
        scanned(bytes(content), "/d/a.parquet", "label")
    assert list(all_images(bytes(content), "a.parquet").values()) == jpegs()


def test_a_row_that_is_gone_is_told() -> None:
    content = parquet(pa.table({"image": [b"0"]}))
    (here, gone) = read(io.BytesIO(content), "a.parquet", Layout(), [0, 1])
    assert here == b"0"
    assert isinstance(gone, BadImage)
    assert gone.error == "changed"


def test_only_the_columns_wanted_are_read() -> None:
    class Noting(io.BytesIO):
        amount = 0

        def read(self, size: int | None = -1) -> bytes:
            content = super().read(size)
            self.amount += len(content)
            return content

    other = [bytes([number]) * 1_000_000 for number in range(6)]
    table = pa.table({"image": jpegs(), "other": pa.array(other).cast(pa.large_binary()), "label": range(6)})
    content = parquet(table, row_group_size=2, compression="none")
    for keep in ((), ("label",)):
        file = Noting(content)
        assert len(list(scan(file, "a.parquet", Layout(None, keep)))) == 6
        assert file.amount < 100_000
    file = Noting(content)
    assert list(read(file, "a.parquet", Layout(), [2])) == jpegs()[2:3]
    assert file.amount < 100_000


MEASURE = """
import sys
import pyarrow as pa
from transforms.containers import Layout, read
with open(sys.argv[1], "rb") as file:
    total = sum(len(image) for image in read(file, sys.argv[1], Layout(), range(50)))
print(total, pa.default_memory_pool().max_memory())
"""


def test_a_row_group_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    filler = bytes(3_000_000)
    rows = [bytes([row]) + filler for row in range(50)]
    pq.write_table(
        pa.table({"image": rows}), path, write_batch_size=1, compression="none", use_dictionary=False
    )
    assert pq.ParquetFile(path).metadata.num_row_groups == 1
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], check=True, capture_output=True, text=True
    )
    total, peak = map(int, measured.stdout.split())
    assert total == 50 * len(rows[0])
    # 43 MB, and 199 MB with all rows in one batch.
    assert peak < 80_000_000

    class Noting(io.FileIO):
        largest = 0

        def read(self, size: int | None = -1) -> bytes:
            content = super().read(size)
            self.largest = max(self.largest, len(content))
            return content

    with Noting(path) as file:
        assert list(read(file, str(path), Layout(), [0, 49])) == [rows[0], rows[49]]
        # A page is read at once, a column is not.
        assert file.largest < 2 * len(filler)


def test_few_rows_are_unfolded_at_a_time() -> None:
    """One image that all rows share takes as little room in the file as if there were one row."""
    content = parquet(pa.table({"image": [bytes(300_000)] * 500}))
    assert len(content) < 1_000_000
    before = pa.total_allocated_bytes()
    drawn = read(io.BytesIO(content), "a.parquet", Layout(), range(500))
    assert len(next(drawn)) == 300_000  # type: ignore[arg-type]
    assert pa.total_allocated_bytes() - before < 60_000_000

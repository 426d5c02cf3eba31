"""TFRecord files: framing, checksums, tf.Examples and the values kept of them."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import tensorflow as tf

from tests.test_containers import Pipe, all_images, assert_breaks_at, framed, images, jpegs, scanned
from transforms import containers, tfrecords
from transforms.containers import Layout, Member, kept_types, read, scan
from transforms.errors import BadImage, UsageError

FRAME = 16  # bytes besides the record


def feature(values: list[bytes] | list[int] | list[float] | None) -> tf.train.Feature:
    if values is None:
        return tf.train.Feature()
    if not values or isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def example(**values: object) -> bytes:
    """A serialized tf.Example; `image` is spelt `image/encoded`."""
    names = {"image": "image/encoded"}
    features = {names.get(name, name): feature(value) for name, value in values.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


GOOD = [
    example(image=[jpeg], label=[number], name=[b"n%d" % number], box=[0.5, 1.5])
    for number, jpeg in enumerate(jpegs())
]


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_what_tensorflow_writes_is_read(tmp_path: Path, compression: str) -> None:
    path = tmp_path / ("a.tfrecord" + (".gz" if compression else ""))
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in GOOD:
            writer.write(record)
    with open(path, "rb") as file:
        members = list(scan(file, str(path), Layout()))
    starts = [sum(len(record) + FRAME for record in GOOD[:number]) for number in range(6)]
    assert members == [
        Member(str(number), start, len(record), ())
        for number, (start, record) in enumerate(zip(starts, GOOD, strict=True))
    ]
    for wanted in (members, members[1::2], members[5:]):
        with open(path, "rb") as file:
            found = list(read(file, str(path), Layout(), [member.offset for member in wanted]))
        assert found == [jpegs()[int(member.name)] for member in wanted]
    assert list(all_images(framed(GOOD), "a.tfrecord").values()) == jpegs()


def test_a_wrong_data_crc_is_that_record_s_failure() -> None:
    content = bytearray(framed(GOOD))
    content[len(GOOD[0]) + FRAME + 100] ^= 1
    assert all_images(bytes(content), "a.tfrecord") == {
        **{str(number): jpeg for number, jpeg in enumerate(jpegs())},
        "1": ("corrupt", "the crc of the record is wrong"),
    }
    members = scanned(bytes(content), "a.tfrecord", "label")
    assert [member.kept for member in members] == [([0],), (None,), ([2],), ([3],), ([4],), ([5],)]


def test_a_wrong_length_crc_is_a_break() -> None:
    content = bytearray(framed(GOOD))
    start = 2 * FRAME + len(GOOD[0]) + len(GOOD[1])
    content[start + 9] ^= 1
    for keep in ((), ("label",)):
        members = scanned(bytes(content), "a.tfrecord", *keep)
        assert [member.name for member in members] == ["0", "1", f"@{start}"]
        assert members[-1] == Member(f"@{start}", start, None, (None,) * len(keep))
    *good, last = images(bytes(content), "a.tfrecord", members)
    assert good == jpegs()[:2]
    assert_breaks_at(last, f"byte {start}")
    assert "the crc of a record's length" in last[1]


@pytest.mark.parametrize("pipe", [False, True])
@pytest.mark.parametrize("keep", [(), ("label",)])
def test_wherever_it_is_cut_what_lies_before_comes_out(pipe: bool, keep: tuple[str, ...]) -> None:
    records = [example(image=[b"i" * 40], label=[number]) for number in range(3)]
    content = framed(records)
    whole = scanned(content, "a.tfrecord", *keep)
    ends = [member.offset + len(record) + FRAME for member, record in zip(whole, records, strict=True)]
    for size in range(0, len(content) + 1, 5):
        cut = content[:size]
        complete = sum(end <= size for end in ends)
        members = list(scan(Pipe(cut) if pipe else io.BytesIO(cut), "a.tfrecord", Layout(None, keep)))
        assert members[:complete] == whole[:complete]
        if size in (0, *ends):
            assert len(members) == complete
            continue
        start = [0, *ends][complete]
        assert members[complete:] == [Member(f"@{start}", start, None, (None,) * len(keep))]
        (last,) = read(Pipe(cut) if pipe else io.BytesIO(cut), "a.tfrecord", Layout(), [start])
        assert isinstance(last, BadImage)
        assert_breaks_at((last.error, last.message), f"byte {start}")


def test_a_length_beyond_the_end_is_not_asked_for() -> None:
    absurd = framed_header(2**62)
    for file in (io.BytesIO(framed(GOOD[:1]) + absurd), Pipe(framed(GOOD[:1]) + absurd)):
        assert [member.name for member in scan(file, "a.tfrecord", Layout())] == [
            "0",
            f"@{len(GOOD[0]) + FRAME}",
        ]


def framed_header(length: int) -> bytes:
    """A right header of a record of any length."""
    sizes = framed([length.to_bytes(8, "little")])
    return length.to_bytes(8, "little") + sizes[-4:]


def test_a_record_over_the_limit_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(GOOD[1])
    monkeypatch.setattr(containers, "MAX_BYTES", size - 1)
    small = [example(image=[b"small"], label=[1])]
    content = framed([*small, GOOD[1], *small])
    assert all_images(content, "a.tfrecord") == {
        "0": b"small",
        "1": ("too_many_bytes", f"{size:,} bytes; the limit is {size - 1:,}"),
        "2": b"small",
    }
    assert [member.kept for member in scanned(content, "a.tfrecord", "label")] == [([1],), (None,), ([1],)]


BAD = {
    "not an Example": (b"\xff\xffhello", "no_image", "the record is not a tf.Example"),
    "nothing": (b"", "no_image", "the record has no feature 'image/encoded', only none"),
    "other features": (
        example(picture=[b"x"], label=[1]),
        "no_image",
        "the record has no feature 'image/encoded', only 'label', 'picture'",
    ),
    "no kind": (example(image=None), "no_image", "the record has no feature 'image/encoded', only none"),
    "no value": (example(image=[]), "no_image", "feature 'image/encoded' is empty"),
    "no bytes": (example(image=[b""]), "no_image", "feature 'image/encoded' is empty"),
    "numbers": (example(image=[1, 2]), "no_image", "feature 'image/encoded' holds int64, not bytes"),
    "two": (
        example(image=[b"a", b"b"]),
        "many_images",
        "feature 'image/encoded' holds 2 values; one is one image",
    ),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("alone", [False, True])
def test_a_record_without_an_image_is_its_own_failure(bad: str, alone: bool) -> None:
    record, error, message = BAD[bad]
    records = [record] if alone else [GOOD[0], record, GOOD[2]]
    found = all_images(framed(records), "a.tfrecord")
    expected = (error, message)
    assert found == ({"0": expected} if alone else {"0": jpegs()[0], "1": expected, "2": jpegs()[2]})
    scanned(framed(records), "a.tfrecord", "label")


def test_many_features_are_not_all_named() -> None:
    record = example(**{f"f{number}": [1] for number in range(50)})
    ((_, message),) = all_images(framed([record]), "a.tfrecord").values()
    assert message.endswith(", ...")
    assert len(message) < 150


def test_a_feature_that_differs_in_type_does_not_matter_unless_it_is_kept() -> None:
    records = [GOOD[0], example(image=[jpegs()[1]], label=[b"one"]), GOOD[2]]
    assert list(all_images(framed(records), "a.tfrecord").values()) == jpegs()[:3]
    with pytest.raises(
        UsageError,
        match=r"^/d/a\.tfrecord: feature 'label' holds binary in record 1, int64 before; mend",
    ):
        scanned(framed(records), "/d/a.tfrecord", "label")
    assert [member.kept for member in scanned(framed(records), "a.tfrecord", "name")] == [
        ([b"n0"],),
        (None,),
        ([b"n2"],),
    ]


def test_a_type_is_remembered_from_batch_to_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecords, "BATCH_RECORDS", 2)
    records = [*GOOD[:5], example(image=[b"x"], label=[1.5])]
    with pytest.raises(UsageError, match="holds float in record 5, int64 before"):
        scanned(framed(records), "a.tfrecord", "label")


def test_another_feature_may_hold_the_images() -> None:
    content = framed([example(photo=[jpeg], label=[1]) for jpeg in jpegs()])
    assert list(all_images(content, "a.tfrecord", column="photo").values()) == jpegs()


def test_features_are_kept_in_the_order_asked_for() -> None:
    records = [*GOOD, example(image=[b"x"], box=[2.0], tags=[b"a", b"b"]), example(image=[b"x"], box=[])]
    keep = ("box", "label", "tags", "name", "nowhere")
    members = scanned(framed(records), "a.tfrecord", *keep)
    assert [member.kept for member in members[-3:]] == [
        ([0.5, 1.5], [5], None, [b"n5"], None),
        ([2.0], None, [b"a", b"b"], None, None),
        (None, None, None, None, None),
    ]
    schema = kept_types(io.BytesIO(framed(records)), "a.tfrecord", Layout(None, keep))
    float_type, bytes_type = pa.list_(pa.float32()), pa.list_(pa.binary())
    assert schema == pa.schema(
        zip(keep, [float_type, pa.list_(pa.int64()), bytes_type, bytes_type, pa.null()], strict=True)
    )
    columns = zip(*[member.kept for member in members], strict=True)
    for values, kept in zip(columns, schema, strict=True):
        assert pa.array(values, kept.type).to_pylist() == list(values)


def test_types_are_known_as_soon_as_every_feature_was_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecords, "BATCH_RECORDS", 2)
    records = [example(image=[b"x"]), *GOOD]
    broken = framed(records)[:-10] + b"0123456789"
    file = io.BytesIO(broken)
    schema = kept_types(file, "a.tfrecord", Layout(None, ("label",)))
    assert schema.field("label").type == pa.list_(pa.int64())
    assert file.tell() < len(broken) / 2


def test_the_images_themselves_are_not_kept() -> None:
    with pytest.raises(UsageError, match="'image/encoded' holds the images, which are not kept"):
        scanned(framed(GOOD), "a.tfrecord", "label", "image/encoded")


@pytest.mark.parametrize(("size", "count"), [(10, 64), (150_000, 7), (3_000_000, 1)])
def test_records_are_decoded_in_batches_of_bounded_size(size: int, count: int) -> None:
    record = example(image=[bytes(size)])
    drawn = 0

    def records():
        nonlocal drawn
        for offset in range(200):
            drawn += 1
            yield tfrecords._Record(offset, len(record), record)

    assert len(next(tfrecords._batches(records()))) == drawn == count


def test_records_are_read_when_they_are_drawn() -> None:
    content = framed([example(image=[bytes(600_000)])] * 20)
    file = io.BytesIO(content)
    members = scanned(content, "a.tfrecord")
    images_drawn = read(file, "a.tfrecord", Layout(), [member.offset for member in members])
    next(images_drawn)
    assert file.tell() < 1_300_000


def test_a_record_that_is_gone_is_told() -> None:
    content = framed(GOOD)
    (end,) = read(io.BytesIO(content), "a.tfrecord", Layout(), [len(content)])
    assert isinstance(end, BadImage)
    assert end.error == "changed"


@pytest.mark.parametrize("keep", [(), ("label",)])
def test_without_tfx_bsl_the_listing_says_so(monkeypatch: pytest.MonkeyPatch, keep: tuple[str, ...]) -> None:
    monkeypatch.setitem(sys.modules, "tfx_bsl.coders.example_coder", None)
    with pytest.raises(UsageError, match=r"TFRecords are read by tfx-bsl, .* use Python 3\.11 or later"):
        scanned(framed(GOOD), "a.tfrecord", *keep)

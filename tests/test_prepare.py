"""Units to batches: one outcome an image, order, laziness, one decode for all variants."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transforms import attempts, images, outage, prepare, snapshots
from transforms import resize as resize_module
from transforms.commit import TargetWriter
from transforms.errors import BadImage, RunError
from transforms.fetching import Fetched, fetch
from transforms.fingerprints import VariantRun
from transforms.infer import score
from transforms.prepare import prepare_unit
from transforms.prepared import prepare_images
from transforms.records import Failure, ImageRef, PixelBatch, Unit
from transforms.resize import resize
from transforms.runtime import load_models
from transforms.snapshots import UnitSize
from transforms.storage import reference


@pytest.fixture
def unit_of(tmp_path: Path):
    """Makes a unit of files that are really indexed."""

    def make(paths: list[Path], output: Path = tmp_path / "out") -> Unit:
        refs = [reference(str(path)) for path in paths]
        work, _ = snapshots.update(str(output), refs, UnitSize(len(refs)))
        return next(work.units())

    return make


@pytest.fixture
def other_run(tiny_run: VariantRun) -> VariantRun:
    """A second variant: another size and another policy."""
    return replace(
        tiny_run, variant=replace(tiny_run.variant, name="acme/other/1", size=24, resize="squash_bilinear")
    )


def prepared(unit: Unit, runs: tuple[VariantRun, ...], batch_size: int) -> Iterator[PixelBatch]:
    """The batches of a unit into an output that holds nothing of it."""
    return prepare_unit(unit, str(Path(unit.index_part).parents[2] / "empty"), runs, "run", batch_size)


def decoded(path: str) -> images.DecodedImage:
    return images.decode(Path(path).read_bytes())


def outcomes(batches: list[PixelBatch]) -> list[str]:
    return [each.ref.uri for batch in batches for each in (*batch.images, *batch.failures)]


def test_batches_are_full_numbered_and_end_once(photographs: Path, unit_of, tiny_run: VariantRun) -> None:
    paths = sorted(photographs.glob("*.jpg"))[:10]
    batches = list(prepared(unit_of(paths), (tiny_run,), 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert [batch.number for batch in batches] == [0, 1, 2]
    assert [batch.last for batch in batches] == [False, False, True]
    assert outcomes(batches) == [str(path) for path in paths]
    assert {batch.pixels.shape[1:] for batch in batches} == {(32, 32, 3)}


def test_a_batch_holds_what_decode_and_resize_give(photographs: Path, unit_of, tiny_run, other_run) -> None:
    paths = sorted(photographs.glob("*.jpg"))[:5]
    runs = (tiny_run, other_run)
    batches = list(prepared(unit_of(paths), runs, 5))
    assert [batch.target.variant for batch in batches] == [run.variant.name for run in runs]
    for run, batch in zip(runs, batches, strict=True):
        for path, info, pixels in zip(paths, batch.images, batch.pixels, strict=True):
            image = decoded(str(path))
            np.testing.assert_array_equal(pixels, resize(image, run.variant.size, run.variant.resize))
            assert (info.width, info.height) == (120, 90)


def test_one_decode_serves_all_variants(
    photographs: Path, unit_of, tiny_run, other_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(photographs.glob("*.jpg"))[:6]
    decodes = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda data, lazily: decodes.append(data) or decode(data, lazily))
    list(prepared(unit_of(paths), (tiny_run, other_run), 4))
    assert len(decodes) == len(paths)


def test_what_is_done_is_passed_over(tmp_path: Path, photographs: Path, unit_of, tiny_run, other_run) -> None:
    unit = unit_of(sorted(photographs.glob("*.jpg"))[:3])
    writer = TargetWriter(str(tmp_path), tiny_run, tiny_run.target(unit), "run")
    for batch in prepare_unit(unit, str(tmp_path), (tiny_run,), "run", 4):
        writer.add(score(batch, load_models((tiny_run,))))
    receipt = writer.commit()
    batches = list(prepare_unit(unit, str(tmp_path), (tiny_run, other_run), "run", 4))
    assert [(batch.target.variant, batch.done and batch.done.receipt) for batch in batches] == [
        (tiny_run.variant.name, receipt),
        (other_run.variant.name, None),
    ]
    assert [len(batch) for batch in batches] == [0, 3]


@given(
    pattern=st.lists(st.sampled_from(["good", "text", "empty", "cut", "gone"]), max_size=14),
    size=st.integers(1, 5),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_image_has_one_outcome(
    tmp_path_factory: pytest.TempPathFactory,
    photographs: Path,
    tiny_run: VariantRun,
    pattern: list[str],
    size: int,
) -> None:
    folder = tmp_path_factory.mktemp("pattern")
    good = (photographs / "photo-00000.jpg").read_bytes()
    content = {
        "good": good,
        "gone": good,
        "text": b"milk, bread",
        "empty": b"",
        "cut": good[: len(good) // 3],
    }
    paths = []
    for number, kind in enumerate(pattern):
        paths.append(folder / f"{number:02d}.jpg")
        paths[-1].write_bytes(content[kind])
    refs = [reference(str(path)) for path in paths]
    work, _ = snapshots.update(str(folder / "out"), refs, UnitSize(max(1, len(refs))))
    for path, kind in zip(paths, pattern, strict=True):
        if kind == "gone":
            path.unlink()
    for unit in work.units():
        batches = list(prepared(unit, (tiny_run,), size))
        done = [info.ref.uri for batch in batches for info in batch.images]
        failed = [(failure.ref.uri, failure.error) for batch in batches for failure in batch.failures]
        kinds = {"text": "not_an_image", "empty": "empty", "cut": "truncated", "gone": "not_found"}
        assert done == [str(path) for path, kind in zip(paths, pattern, strict=True) if kind == "good"]
        assert failed == [
            (str(path), kinds[kind]) for path, kind in zip(paths, pattern, strict=True) if kind != "good"
        ]
        assert [batch.last for batch in batches] == [False] * (len(batches) - 1) + [True]
        assert all(len(batch) == size for batch in batches[:-1])


def test_no_more_than_a_batch_is_prepared_ahead(
    photographs: Path, unit_of, tiny_run: VariantRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = itertools.count()
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda data, lazily: (next(begun), decode(data, lazily))[1])
    batches = prepared(unit_of(sorted(photographs.glob("*.jpg"))), (tiny_run,), 4)
    next(batches)
    # The batch itself, one image that told that it was not the last, and what is ahead of that.
    assert next(begun) <= 4 + 1 + 4


def test_a_batch_of_failures_alone_still_ends_the_unit(tmp_path: Path, unit_of, tiny_run: VariantRun) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (batch,) = prepared(unit_of([tmp_path / "a.jpg"]), (tiny_run,), 4)
    assert (len(batch), batch.last, [failure.error for failure in batch.failures]) == (0, True, ["empty"])


@pytest.mark.parametrize(
    ("error", "how_many", "message"),
    [
        ("permission_denied", 20, "no permission to read 20 of the 20 images of unit 0"),
        ("unreadable", 5, "the store failed on 5 of the 20 images of unit 0"),
    ],
)
def test_an_outage_is_no_failure_of_the_images(
    photographs: Path,
    unit_of,
    tiny_run,
    monkeypatch: pytest.MonkeyPatch,
    error: str,
    how_many: int,
    message: str,
) -> None:
    unit = unit_of(sorted(photographs.glob("*.jpg"))[:20])
    refuse(monkeypatch, error, how_many)
    with pytest.raises(RunError, match=message):
        list(prepared(unit, (tiny_run,), 2))


@pytest.mark.parametrize(
    ("images", "error", "how_many"),
    [(20, "permission_denied", 19), (20, "unreadable", 4), (1, "permission_denied", 1), (1, "unreadable", 1)],
)
def test_some_images_that_cannot_be_read_are_failures(
    photographs: Path,
    unit_of,
    tiny_run,
    monkeypatch: pytest.MonkeyPatch,
    images: int,
    error: str,
    how_many: int,
) -> None:
    unit = unit_of(sorted(photographs.glob("*.jpg"))[:images])
    refuse(monkeypatch, error, how_many)
    batches = list(prepared(unit, (tiny_run,), 3))
    failures = [failure for batch in batches for failure in batch.failures]
    assert [(failure.error, failure.attempts) for failure in failures] == [(error, 2)] * how_many


def refuse(monkeypatch: pytest.MonkeyPatch, error: str, how_many: int) -> None:
    """Let the store refuse the first images; tests/test_fetching.py shows that a file without permission does."""

    def fetch_many(refs: list[ImageRef], max_bytes: int) -> Iterator[Fetched]:
        for number, ref in enumerate(refs):
            refusal = Fetched(ref, BadImage(error, "not now"), 0.0, attempts=2)
            yield refusal if number < how_many else fetch(ref, max_bytes)

    for module in (prepare, outage):
        monkeypatch.setattr(module, "fetch_many", fetch_many)


def test_a_failure_says_at_which_step(tmp_path: Path, tiny_run: VariantRun) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"milk, bread")
    ref = reference(str(path))
    prepared = prepare_images([fetch(ref, 1000), fetch(ref, 5)], (tiny_run,))
    at_decode, at_fetch = (image.outcome for image in prepared)
    assert isinstance(at_decode, Failure)
    assert isinstance(at_fetch, Failure)
    assert (at_decode.step, at_decode.error) == ("decode", "not_an_image")
    assert (at_fetch.step, at_fetch.error) == ("fetch", "too_many_bytes")


def test_seconds_are_shared_among_the_variants(
    photographs: Path, unit_of, tiny_run, other_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch_many(refs: list[ImageRef], max_bytes: int) -> Iterator[Fetched]:
        return (replace(fetch(ref, max_bytes), seconds=3.0) for ref in refs)

    monkeypatch.setattr(prepare, "fetch_many", fetch_many)
    paths = sorted(photographs.glob("*.jpg"))[:2]
    before = time.time()
    first, second = prepared(unit_of(paths), (tiny_run, other_run), 4)
    assert first.seconds == second.seconds
    assert first.seconds.fetch == 3.0
    assert first.seconds.decode > 0
    assert before <= first.started <= time.time()


def test_jpegs_are_decoded_together(
    photographs: Path, unit_of, tiny_run, other_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, together = [], []
    decode, call = images._decode_with_tensorflow, resize_module._function
    monkeypatch.setattr(images, "_decode_with_tensorflow", lambda *a: whole.append(a) or decode(*a))
    monkeypatch.setattr(resize_module, "_function", lambda n, inputs: together.append(n) or call(n, inputs))
    unit = unit_of(sorted(photographs.glob("*.jpg"))[:20])
    list(prepared(unit, (tiny_run, other_run), 16))
    assert (whole, sorted(together)) == ([], [4, 8, 8])


def test_a_jpeg_without_its_end_is_decoded_whole_and_so_found_out(
    photographs: Path, unit_of, tiny_run: VariantRun, tmp_path: Path
) -> None:
    content = (photographs / "photo-00000.jpg").read_bytes()
    # All but the last rows, which no crop reaches.
    (tmp_path / "cut.jpg").write_bytes(content[:-20])
    (batch,) = prepared(unit_of([tmp_path / "cut.jpg"]), (tiny_run,), 4)
    assert [failure.error for failure in batch.failures] == ["truncated"]


def test_fast_batches_are_bytes(photographs: Path, unit_of, tiny_run: VariantRun) -> None:
    paths = sorted(photographs.glob("*.jpg"))[:3]
    (batch,) = prepared(unit_of(paths), (replace(tiny_run, precision="fast"),), 4)
    assert (batch.pixels.dtype, batch.pixels.shape) == (np.uint8, (3, 32, 32, 3))
    for path, pixels in zip(paths, batch.pixels, strict=True):
        exact = resize(decoded(str(path)), 32, tiny_run.variant.resize)
        assert np.abs(pixels / 255.0 - exact).max() < 0.003


def test_the_wait_for_images_is_counted(
    photographs: Path, unit_of, tiny_run: VariantRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda *a, **k: (time.sleep(0.05), decode(*a, **k))[1])
    batches = list(prepared(unit_of(sorted(photographs.glob("*.jpg"))[:4]), (tiny_run,), 2))
    assert sum(batch.seconds.wait for batch in batches) > 0.05


def test_an_attempt_has_a_marker_from_before_its_first_batch_to_after_its_last(
    tmp_path: Path, photographs: Path, unit_of, tiny_run: VariantRun
) -> None:
    unit, output = unit_of(sorted(photographs.glob("*.jpg"))[:3]), str(tmp_path / "empty")
    whole, broken_off = (prepare_unit(unit, output, (tiny_run,), "run", 2) for _ in range(2))
    next(whole)
    assert attempts.count(output, unit.number) == 1
    next(broken_off)
    assert attempts.count(output, unit.number) == 2
    assert next(whole).last
    assert attempts.count(output, unit.number) == 2
    assert list(whole) == []
    broken_off.close()
    assert attempts.count(output, unit.number) == 0


def test_the_third_attempt_is_one_image_at_a_time_and_gives_the_same_scores(
    tmp_path: Path, photographs: Path, unit_of, tiny_run: VariantRun, other_run: VariantRun
) -> None:
    (tmp_path / "text.jpg").write_text("milk, bread")
    unit = unit_of([*sorted(photographs.glob("*.jpg"))[:5], tmp_path / "text.jpg"])
    runs = (tiny_run, other_run)
    expected = [score(batch, load_models(runs)) for batch in prepared(unit, runs, 32)]
    for _ in range(prepare.ATTEMPTS_TOGETHER):
        attempts.begin(str(tmp_path / "empty"), "dead", unit.number)
    batches = list(prepare_unit(unit, str(tmp_path / "empty"), runs, "run", 2))
    assert [len(batch) for batch in batches] == [0, 0]
    for batch, scores in zip(batches, expected, strict=True):
        assert batch.done.target == batch.target == scores.target
        assert (batch.done.images, batch.done.failures) == (scores.images, scores.failures)
        assert (batch.done.number, batch.done.last) == (0, True)
        np.testing.assert_allclose(batch.done.features, scores.features, rtol=1e-4)
        np.testing.assert_allclose(batch.done.logits, scores.logits, rtol=1e-4, atol=1e-6)

"""What is refused or cannot be meant ends in one line, and nothing is taken for a failure of an image."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipelines import cli
from tests import cloud, dataset
from tests.cloud import (
    BAD,
    IN,
    OUT,
    READING_AN_OBJECT,
    assert_complete,
    assert_one_line,
    few_requests_at_once,
    go_on,
)
from tests.gcs_server import GcsServer
from transforms import attempts


class TestOnAServerThatRefuses:
    # 30 are a whole unit and a small one, which are done at the same time.
    @pytest.mark.parametrize(("count", "to_bucket"), [(30, False), (70, False), (70, True)])
    def test_reads_from_the_beginning(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, caplog, count: int, to_bucket: bool
    ) -> None:
        fill(count)
        output = OUT if to_bucket else tmp_path / "out"
        gcs.set(deny=READING_AN_OBJECT)
        where = f"{OUT}.*: no permission; check" if to_bucket else "no permission to read 20 of the 20 images"
        assert_one_line(run(output=output), caplog, 1, where)
        assert [*tmp_path.glob("out/variant=*/*"), *cloud.rows_files(gcs)] == []
        go_on(gcs)
        assert run(output=output)[0] == 0
        assert_complete(pixelbeam, output)

    @pytest.mark.parametrize("to_bucket", [False, True])
    def test_reads_from_some_moment_on(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, caplog, monkeypatch, to_bucket: bool
    ) -> None:
        fill(70)
        output = OUT if to_bucket else tmp_path / "out"
        few_requests_at_once(gcs, monkeypatch)
        gcs.reset_counts()
        with cloud.when(lambda: cloud.downloaded(gcs) >= 30, lambda: gcs.set(deny=READING_AN_OBJECT)):
            result = run(output=output)
        assert_one_line(result, caplog, 1, ".*no permission")
        home = cloud.bring_home(gcs, tmp_path / "out")
        assert len(list(home.glob("variant=*/*"))) < 4
        assert [cloud.reasons(directory) for directory in dataset.variants(home)] in ([], [{}])
        go_on(gcs)
        assert run(output=output)[0] == 0
        assert_complete(pixelbeam, output)

    def test_all_reads_but_those_of_bad_images(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, caplog, monkeypatch
    ) -> None:
        fill(70)
        gcs.fill("in", "photos/0000-{:02d}.jpg", 30, [BAD["text.jpg"]])
        options = {"output": tmp_path / "out"}
        few_requests_at_once(gcs, monkeypatch)
        gcs.reset_counts()
        with cloud.when(lambda: cloud.downloaded(gcs) >= 12, lambda: gcs.set(deny=READING_AN_OBJECT)):
            result = run("--images-per-unit", 100, "--max-failure-ratio", 1, **options)
        assert_one_line(result, caplog, 1, r"no permission to read \d+ of the 100 images of unit 0")
        assert not dataset.variants(tmp_path / "out")
        go_on(gcs)
        assert run("--max-failure-ratio", 1, **options)[0] == 0
        (directory,) = dataset.variants(tmp_path / "out")
        assert set(cloud.reasons(directory).values()) == {("decode", "not_an_image")}
        assert_complete(pixelbeam, tmp_path / "out")

    def test_some_reads_in_between(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, caplog, monkeypatch
    ) -> None:
        fill(100)
        options = {"output": tmp_path / "out"}
        few_requests_at_once(gcs, monkeypatch)
        gcs.reset_counts()
        with (
            cloud.when(lambda: cloud.downloaded(gcs) >= 30, lambda: gcs.set(deny=READING_AN_OBJECT)),
            cloud.when(lambda: cloud.downloaded(gcs) >= 60, lambda: gcs.set(deny=())),
        ):
            result = run("--images-per-unit", 100, **options)
        assert_one_line(result, caplog, 1, r"no permission to read \d+ of the 100 images of unit 0")
        go_on(gcs)
        assert run(**options)[0] == 0
        (directory,) = dataset.variants(tmp_path / "out")
        assert cloud.reasons(directory) == {}
        assert_complete(pixelbeam, tmp_path / "out")

    @pytest.mark.full
    def test_reads_of_images_that_are_scored_one_at_a_time(
        self, gcs, run, fill, pixelbeam, tmp_path: Path, caplog
    ) -> None:
        fill(20)
        options = {"output": tmp_path / "out"}
        pixelbeam("index", "--input", IN, "--output", tmp_path / "out")
        for _ in range(2):
            attempts.begin(str(tmp_path / "out"), "a run that died", 0)
        gcs.set(deny=READING_AN_OBJECT)
        assert_one_line(run(**options), caplog, 1, "no permission to read 20 of the 20 images of unit 0")
        go_on(gcs)
        assert run(**options)[0] == 0
        (footer,) = dataset.footers(cloud.only_variant(tmp_path / "out"))
        assert (footer.rows, footer.model) == (20, {"quarantine": "one image at a time"})


@dataclass(frozen=True)
class Bad:
    """What cannot be done: the exit code, the line, what the command says and what the buckets are like."""

    code: int
    line: str
    source: str = IN
    output: str | None = OUT
    objects: Mapping[str, bytes] = field(default_factory=dict)
    deny: tuple[str, ...] = ()


NO_PERMISSION = "no permission; check the credentials and what they may do with the bucket$"
HERE = None
BAD_INPUT = {
    "no input bucket": Bad(2, "there is no gs://nowhere/a/; check --input$", source="gs://nowhere/a"),
    "no output bucket": Bad(
        1,
        "cannot write gs://nowhere/a: there is no such bucket; make it, or name another$",
        output="gs://nowhere/a",
    ),
    "no bucket": Bad(2, "--output gs:// names no bucket; give one", output="gs://"),
    "the output is an object": Bad(
        2, f"--output {OUT} is a file; give a directory$", objects={"gs://out/data": b"x"}
    ),
    "not to be listed": Bad(1, f"{IN}/: {NO_PERMISSION}", output=HERE, deny=("list",)),
    "not to be written": Bad(1, f"{OUT}: {NO_PERMISSION}", deny=("upload", "upload_start")),
    "not to be read": Bad(1, f"{OUT}: {NO_PERMISSION}", deny=READING_AN_OBJECT),
    "nothing is permitted": Bad(1, f"{OUT}: {NO_PERMISSION}", deny=("all",)),
    "an empty bucket": Bad(2, "no images in 'gs://in': there is nothing$", source="gs://in"),
    "an empty folder": Bad(
        2, "no images in 'gs://in/a': there is nothing$", source="gs://in/a", objects={"gs://in/a/": b""}
    ),
    "other files": Bad(
        2,
        "no images in 'gs://in/a': no file's name is an image's \\(ignored: 1\\); give a glob",
        source="gs://in/a",
        objects={"gs://in/a/b.doc": b"x"},
    ),
    "a glob of nothing": Bad(
        2, r"no images in 'gs://in/\*.png': the glob matches no file$", source="gs://in/*.png"
    ),
    "a manifest without uris": Bad(
        2,
        "manifest gs://in/a.csv has no column 'uri', only name, size; name it so$",
        source="gs://in/a.csv",
        objects={"gs://in/a.csv": b"name,size\na.jpg,7\n"},
    ),
    "an empty manifest": Bad(
        2,
        "no images in 'gs://in/a.txt': the manifest is empty$",
        source="gs://in/a.txt",
        objects={"gs://in/a.txt": b"\n\n"},
    ),
    "a manifest not to be read": Bad(
        1,
        f"gs://in/a.txt: {NO_PERMISSION}",
        source="gs://in/a.txt",
        output=HERE,
        objects={"gs://in/a.txt": b"b.jpg\n"},
        deny=READING_AN_OBJECT,
    ),
}
OF_THE_OUTPUT = (
    *("no output bucket", "no bucket", "the output is an object"),
    *("not to be written", "not to be read", "nothing is permitted"),
)


def arrange(gcs: GcsServer, case: Bad) -> None:
    for url, content in case.objects.items():
        bucket, _, name = url.removeprefix("gs://").partition("/")
        gcs.put(bucket, name, content)
    gcs.set(deny=case.deny)


class TestBadInput:
    @pytest.mark.parametrize("name", BAD_INPUT)
    def test_is_one_line(self, gcs, run, tmp_path: Path, caplog, name: str) -> None:
        case = BAD_INPUT[name]
        arrange(gcs, case)
        result = run(source=case.source, output=case.output or tmp_path / "out")
        assert_one_line(result, caplog, case.code, case.line)
        assert cloud.names(gcs, "data/") == []

    @pytest.mark.parametrize("name", OF_THE_OUTPUT)
    def test_an_output_is_told_before_anything_is_listed(
        self, gcs, run, caplog, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        case = BAD_INPUT[name]
        arrange(gcs, case)
        gcs.reset_counts()
        monkeypatch.delattr(cli, "start_tensorflow")
        assert_one_line(run(output=case.output), caplog, case.code, case.line)
        assert not {"list", "download", "upload"} & set(gcs.counts.requests)

    @pytest.mark.full
    @pytest.mark.parametrize("name", BAD_INPUT)
    def test_is_one_line_on_a_terminal_too(self, gcs, command, tmp_path: Path, name: str) -> None:
        case = BAD_INPUT[name]
        arrange(gcs, case)
        words = command(source=case.source, output=case.output or tmp_path / "out")
        code, output, errors = cloud.end(cloud.begin(words, tmp_path / "scratch"))
        assert (code, output, errors.count("\n")) == (case.code, "", 1)
        assert re.match(f"pixelbeam: {case.line}", errors.rstrip())

    def test_a_missing_output_bucket_is_told_before_tensorflow_is_loaded(self, gcs, command) -> None:
        script = (
            "import sys; from pipelines import cli; code = cli.main(sys.argv[1:]); "
            "assert not {'tensorflow', 'apache_beam'} & set(sys.modules); sys.exit(code)"
        )
        words = [sys.executable, "-c", script, *map(str, command(output="gs://nowhere/a"))]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
        assert ended.stderr.startswith("pixelbeam: cannot write gs://nowhere/a: there is no such bucket")

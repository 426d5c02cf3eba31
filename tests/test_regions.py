"""Buckets and workers in one region, or one line that says which bucket is not."""

from __future__ import annotations

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import regions
from pipelines.config import RunConfig
from tests.gcs_server import GcsServer
from transforms.errors import UsageError


@pytest.mark.parametrize(
    ("region", "places", "inside"),
    [
        ("us-central1", ("US-CENTRAL1",), True),
        ("us-central1", ("US-EAST1",), False),
        ("us-central1", ("US",), True),
        ("us-central1", ("EU",), False),
        ("europe-west4", ("EU",), True),
        ("europe-west2", ("EU",), False),
        ("asia-east1", ("ASIA",), True),
        ("us-central1", ("NAM4",), True),
        ("us-west1", ("NAM4",), False),
        ("europe-north1", ("EUR4",), True),
        ("asia-northeast2", ("ASIA1",), True),
        ("us-west1", ("US-EAST1", "US-WEST1"), True),
        ("us-central1", ("US-EAST1", "US-WEST1"), False),
        ("us-central1", (), False),
    ],
)
def test_a_region_lies_in_a_place(region: str, places: tuple[str, ...], inside: bool) -> None:
    assert regions.lies_in(region, places) is inside


@pytest.mark.parametrize(
    ("options", "region"),
    [
        (["--region=us-central1"], "us-central1"),
        (["--region=us-central1", "--worker_region=us-east1"], "us-east1"),
        (["--region=us-central1", "--worker_zone=us-west1-b"], "us-west1"),
        (["--region=us-central1", "--zone=us-west4-a"], "us-west4"),
    ],
)
def test_where_the_workers_are(options: list[str], region: str) -> None:
    assert regions.worker_region(PipelineOptions(options)) == region


BUCKETS = ("in", "out", "models", "temporary", "staging")


@pytest.fixture
def config() -> RunConfig:
    """A job in us-central1 that has to do with five buckets."""
    return RunConfig(
        inputs=("gs://in/photos", "s3://elsewhere/photos", "gs://in/more"),
        output="gs://out/data",
        variants=("x",),
        model_dir="gs://models",
        beam_options=(
            *("--region=us-central1", "--temp_location=gs://temporary/tmp"),
            "--staging_location=gs://staging/tmp",
        ),
    )


@pytest.fixture
def buckets(gcs: GcsServer) -> GcsServer:
    for bucket in BUCKETS[2:]:
        gcs.create_bucket(bucket)
    return gcs


def test_buckets_of_the_region_are_right(buckets: GcsServer, config: RunConfig, capsys) -> None:
    buckets.set(places={"in": ("US",), "out": ("CUSTOM", "US-CENTRAL1", "US-EAST1")})
    buckets.reset_counts()
    regions.check(config)
    assert buckets.counts.requests == {"bucket": 5}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_bucket_elsewhere_is_one_line(buckets: GcsServer, config: RunConfig, bucket: str) -> None:
    buckets.set(places={bucket: ("EUR", "EUROPE-WEST1", "EUROPE-WEST4")})
    with pytest.raises(UsageError) as error:
        regions.check(config)
    assert str(error.value) == (
        f"gs://{bucket} is in EUROPE-WEST1 and EUROPE-WEST4, the workers would be in us-central1; give a --region "
        "where the bucket is, or copy it"
    )


@pytest.mark.parametrize("bucket", ["out", "temporary"])
def test_a_bucket_that_is_not_there_is_one_line(gcs: GcsServer, config: RunConfig, bucket: str) -> None:
    gcs.reset()
    for name in {*BUCKETS} - {bucket}:
        gcs.create_bucket(name)
    with pytest.raises(UsageError, match=f"^there is no bucket gs://{bucket}/; make it"):
        regions.check(config)


def test_what_may_not_be_asked_is_taken_to_be_right(buckets: GcsServer, config: RunConfig, capsys) -> None:
    buckets.set(deny=("bucket",))
    regions.check(config)
    assert capsys.readouterr().err.splitlines() == [
        f"where gs://{bucket} lies may not be asked; it should be in us-central1" for bucket in BUCKETS
    ]

"""Whether buckets and workers are in one region, since every byte between two is paid for."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, WorkerOptions

from pipelines.config import RunConfig
from transforms import storage
from transforms.errors import RunError, UsageError

# Google's multi-regions, each with what its regions begin with, and those that do not belong to it.
_MULTI_REGIONS = {"us": "us-", "eu": "europe-", "asia": "asia-"}
_NOT_IN_EU = ("europe-west2", "europe-west6")
_DUAL_REGIONS = {
    "nam4": ("us-central1", "us-east1"),
    "eur4": ("europe-north1", "europe-west4"),
    "asia1": ("asia-northeast1", "asia-northeast2"),
}


def check(config: RunConfig) -> None:
    """Raise UsageError where a bucket is not there, or in another region than the workers: bytes would be paid for.

    What may not be asked of a bucket is said on stderr, and taken to be right.
    """
    options = PipelineOptions(list(config.beam_options))
    region = worker_region(options)
    google = options.view_as(GoogleCloudOptions)
    places = [*config.inputs, config.output, config.model_dir, google.temp_location, google.staging_location]
    for bucket in dict.fromkeys(
        place.split("/")[2] for place in places if place and place.startswith("gs://")
    ):
        try:
            regions = storage.bucket_regions(f"gs://{bucket}/")
        except RunError:
            print(f"where gs://{bucket} lies may not be asked; it should be in {region}", file=sys.stderr)
            continue
        if not lies_in(region, regions):
            raise UsageError(
                f"gs://{bucket} is in {' and '.join(regions)}, the workers would be in {region}; give a --region "
                "where the bucket is, or copy it"
            )


def worker_region(options: PipelineOptions) -> str:
    """Where the workers are."""
    worker = options.view_as(WorkerOptions)
    zone = worker.worker_zone or worker.zone
    if zone:
        return str(zone.rpartition("-")[0])
    return str(worker.worker_region or options.view_as(GoogleCloudOptions).region)


def lies_in(region: str, regions: Iterable[str]) -> bool:
    """Whether a bucket in `regions`, as Cloud Storage names its places, is in a region of workers."""
    for place in map(str.lower, regions):
        if region == place or region in _DUAL_REGIONS.get(place, ()):
            return True
        if place in _MULTI_REGIONS and region.startswith(_MULTI_REGIONS[place]):
            return not (place == "eu" and region in _NOT_IN_EU)
    return False

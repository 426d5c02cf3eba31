#!/usr/bin/env bash
# Starts a job from the Flex Template that deploy/cloudbuild.yaml made: no checkout and no Python are needed, so that a
# scheduler can do the same. Parameters are those of deploy/flex_template/metadata.json.
set -euo pipefail

usage() {
  cat >&2 <<'END'
usage: PROJECT=... REGION=... BUCKET=... TAG=... deploy/launch_template.sh JOB NAME=VALUE... [-- GCLOUD_FLAG...]
    PROJECT REGION BUCKET  eval "$(terraform -chdir=deploy/terraform output -raw environment)"
    TAG                    of the build, as in gs://BUCKET/templates/pixelbeam-TAG.json
    WORKER SUBNETWORK      from the same output; without SUBNETWORK: the default network, with public addresses
    JOB                    the job's name: lower-case letters, digits and hyphens
    NAME=VALUE             input=gs://... output=gs://... variant=NAME,NAME accelerator=nvidia-l4 limit=1000
END
  exit 2
}

for name in PROJECT REGION BUCKET TAG; do
  if [[ -z ${!name:-} ]]; then
    echo "launch_template.sh: $name is not set" >&2
    usage
  fi
done
job=${1:-}
if [[ ! $job =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]]; then
  echo "launch_template.sh: '$job' is no name of a job" >&2
  usage
fi
shift

# gcloud splits what it is given at commas unless another separator is named first; no path holds this one.
parameters=(--parameters="^|^model_dir=gs://$BUCKET/models")
while [[ $# -gt 0 && $1 != -- ]]; do
  if [[ ! $1 =~ ^[a-z_]+=. ]]; then
    echo "launch_template.sh: '$1' is no NAME=VALUE" >&2
    usage
  fi
  parameters+=(--parameters="^|^$1")
  shift
done
if [[ ${1:-} == -- ]]; then
  shift
fi

options=(
  "--project=$PROJECT"
  "--region=$REGION"
  "--template-file-gcs-location=gs://$BUCKET/templates/pixelbeam-$TAG.json"
  "--staging-location=gs://$BUCKET/tmp/staging"
  "--temp-location=gs://$BUCKET/tmp"
  # Of the launcher's 12 minutes the image's gigabytes take most on the default of one core.
  --launcher-machine-type=e2-standard-4
)
if [[ -n ${WORKER:-} ]]; then
  options+=("--service-account-email=$WORKER")
fi
if [[ -n ${SUBNETWORK:-} ]]; then
  options+=("--subnetwork=$SUBNETWORK" --disable-public-ips)
fi
exec gcloud dataflow flex-template run "$job" "${options[@]}" "${parameters[@]}" "$@"

#!/usr/bin/env bash
# Submits a Dataflow job from this machine: `pixelbeam run` with what deploy/terraform made filled in. Ctrl-C leaves
# the job running. What is given here comes after what is filled in, and wins.
set -euo pipefail

usage() {
  cat >&2 <<'END'
usage: PROJECT=... REGION=... BUCKET=... IMAGE=... deploy/launch.sh --input PATTERN... --output OUT --variant NAME... [OPTION...]
    PROJECT REGION BUCKET  eval "$(terraform -chdir=deploy/terraform output -raw environment)"
    IMAGE                  what deploy/cloudbuild.yaml pushed, REGION-docker.pkg.dev/PROJECT/REPOSITORY/pixelbeam:TAG
    WORKER SUBNETWORK      from the same output; without SUBNETWORK: the default network, with public addresses
    OPTION                 any of `pixelbeam run`, such as --accelerator nvidia-l4, or of Beam
END
  exit 2
}

for name in PROJECT REGION BUCKET IMAGE; do
  if [[ -z ${!name:-} ]]; then
    echo "launch.sh: $name is not set" >&2
    usage
  fi
done
for option in --input --output --variant; do
  # As one word or with its value behind "=".
  if [[ " $* " != *" $option"[\ =]* ]]; then
    echo "launch.sh: $option is missing" >&2
    usage
  fi
done

options=(
  --runner=DataflowRunner
  "--project=$PROJECT"
  "--region=$REGION"
  "--temp_location=gs://$BUCKET/tmp"
  "--staging_location=gs://$BUCKET/tmp/staging"
  "--sdk_container_image=$IMAGE"
  "--model-dir=gs://$BUCKET/models"
)
if [[ -n ${WORKER:-} ]]; then
  options+=("--service_account_email=$WORKER")
fi
if [[ -n ${SUBNETWORK:-} ]]; then
  # Workers read the image, the modules and the images from Google: a public address is only a way in.
  options+=("--subnetwork=$SUBNETWORK" --no_use_public_ips)
fi
exec pixelbeam run "${options[@]}" "$@"

#!/usr/bin/env bash
# Brings what a run left to this computer: bundle, report, metrics, run.json. Checkpoints stay where they are.
#
#   collect.sh --name=mine --out=gs://bucket/run --into=results

# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_settings "$@"
trap bill EXIT
[[ -n $out ]] || die 2 "no --out: the folder of the run, as it was given to run.sh"

$dry_run || mkdir -p "$into"
found=false
for part in bundle exported report.md report.json report.png metrics.jsonl run.json; do
  if [[ $out == gs://* ]]; then
    run gcloud storage cp --recursive "$out/$part" "$into/" && found=true
  else
    run gcloud compute tpus tpu-vm scp --recurse "$name:$out/$part" "$into/" "${place[@]}" --worker=0 && found=true
  fi || echo "no $part there"
done
$found || die 1 "nothing was found in $out: is it the folder that run.sh was given?"

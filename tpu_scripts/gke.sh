#!/usr/bin/env bash
# The same on Google Kubernetes Engine, through xpk: gke.sh create | run | list | delete-run | delete
# xpk makes a workload anew when its machine is taken away, and the run continues from its newest checkpoint.
#
#   gke.sh create --cluster=mine --type=v5litepod-16 --spot=true
#   gke.sh run --cluster=mine --name=run1 --image=IMAGE --out=gs://bucket/run -- pretrain --config=albert

# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
verbs="create, run, list, delete-run, delete"
case ${1:-} in
create | run | list | delete-run | delete) verb=$1 && shift ;;
--help | -h) usage && exit 0 ;;
*) die 2 "gke.sh '${1:-}': expected one of $verbs (--help)" ;;
esac
read_settings "$@"

there() { # NAME xpk...: yes, no, or unknown: whether the first column of what xpk lists has the name
  local listed
  if ! listed=$("${@:2}"); then
    echo unknown
  elif awk -v name="$1" '$1 == name { found = 1 } END { exit !found }' <<<"$listed"; then
    echo yes
  else
    echo no
  fi
}

still() { # the last line: xpk's clusters are billed while they exist
  local code=$?
  $dry_run && echo "dry run: nothing was changed, and nothing was looked at" && exit "$code"
  case $(there "$cluster" xpk cluster list "${place[@]}") in
  yes) echo "STILL BILLED: cluster $cluster in $zone until you run $(again "gke.sh delete" cluster)" ;;
  no) echo "there is no cluster $cluster in $zone, so nothing of it is billed" ;;
  *) echo "POSSIBLY BILLED: xpk could not say whether there is a cluster $cluster in $zone; if so, $(again "gke.sh delete" cluster) deletes it" ;;
  esac
  exit "$code"
}
trap still EXIT

on=(--cluster="$cluster" "${place[@]}")
hardware=(--tpu-type="$type" --num-slices="$slices")
case $verb in
create) # xpk changes a cluster that is there to what is asked for
  tier=--on-demand
  if [[ $spot == true ]]; then tier=--spot; fi
  run xpk cluster create "${on[@]}" "${hardware[@]}" "$tier"
  ;;
run)
  ((${#command[@]})) || die 2 "no command: what the machines are to run follows --"
  [[ $out == gs://* ]] || die 2 "--out=$out: pods keep nothing, give gs://BUCKET/NAME"
  [[ -n $image ]] || die 2 "no --image: a docker image with bertjax and its tpu extra"
  if ! $dry_run && [[ $(there "$name" xpk workload list "${on[@]}") == yes ]]; then
    echo "$name is there already; delete-run takes it away"
    exit 0
  fi
  printf -v line ' %q' "${command[@]}" --out="$out"
  run xpk workload create --workload="$name" "${on[@]}" "${hardware[@]}" --docker-image="$image" \
    --max-restarts="$attempts" --command="bertjax$line"
  ;;
list) run xpk workload list "${on[@]}" ;;
delete-run)
  if ! $dry_run && [[ $(there "$name" xpk workload list "${on[@]}") == no ]]; then
    echo "there is no $name on $cluster"
    exit 0
  fi
  run xpk workload delete --workload="$name" "${on[@]}"
  ;;
delete)
  if ! $dry_run && [[ $(there "$cluster" xpk cluster list "${place[@]}") == no ]]; then
    echo "there is no cluster $cluster"
    exit 0
  fi
  run xpk cluster delete "${on[@]}" --force
  ;;
esac

# Sourced by the scripts beside it: settings, dry runs, the state of the machine, and the last line, which is about money.
# shellcheck shell=bash disable=SC2034,SC2154  # settings are assigned by name, and used by whoever sources this
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# name|default|meaning. Each is a flag (--zone=us-west4-a) and an environment variable (BERTJAX_ZONE).
settings=(
  "name|bertjax|name of the TPU and of the request that holds it"
  "project||Google Cloud project; empty: the one that gcloud is set to"
  "zone|us-west4-a|zone that has the accelerator"
  "type|v5litepod-8|accelerator: v5litepod-8 is one host with 8 chips, v5litepod-16 and more are slices of several hosts"
  "runtime|v2-alpha-tpuv5-lite|software version of the machine, which depends on the accelerator"
  "spot|false|true: cheaper, and may be taken away at any moment"
  "poll|30|seconds between two looks at the state"
  "patience|86400|seconds to wait for the machine before giving the request back"
  "install|bertjax[tpu]|what pip installs: a requirement, or a wheel on this computer"
  "out||folder of the run: gs://BUCKET/NAME, or a folder on the machine, which is lost with it"
  "attempts|20|watch.sh: how often a machine that was taken away is made anew"
  "into|collected|collect.sh: folder on this computer for results"
  "logs|tpu-logs|folder on this computer for logs and for the versions that were installed"
  "cluster|bertjax|gke.sh: name of the cluster"
  "image||gke.sh: docker image with bertjax and its tpu extra"
  "slices|1|gke.sh: number of slices"
)

dry_run=false
command=() # what stands behind --

usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  printf '\nSettings (flag, environment variable, default):\n'
  local entry key default meaning
  for entry in "${settings[@]}"; do
    IFS='|' read -r key default meaning <<<"$entry"
    printf '  --%-9s BERTJAX_%-9s %-21s %s\n' "$key" "${key^^}" "${default:--}" "$meaning"
  done
  printf '  --dry-run                                       print every command and run none\n'
}

die() { # CODE MESSAGE...
  printf '%s\n' "${@:2}" >&2
  exit "$1"
}

read_settings() { # the arguments of the script
  local entry key default variable known=()
  for entry in "${settings[@]}"; do
    IFS='|' read -r key default _ <<<"$entry"
    known+=("$key")
    variable="BERTJAX_${key^^}"
    printf -v "$key" '%s' "${!variable:-$default}"
  done
  while (($#)); do
    case $1 in
    --help | -h) usage && trap - EXIT && exit 0 ;;
    --dry-run) dry_run=true ;;
    --) command=("${@:2}") && break ;;
    --*=*)
      key=${1%%=*} key=${key#--}
      [[ " ${known[*]} " == *" $key "* ]] || die 2 "no setting --$key; there are: ${known[*]} (--help)"
      printf -v "$key" '%s' "${1#*=}"
      ;;
    *) die 2 "did not understand '$1'; flags look like --zone=us-west4-a, and a command for the machine follows --" ;;
    esac
    shift
  done
  [[ $spot == true || $spot == false ]] || die 2 "--spot=$spot: expected true or false"
  for key in poll patience attempts slices; do
    [[ ${!key} =~ ^[0-9]+$ ]] || die 2 "--$key=${!key}: expected a whole number"
  done
  for key in name zone type runtime; do
    [[ -n ${!key} ]] || die 2 "--$key is empty: give one, or leave it out (--help)"
  done
  place=(--zone="$zone")
  [[ -z $project ]] || place+=(--project="$project")
}

run() { # a command that changes something: printed always, and run unless this is a dry run
  printf '+' >&2
  printf ' %q' "$@" >&2
  printf '\n' >&2
  $dry_run || "$@"
}

state() { # of the request: ACTIVE, WAITING_FOR_RESOURCES, ..., NONE, or UNKNOWN where gcloud could not say
  local said errors
  $dry_run && echo NONE && return
  errors=$(mktemp)
  if said=$(gcloud compute tpus queued-resources describe "$name" "${place[@]}" --format='value(state.state)' 2>"$errors"); then
    echo "${said:-UNKNOWN}"
  elif grep -q NOT_FOUND "$errors"; then
    echo NONE
  else
    cat "$errors" >&2
    echo UNKNOWN
  fi
  rm -f "$errors"
}

on_workers() { # WHICH COMMAND: in a shell of every worker ("all"), or of one
  run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker="$1" --command="$2"
}

release() { # the machine and its request
  run gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet
}

bill() { # the last line of every script
  local code=$? now
  $dry_run && echo "dry run: nothing was changed, and nothing was looked at" && exit "$code"
  now=$(state)
  case $now in
  NONE | SUSPENDED | FAILED) echo "nothing of $name is billed (state: $now)" ;;
  WAITING_FOR_RESOURCES | ACCEPTED)
    echo "$name is not billed yet, but will be as soon as it is there (state: $now); delete.sh takes it back"
    ;;
  ACTIVE | PROVISIONING | CREATING | SUSPENDING | DELETING)
    echo "STILL BILLED: $name ($type in $zone, state: $now) until you run tpu_scripts/delete.sh --name=$name --zone=$zone"
    ;;
  *) echo "POSSIBLY BILLED: what became of $name in $zone is not known (state: $now); look again, or run delete.sh" ;;
  esac
  exit "$code"
}

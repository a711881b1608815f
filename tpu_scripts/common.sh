# Sourced by the scripts beside it: settings, dry runs, the state of the machine, and the last line, which is about money.
# shellcheck shell=bash disable=SC2034,SC2154  # settings are assigned by name, and used by whoever sources this
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# name|kind|default|meaning. Each is a flag (--zone=us-west4-a) and an environment variable (BERTJAX_ZONE). A word may
# stand in any command, here or on a worker, as it is; a text is quoted where a shell reads it; a path is one of this
# computer; numbers are decimal.
settings=(
  "name|word|bertjax|name of the TPU and of the request that holds it"
  "project|word||Google Cloud project; empty: the one that gcloud is set to"
  "zone|word|us-west4-a|zone that has the accelerator"
  "type|word|v5litepod-8|accelerator: v5litepod-8 is one host with 8 chips, v5litepod-16 and more are slices of several hosts"
  "runtime|word|v2-alpha-tpuv5-lite|software version of the machine, which depends on the accelerator"
  "spot|choice|false|true: cheaper, and may be taken away at any moment"
  "poll|number|30|seconds between two looks at the state"
  "patience|number|86400|seconds to wait for the machine before giving the request back"
  "install|text|bertjax[tpu]|what pip installs: a requirement, or a wheel on this computer"
  "out|word||folder of the run: gs://BUCKET/NAME, or a folder on the machine, which is lost with it"
  "attempts|number|20|watch.sh: how often a machine that was taken away is made anew"
  "into|path|collected|collect.sh: folder on this computer for results"
  "logs|path|tpu-logs|folder on this computer for logs and for the versions that were installed"
  "cluster|word|bertjax|gke.sh: name of the cluster"
  "image|word||gke.sh: docker image with bertjax and its tpu extra"
  "slices|number|1|gke.sh: number of slices"
)

dry_run=false
command=() # what stands behind --

usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  printf '\nSettings (flag, environment variable, default):\n'
  local entry key default meaning
  for entry in "${settings[@]}"; do
    IFS='|' read -r key _ default meaning <<<"$entry"
    printf '  --%-9s BERTJAX_%-9s %-21s %s\n' "$key" "${key^^}" "${default:--}" "$meaning"
  done
  printf '  --dry-run                                       print every command and run none\n'
}

die() { # CODE MESSAGE...
  printf '%s\n' "${@:2}" >&2
  exit "$1"
}

read_settings() { # the arguments of the script
  local entry key kind default variable known=()
  for entry in "${settings[@]}"; do
    IFS='|' read -r key _ default _ <<<"$entry"
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
      [[ $key != *' '* && " ${known[*]} " == *" $key "* ]] || die 2 "no setting --$key; there are: ${known[*]} (--help)"
      printf -v "$key" '%s' "${1#*=}"
      ;;
    *) die 2 "did not understand '$1'; flags look like --zone=us-west4-a, and a command for the machine follows --" ;;
    esac
    shift
  done
  for entry in "${settings[@]}"; do
    IFS='|' read -r key kind default _ <<<"$entry"
    expect "$key" "$kind" "$default"
  done
  place=(--zone="$zone")
  [[ -z $project ]] || place+=(--project="$project")
}

local_path() { # PATH: the same, not to be taken for HOST:PATH
  [[ $1 != *:* || $1 == /* ]] && echo "$1" || echo "./$1"
}

expect() { # KEY KIND DEFAULT: that a setting is of its kind, whoever reads it later: a shell, gcloud, scp, arithmetic
  local given=${!1}
  [[ -n $given || -z $3 ]] || die 2 "--$1 is empty: give one, or leave it out (--help)"
  [[ $given != -* ]] || die 2 "--$1=$given: expected no '-' at its beginning, where a command would take it for an option"
  case $2 in
  choice) [[ $given == true || $given == false ]] || die 2 "--$1=$given: expected true or false" ;;
  number)
    [[ $given =~ ^[0-9]{1,9}$ ]] || die 2 "--$1=$given: expected a whole number of at most nine digits"
    printf -v "$1" '%d' "$((10#$given))"
    ;;
  word)
    [[ $given != *[^A-Za-z0-9._/:@+=,-]* ]] || die 2 "--$1=$given: expected letters, digits and ._/:@+=,- alone"
    ;;
  text | path) [[ $given != *[[:cntrl:]]* ]] || die 2 "--$1=${given@Q}: expected one line" ;;
  esac
  [[ $2 != path ]] || printf -v "$1" '%s' "$(local_path "$given")"
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

again() { # SCRIPT KEY...: the command that does it to the same thing, from any folder and with any other settings
  local key
  printf '%q' "$here/${1%% *}"
  [[ $1 != *' '* ]] || printf ' %s' "${1#* }"
  for key in "${@:2}" zone; do printf ' --%s=%q' "$key" "${!key}"; done
  [[ -n $project ]] || project=$(gcloud config get-value project 2>/dev/null) || project=''
  printf ' --project=%q\n' "$project"
}

bill() { # the last line of every script
  local code=$? now
  $dry_run && echo "dry run: nothing was changed, and nothing was looked at" && exit "$code"
  now=$(state)
  case $now in
  NONE | SUSPENDED | FAILED) echo "nothing of $name is billed in $zone${project:+ of $project} (state: $now)" ;;
  WAITING_FOR_RESOURCES | ACCEPTED)
    echo "$name is not billed yet, but will be as soon as it is there (state: $now), if you do not run $(again delete.sh name)"
    ;;
  ACTIVE | PROVISIONING | CREATING | SUSPENDING | DELETING)
    echo "STILL BILLED: $name ($type in $zone, state: $now) until you run $(again delete.sh name)"
    ;;
  *) echo "POSSIBLY BILLED: what became of $name in $zone is not known (state: $now); look again, or run $(again delete.sh name)" ;;
  esac
  exit "$code"
}

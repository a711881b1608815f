#!/usr/bin/env bash
# Sees a run to its end: creates the machine if need be, installs, runs, and begins again where the run was when the
# machine was taken away. An error of the run itself is not repeated.
#
#   watch.sh --name=mine --spot=true --out=gs://bucket/run -- pretrain --config=albert

# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_settings "$@"
trap bill EXIT
((${#command[@]})) || die 2 "no command: what the machine is to run follows --, as in -- finetune --config=finetune"
[[ $out == gs://* ]] || die 2 "--out=$out: a run that survives its machine needs gs://BUCKET/NAME"

flags=()
for entry in "${settings[@]}"; do
  setting=${entry%%|*}
  flags+=("--$setting=${!setting}")
done
if $dry_run; then flags+=(--dry-run); fi
step() { "$here/$1.sh" "${flags[@]}" "${@:2}"; }

for ((attempt = 1; attempt <= attempts; attempt++)); do
  step create
  code=0
  { step setup && step run -- "${command[@]}"; } || code=$?
  ((code)) || exit 0
  now=$(state)
  for ((look = 0; look < 5; look++)); do # a loss shows in the state some time after the connection broke
    [[ $code == 255 || $code == 143 ]] && [[ $now == ACTIVE || $now == UNKNOWN ]] || break
    sleep "$poll"
    now=$(state)
  done
  if [[ $code == 255 && $now == ACTIVE ]]; then
    echo "attempt $attempt: the connection to $name broke; looking again"
    continue
  fi
  # 75 is bertjax's: a process was lost or hung, and the others left. 134 is jax's, where it was the first.
  if [[ $code == 75 || $code == 134 ]] && [[ $now == ACTIVE ]]; then
    echo "attempt $attempt: a worker of $name was lost; running again, from the newest checkpoint"
    continue
  fi
  if [[ $now == ACTIVE || $now == UNKNOWN ]]; then
    die "$code" "the run ended with code $code and the machine was not taken away (state: $now): see its last lines above and in $logs"
  fi
  echo "attempt $attempt: $name was taken away; making it anew"
done
die 1 "$name was taken away $attempts times; the run is where it was. Run watch.sh again to go on, or use --spot=false."

#!/usr/bin/env bash
# Asks for a TPU (a host or a slice of several) and waits until it is there. Safe to run again: what is there is kept,
# a request that is waiting is waited for, one that ended is made anew.
#
#   create.sh --name=mine --type=v5litepod-16 --spot=true

# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_settings "$@"
trap bill EXIT

began=$SECONDS # the clock: asking takes time, too
late() { ((SECONDS - began >= patience)); }

now=$(state)
while [[ $now == SUSPENDING || $now == DELETING ]]; do
  ! late || die 1 "$name is still $now after $patience seconds: nothing was created. Run this again."
  sleep "$poll"
  now=$(state)
done
case $now in
ACTIVE) echo "$name is there already" && exit 0 ;;
UNKNOWN) die 1 "gcloud cannot be asked (its reason is above): nothing was created" ;;
SUSPENDED | FAILED | PREEMPTED) release ;; # such a request never becomes a machine again
esac
if [[ $now == NONE || $now == SUSPENDED || $now == FAILED || $now == PREEMPTED ]]; then
  request=(gcloud compute tpus queued-resources create "$name" --node-id="$name" "${place[@]}")
  request+=(--accelerator-type="$type" --runtime-version="$runtime")
  if [[ $spot == true ]]; then request+=(--spot); fi
  run "${request[@]}" ||
    die 1 "$name was not created: gcloud's reason is above. Out of quota: ask for more, or try another --zone or --type."
fi
$dry_run && exit 0

began=$SECONDS
while now=$(state) && [[ $now != ACTIVE ]]; do # where gcloud cannot say (UNKNOWN), it is asked again
  if [[ $now == FAILED || $now == SUSPENDED || $now == NONE ]]; then
    [[ $now == NONE ]] || release
    die 1 "$name ended as $now before it was there. Try another --zone or --type, or ask again later."
  fi
  if late && [[ $now == UNKNOWN ]]; then
    die 1 "gcloud cannot be asked (its reason is above), so it is not known whether $name came"
  elif late; then
    release
    die 1 "$name did not come within $patience seconds (state: $now); the request was given back. Wait longer with --patience."
  fi
  echo "$name: $now after $((SECONDS - began)) s"
  sleep "$poll"
done
echo "$name is there"

#!/usr/bin/env bash
# Gives the machine back. Safe to run again.
#
#   delete.sh --name=mine

# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_settings "$@"
trap bill EXIT

if ! $dry_run && [[ $(state) == NONE ]]; then
  echo "there is no $name in $zone"
  exit 0
fi
release || die 1 "$name could not be deleted: gcloud's reason is above. Run this again, it may still be billed."

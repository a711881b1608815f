#!/usr/bin/env bash
# Installs the same versions on every worker. What the first worker got is kept in LOGS/versions.txt, and that is what
# all others get, and what a machine that is made anew gets again.
#
#   setup.sh --name=mine --install='bertjax[tpu]==0.1.0'

# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_settings "$@"
trap bill EXIT

copy() { run gcloud compute tpus tpu-vm scp "$1" "$name:$2" "${place[@]}" --worker=all; }

pip='bertjax/bin/pip install -q'
$dry_run || mkdir -p "$logs"
wanted=$install
if [[ -f $install ]]; then # a wheel of your own
  copy "$(local_path "$install")" ./
  wanted="./$(basename -- "$install")[tpu]"
fi
# The machine's own Python may be older than bertjax needs; uv brings one along.
uv='python3 -m pip install -q --user uv && python3 -m uv venv -q --seed --python 3.12 bertjax'
on_workers all "test -x bertjax/bin/pip || { $uv; }"
if [[ ! -s $logs/versions.txt ]]; then
  on_workers 0 "$pip ${wanted@Q}"
  if ! $dry_run; then
    gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=0 \
      --command='bertjax/bin/pip freeze --exclude bertjax' >"$logs/versions.txt.partial"
    mv "$logs/versions.txt.partial" "$logs/versions.txt"
  fi
fi
copy "$logs/versions.txt" versions.txt
on_workers all "$pip -r versions.txt && $pip --no-deps ${wanted@Q}"
on_workers all 'bertjax/bin/bertjax --version'

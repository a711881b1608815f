#!/usr/bin/env bash
# Runs a command of bertjax on all workers. What they print is shown, and kept in LOGS. The same command again continues
# from the newest good checkpoint in OUT; a finished run is left alone.
#
#   run.sh --name=mine --out=gs://bucket/run -- pretrain --config=albert_base --dtype=bfloat16

# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_settings "$@"
trap bill EXIT
((${#command[@]})) || die 2 "no command: what the machine is to run follows --, as in -- finetune --config=finetune"
[[ -n $out ]] || die 2 "no --out: give gs://BUCKET/NAME, or a folder on the machine"
[[ $out == gs://* ]] || echo "--out=$out lies on the machine and is lost with it; gs://BUCKET/NAME stays" >&2

printf -v line ' %q' "${command[@]}" --out="$out"
$dry_run || mkdir -p "$logs"
log=$logs/run-$(date -u +%Y%m%dT%H%M%SZ)-$$.log
if $dry_run; then
  on_workers all "bertjax/bin/bertjax$line"
else
  echo "log: $log"
  on_workers all "bertjax/bin/bertjax$line" 2>&1 | tee "$log"
fi

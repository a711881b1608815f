#!/usr/bin/env bash
# Runs a command of bertjax on all workers. What they print is shown, and kept in LOGS. The run does not hang on this
# connection: where it breaks, the same command again shows a run that goes on. A run that ended continues from the newest
# good checkpoint in OUT; a finished one is left alone.
#
#   run.sh --name=mine --out=gs://bucket/run -- pretrain --config=albert --dtype=bfloat16

# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_settings "$@"
trap bill EXIT
((${#command[@]})) || die 2 "no command: what the machine is to run follows --, as in -- finetune --config=finetune"
[[ -n $out ]] || die 2 "no --out: give gs://BUCKET/NAME, or a folder on the machine"
[[ $out == gs://* ]] || echo "--out=$out lies on the machine and is lost with it; gs://BUCKET/NAME stays" >&2

printf -v line ' %q' "${command[@]}" --out="$out"
line="bertjax/bin/bertjax$line"
# On the worker, in a folder of this command: its process, what it printed, and its exit code when it has one.
key=bertjax-runs/$(cksum <<<"$line" | tr -d ' ')
kept="$line; echo \$? >$key/code"
start="setsid bash -c ${kept@Q} >$key/log 2>&1 </dev/null & echo \$! >$key/pid"
alone="test -f $key/pid && kill -0 \$(cat $key/pid) 2>/dev/null || { rm -f $key/code; $start; }"
follow="tail -n +1 -f --pid=\$(cat $key/pid) $key/log; exit \$(cat $key/code || echo 75)"
worker="mkdir -p $key; $alone; sleep 1; $follow"
$dry_run || mkdir -p "$logs"
log=$logs/run-$(date -u +%Y%m%dT%H%M%SZ)-$$.log
if $dry_run; then
  on_workers all "$worker"
else
  echo "log: $log"
  on_workers all "$worker" 2>&1 | tee "$log"
fi

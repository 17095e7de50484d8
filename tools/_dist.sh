#!/usr/bin/env bash
# What dist_train.sh and dist_test.sh run: SCRIPT TOOL COUNT, then the script's words, of which COUNT stand before the number of devices.
set -euo pipefail
script=$1 tool=$2 count=$3
shift 3
if [ $# -le "$count" ]; then
    sed -n '2,5s/^# //p' "$script" >&2
    exit 2
fi
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:$tools/../.venv/bin  # the environment that `make` installs, if none is active

PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" \
exec torchrun \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="${*:count + 1:1}" \
    "$tools/$tool" "${@:1:count}" --launcher pytorch "${@:count + 2}"

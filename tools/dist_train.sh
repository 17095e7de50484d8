#!/usr/bin/env bash
# Train on several devices of one or more machines:
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# With several machines, run it on each with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
# Without accelerators, GPUS is the number of processes.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
fi
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:$tools/../.venv/bin  # the environment that `make` installs, if none is active
gpus=$2

PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" \
exec torchrun \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$tools/train.py" "$1" --launcher pytorch "${@:3}"

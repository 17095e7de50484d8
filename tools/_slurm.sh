#!/usr/bin/env bash
# What slurm_train.sh and slurm_test.sh run: SCRIPT TOOL FLAG, then the script's words, the fourth of which follows FLAG.
set -euo pipefail
script=$1 tool=$2 flag=$3
shift 3
if [ $# -lt 4 ]; then
    sed -n '2,4s/^# //p' "$script" >&2
    exit 2
fi
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:$tools/../.venv/bin  # the environment that `make` installs, if none is active
per_node=${GPUS_PER_NODE:-8}
read -r -a srun_args <<<"${SRUN_ARGS:-}"

set -x
PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" \
exec srun -p "$1" \
    --job-name="$2" \
    --gres="gpu:$per_node" \
    --ntasks="${GPUS:-8}" \
    --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${srun_args[@]+"${srun_args[@]}"} \
    python -u "$tools/$tool" "$3" "$flag$4" --launcher=slurm "${@:5}"

#!/usr/bin/env bash
# Train on several devices of one or more machines:
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# With several machines, run it on each with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
# Without accelerators, GPUS is the number of processes.
exec "$(dirname "${BASH_SOURCE[0]}")/_dist.sh" "$0" train.py 1 "$@"

#!/usr/bin/env bash
# Evaluate a checkpoint on several devices of one or more machines:
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
# With several machines, run it on each with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
# Without accelerators, GPUS is the number of processes.
exec "$(dirname "${BASH_SOURCE[0]}")/_dist.sh" "$0" test.py 2 "$@"

#!/usr/bin/env bash
# Evaluate a checkpoint on a Slurm cluster:
#   tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS are read from the environment.
exec "$(dirname "${BASH_SOURCE[0]}")/_slurm.sh" "$0" test.py '' "$@"

#!/usr/bin/env bash
# Train on a Slurm cluster:
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS are read from the environment.
exec "$(dirname "${BASH_SOURCE[0]}")/_slurm.sh" "$0" train.py --work-dir= "$@"

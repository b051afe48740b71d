#!/usr/bin/env bash
# Train on the nodes of a Slurm job. Preempted or out of time, it saves, requeues itself and goes on.
#
#   sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=32 launch/slurm.sh \
#     --config=configs/mosi.py --workdir=runs/x
#
# One process a node drives all GPUs of its node. Submit from the repository; --workdir and the dataset
# are on storage that all nodes see. PYTHON names another interpreter. `scancel JOB` ends it for good,
# `scancel --signal=TERM JOB` is a preemption. The log, slurm-JOB.out, is one over all restarts.
#SBATCH --job-name=imat
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -euo pipefail

# srun has not taken this from sbatch since Slurm 22.05, and would give each process one core.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"

# Under Slurm JAX gives a process one GPU, unless it is told which.
if [ "${SLURM_NTASKS_PER_NODE:-}" = 1 ] && [ -n "${SLURM_GPUS_ON_NODE:-}" ]; then
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi

echo "job $SLURM_JOB_ID, restart ${SLURM_RESTART_COUNT:-0}, $SLURM_JOB_NODELIST: $*"
# Slurm signals the processes of srun itself; this script only has to outlive them.
trap '' TERM
status=0
srun --kill-on-bad-exit "${PYTHON:-python}" -m imat_jax.train "$@" || status=$?
# A job that Slurm is ending already is requeued by Slurm (preemption) or not at all (scancel).
if [ "$status" = 143 ] && [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

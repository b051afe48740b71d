#!/usr/bin/env bash
# Train on all hosts of a TPU VM slice. Preempted or cut off, run it again: it goes on where it was.
#
#   launch/tpu_vm.sh NAME --config=configs/mosi.py --workdir=/mnt/shared/runs/x
#
# NAME is that of the TPU VM; zone and project are those of `gcloud config`, or CLOUDSDK_COMPUTE_ZONE and
# CLOUDSDK_CORE_PROJECT. REPO is the checkout on every host (imat_jax, in the home folder), PYTHON the
# interpreter, from there. --workdir and the dataset are on storage that all hosts mount. The program
# ends with the connection, so start this in tmux on a machine that stays on.
set -euo pipefail

if [ $# -lt 2 ]; then
  sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1
shift
# Quoted once more: the remote shell splits what ssh hands it.
printf -v train '%q ' "${PYTHON:-python}" -m imat_jax.train --distributed "$@"
printf -v repo '%q' "${REPO:-imat_jax}"
# The lock: a host that an earlier start still runs on refuses, instead of two writing one run.
exec gcloud compute tpus tpu-vm ssh "$name" --worker=all \
  --command="cd $repo && exec flock --nonblock --no-fork --verbose /tmp/imat_jax.lock $train"

#!/usr/bin/env bash
# Train on the GPUs of this machine; one process drives them all. Where the program is preempted (status
# 143) or crashes, it is started again and goes on from its last checkpoint; after CRASHES crashes (3)
# no more. Ctrl-C or SIGTERM to this script saves and ends.
#
#   launch/gpu_node.sh --config=configs/mosi.py --workdir=runs/x
#   CUDA_VISIBLE_DEVICES=0,1 PYTHON=.venv/bin/python launch/gpu_node.sh …
set -euo pipefail

stopping='' crashes=0
trap 'stopping=1; kill -TERM "$child" 2>/dev/null || true' INT TERM
while true; do
  "${PYTHON:-python}" -m imat_jax.train "$@" &
  child=$! status=0
  wait "$child" || status=$?
  while kill -0 "$child" 2>/dev/null; do # a signal to this script ends `wait` before the program
    status=0
    wait "$child" || status=$?
  done
  if [ "$status" = 0 ] || [ -n "$stopping" ]; then exit "$status"; fi
  if [ "$status" != 143 ]; then
    crashes=$((crashes + 1))
    if [ "$crashes" -gt "${CRASHES:-3}" ]; then exit "$status"; fi
  fi
  echo "gpu_node.sh: status $status, crashes $crashes; starting again" >&2
  sleep 5
done

#!/usr/bin/env bash
# Every run behind the tables of the README, one after the other; interrupted, it goes on.
# Real corpora: IMAT_DATA names the folder of ravdess.npz and mosi_text_audio.npz (docs/data.md).
set -euo pipefail
cd "$(dirname "$0")/.."
: "${IMAT_DATA:=../shared/data}"

build() { # NAME FILE
  [ -d "data/$1" ] || python -m imat_jax.build --source=npz --input="$IMAT_DATA/$2" --output="data/$1"
}
train() { # CONFIG MODALITIES SEED
  local run="runs/results/$1/$2/$3"
  [ -f "$run/results.json" ] || python -m imat_jax.train --config="configs/$1.py:modalities=$2" \
    --config.seed="$3" --workdir="$run"
}

for modalities in text+audio+vision text audio vision; do train tiny "$modalities" 0; done
if [ -f "$IMAT_DATA/ravdess.npz" ]; then
  build ravdess ravdess.npz
  build mosi mosi_text_audio.npz
  for seed in 0 1 2 3 4; do
    for modalities in audio+vision audio vision; do train ravdess "$modalities" "$seed"; done
    for modalities in text+audio text; do train mosi "$modalities" "$seed"; done
  done
  python benchmarks/linear.py data/ravdess audio+vision audio vision
  python benchmarks/linear.py data/mosi text+audio text
fi
python -m imat_jax.report runs/results --output=runs/results

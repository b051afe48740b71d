#!/usr/bin/env bash
# Every run behind the tables of the README, one after the other; interrupted, it goes on.
# Real corpora: IMAT_DATA names the folder of ravdess.npz and mosi_text_audio.npz (docs/data.md).
set -euo pipefail
cd "$(dirname "$0")/.."
: "${IMAT_DATA:=../shared/data}"

build() { # NAME FILE PROTOCOL…
  [ -d "data/$1" ] || python -m imat_jax.build --input="$IMAT_DATA/$2" --output="data/$1" "${@:3}"
}
train() { # CONFIG MODALITIES SEED DATASET
  local run="runs/results/$4/$2/$3"
  [ -f "$run/results.json" ] || python -m imat_jax.train --config="configs/$1.py:modalities=$2" \
    --config.dataset="data/$4" --config.seed="$3" --workdir="$run"
}

for modalities in text+audio+vision text audio vision; do train tiny "$modalities" 0 tiny; done
if [ -f "$IMAT_DATA/ravdess.npz" ]; then
  build ravdess ravdess.npz --protocol=ravdess-8way
  build mosi mosi_text_audio.npz --protocol=mosi-sentiment
  for seed in 0 1 2 3 4; do
    for modalities in audio+vision audio vision; do train ravdess "$modalities" "$seed" ravdess; done
    for modalities in text+audio text; do train mosi "$modalities" "$seed" mosi; done
  done
  python benchmarks/linear.py data/ravdess audio+vision audio vision
  python benchmarks/linear.py data/mosi text+audio text
  for fold in 1 2 3 4 5 6; do
    build "ravdess-$fold" ravdess.npz --protocol=ravdess-8way-6fold --fold="$fold"
    train ravdess audio+vision 0 "ravdess-$fold"
    python benchmarks/linear.py "data/ravdess-$fold" audio+vision
  done
fi
python -m imat_jax.report runs/results --output=runs/results

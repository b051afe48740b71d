#!/usr/bin/env bash
# The table of models × corpora of docs/models.md: launch/tables.sh [CORPUS…]; interrupted, it goes on.
# Five seeds each, one budget a corpus, selected on validation; test is scored when all are trained.
# Real corpora: IMAT_DATA names the folder of ravdess.npz, mosi_text_audio.npz, mosi400.npz.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${IMAT_DATA:=../shared/data}"

build() { # NAME FLAGS…
  [ -d "data/$1" ] || python -m imat_jax.build --output="data/$1" "${@:2}"
}
sweep() { # CORPUS GRID…
  python -m imat_jax.sweep --config="configs/baselines.py:corpus=$1" --workdir="sweeps/$1" --seeds=5 \
    --test "${@:2}"
}

models=imat,early,late,tfn,lmf,mult,misa,mbt
[ $# -gt 0 ] || set -- tiny ravdess mosi400 mosi
for corpus; do
  case $corpus in
    tiny) build tiny --source=synthetic ;;
    ravdess) build ravdess --input="$IMAT_DATA/ravdess.npz" --protocol=ravdess-8way ;;
    mosi) build mosi --input="$IMAT_DATA/mosi_text_audio.npz" --protocol=mosi-sentiment ;;
    mosi400) build mosi400 --input="$IMAT_DATA/mosi400.npz" ;;
    *) echo "error: corpus is tiny, ravdess, mosi or mosi400, not $corpus" >&2; exit 1 ;;
  esac
  case $corpus in
    mosi*) sweep "$corpus" --grid "model.name=$models,selfmm" ;;
    *) sweep "$corpus" --grid "model.name=$models" ;;
  esac
done
python -m imat_jax.report sweeps --output=sweeps

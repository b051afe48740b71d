#!/usr/bin/env bash
# The table of models × corpora of docs/models.md: launch/tables.sh [CORPUS…]; interrupted, it goes on.
# Five seeds each, one budget a corpus, selected on validation; test is scored when all are trained.
# `folds`: ravdess in six folds of actors, with a stronger feature of speech. Real corpora: IMAT_DATA
# names the folder of ravdess.npz, mosi_text_audio.npz, mosi400.npz.
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

folds() { # ravdess with the stronger feature of speech, six folds of actors, each tuned on its own validation
  for k in 1 2 3 4 5 6; do
    build "emo-$k" --input="$IMAT_DATA/ravdess.npz" --features=audio=utt_audio_w2v2emo \
      --protocol=ravdess-8way-6fold --fold="$k"
    python -m imat_jax.sweep --config=configs/ravdess.py --config.dataset="data/emo-$k" --config.epochs=20 \
      --workdir="sweeps/emo-$k" --seeds=3 --test \
      --grid model.input_dropout.audio=0,0.5 --grid optim.weight_decay=1,3
    python benchmarks/linear.py "data/emo-$k" audio+vision
  done
  python benchmarks/folds.py sweeps/emo-{1..6}
}

models=imat,early,late,tfn,lmf,mult,misa,mbt
[ $# -gt 0 ] || set -- folds tiny ravdess mosi400 mosi
for corpus; do
  case $corpus in
    folds) folds; continue ;;
    tiny) build tiny --source=synthetic ;;
    ravdess) build ravdess --input="$IMAT_DATA/ravdess.npz" --protocol=ravdess-8way ;;
    mosi) build mosi --input="$IMAT_DATA/mosi_text_audio.npz" --protocol=mosi-sentiment ;;
    mosi400) build mosi400 --input="$IMAT_DATA/mosi400.npz" ;;
    *) echo "error: corpus is tiny, ravdess, mosi, mosi400 or folds, not $corpus" >&2; exit 1 ;;
  esac
  case $corpus in
    mosi*) sweep "$corpus" --grid "model.name=$models,selfmm" ;;
    *) sweep "$corpus" --grid "model.name=$models" ;;
  esac
done
python -m imat_jax.report sweeps --output=sweeps

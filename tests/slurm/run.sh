#!/usr/bin/env bash
# launch/slurm.sh under Slurm: two nodes on this machine train to the end, and once more with a preemption
# in the middle; the two runs must be the same byte for byte. Then a sweep as a job array, whose own process
# is killed; started again it submits nothing twice, and a local one gives the same. `make test-slurm`, a few minutes, as root;
# Debian's packages are installed where they are absent.
#
# All of it is in namespaces of its own: two host names, no network besides this machine's own addresses,
# and no process that outlives the script.
set -euo pipefail

cd "$(dirname "$0")/../.."
if [ -z "${SLURM_TEST:-}" ]; then
  type slurmctld slurmd munged ip > /dev/null 2>&1 || {
    apt-get update --quiet=2
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends \
      slurm-wlm munge iproute2 > /dev/null
  }
  SLURM_TEST=$(mktemp -d)
  export SLURM_TEST
  unshare --mount --uts --net --pid --fork --kill-child --mount-proc "$0" &
  trap 'kill -KILL $! 2> /dev/null || true; rm -rf "$SLURM_TEST"' EXIT
  trap exit INT TERM
  wait $!
  exit
fi

dir=$SLURM_TEST
show() { echo "+ $*"; "$@"; }
fail() {
  echo "FAIL: $*"
  tail --lines=20 "$dir"/{build,whole,cut,sweep,local,slurmctld}.log 2> /dev/null || true
  exit 1
}
until_true() { # SECONDS COMMAND…
  local end=$((SECONDS + $1))
  until "${@:2}"; do
    [ "$SECONDS" -lt "$end" ] || fail "not within $1 s: ${*:2}"
    sleep 0.2
  done
}

# Addresses outside 127/8: with those alone, resolvers take the machine to have no IPv4.
hostname n1
ip link set lo up
ip address add 10.0.0.1/32 dev lo
ip address add 10.0.0.2/32 dev lo
printf '%s\n' '127.0.0.1 localhost' '10.0.0.1 n1' '10.0.0.2 n2' > "$dir/hosts"
mount --bind "$dir/hosts" /etc/hosts
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY

export JAX_PLATFORMS=cpu OMP_NUM_THREADS=1 PYTHON="${PYTHON:-python}" SLURM_CONF=$dir/slurm.conf
export XLA_FLAGS='--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'
timeout 90 "$PYTHON" -m imat_jax.build --source=synthetic --sizes=160,32,32 --workers=1 \
  --output="$dir/data" > "$dir/build.log" 2>&1 || fail build

sed "s|DIR/|$dir/|" tests/slurm/slurm.conf.in > "$SLURM_CONF"
mkdir "$dir/state" "$dir/spool.n1" "$dir/spool.n2"
(umask 077 && head --bytes=128 /dev/urandom > "$dir/munge.key")
munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
  --seed-file="$dir/munge.seed" --log-file="$dir/munged.log" 2> /dev/null
slurmctld -c -L "$dir/slurmctld.log"
slurmd -N n1 -L "$dir/slurmd.n1.log"
slurmd -N n2 -L "$dir/slurmd.n2.log"
two_idle() { [ "$(sinfo --noheader --states=idle --format=%D 2> /dev/null)" = 2 ]; }
until_true 30 two_idle
show sinfo

options="--config=configs/tiny.py --config.dataset=$dir/data --config.model.width=8 --config.model.heads=2
  --config.model.ffn=8 --config.model.head_width=8 --config.steps=40 --config.eval_steps=10
  --config.log_steps=1 --config.batch_size=16 --config.data.buckets=1"
submit() { # NAME: a run of that name; sets `job`
  # shellcheck disable=SC2086 # words
  set -- --output="$dir/$1.log" launch/slurm.sh $options --workdir="$dir/$1"
  echo "+ sbatch --nodes=2 $*"
  job=$(sbatch --parsable --nodes=2 "$@")
}
field() { scontrol --oneliner show job "$1" | sed -n "s/.* $2=\([^ ]*\).*/\1/p"; }
ended() { case $(field "$1" JobState) in COMPLETED | FAILED | CANCELLED | TIMEOUT) ;; *) false ;; esac; }
state() { echo "job $1: $(field "$1" JobState), restarts $(field "$1" Restarts)"; }
updates() { # NAME COUNT
  [ -f "$dir/$1/metrics.jsonl" ] && [ "$(grep -c grad_norm "$dir/$1/metrics.jsonl")" -ge "$2" ]
}
pending() { [ "$(field "$1" JobState)" = PENDING ]; }

echo '# To the end'
submit whole
until_true 180 ended "$job"
state "$job"
[ "$(field "$job" JobState)" = COMPLETED ] || fail "job $job"

echo '# Preempted after a few updates'
submit cut
until_true 120 updates cut 5
show squeue
show scancel --signal=TERM "$job"
until_true 30 pending "$job"
state "$job"
# Slurm lets a requeued job wait for two minutes; at once, its credential would still be a revoked one.
show scontrol update jobid="$job" starttime=now+5
until_true 180 ended "$job"
state "$job"
grep -Eo '^job [^:]*|SIGTERM: .*|going on from.*' "$dir/cut.log"
[ "$(field "$job" JobState), $(field "$job" Restarts)" = 'COMPLETED, 1' ] || fail "job $job"
grep --quiet 'going on from update' "$dir/cut.log" || fail 'it began anew'
show grep '"processes": 2' "$dir/whole/environment.json" || fail 'not one run of two processes'

echo '# The same?'
for file in metrics.jsonl predictions/test.npz results.json; do
  show cmp "$dir/whole/$file" "$dir/cut/$file" || fail "$file differs"
done

echo '# A sweep, killed while two of its three runs are under way'
sweep() { # NAME FLAG…: becomes it
  # shellcheck disable=SC2086 # words
  exec "$PYTHON" -m imat_jax.sweep $options --seeds=3 --workdir="$dir/$1" "${@:2}" > "$dir/$1.log" 2>&1
}
results() { [ "$(find "$dir/sweep/runs" -name results.json 2> /dev/null | wc -l)" -ge "$1" ]; }
(sweep sweep --executor=slurm --options=timeout_min=10) &
until_true 240 results 1
kill -KILL $!
show squeue --array
(sweep sweep --executor=slurm --options=timeout_min=10) || fail sweep
cat "$dir/sweep.log"
[ "$(find "$dir/sweep/slurm" -name '*_submitted.pkl' | wc -l)" = 3 ] || fail 'a run was submitted twice'
(sweep local) || fail local
for run in "$dir"/local/runs/*; do
  cmp "$run/metrics.jsonl" "$dir/sweep/runs/${run##*/}/metrics.jsonl" || fail "$run differs"
done
echo PASS

#!/usr/bin/env bash
# What needs a GPU, in stages of under ten minutes each, to be run one at a time:
#     benchmarks/gpu_check.sh STAGE [OUT]        results, default benchmarks/results/gpu
#
#     correctness   doctor, then the tests marked gpu and the samplers' with every step captured
#     speed         ours: ResNet-20, kernels, MLPs, LeNet-5, chains, store, scaling
#     peers         a step beside other libraries; effective draws per second; start-up
#     mission       fashion-resnet20 at full size, from DATA (default data/): accuracy, seconds, busy share.
#                   Stopped by its time limit, it leaves a checkpoint: the same command continues.
#
# Every part of a stage has a time limit, writes OUT/PART.log as it goes, and is stopped by SIGINT before it is killed,
# so that a part that fails or is cut off leaves what it found: JUnit's XML of tests, rows of OUT/results.csv of
# suites. It does not hide the rest; the exit status is then 1. Without a CUDA GPU the script says so and exits 0.
# PYTHON names the interpreter (default python3). GPU_CHECK_DRY=1 needs no GPU: tests and suites are only collected,
# all but one, and the mission is made tiny.
set -uo pipefail

usage() {
  sed -n '2,/^set /p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//'
}

PYTHON=${PYTHON:-python3}
DATA=${DATA:-data}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
stage=${1:-}
out=${2:-$root/benchmarks/results/gpu}
total=${GPU_CHECK_SECONDS:-570} # for a stage
grace=10                        # seconds from SIGINT to SIGKILL
workers=$(($(nproc) < 8 ? $(nproc) : 8))
case $stage in
  correctness | speed | peers | mission) ;;
  *) usage >&2; exit 2 ;;
esac

collect=()
small=()
if [ -n "${GPU_CHECK_DRY:-}" ]; then
  collect=(--collect-only -q)
  small=(--train-size 32 --batch-size 16 --steps-per-iteration 1 --chains 1 --burn-in 0 --draws 4)
else
  "$PYTHON" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else 3)'
  case $? in
    0) ;;
    3) echo "gpu_check: no CUDA GPU here, nothing to check"; exit 0 ;;
    *) echo "gpu_check: $PYTHON cannot import torch" >&2; exit 1 ;;
  esac
fi

mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd) || exit 1
[ -d "$DATA" ] && DATA=$(cd "$DATA" && pwd)
cd "$root" || exit 1
export PYTHONUNBUFFERED=1
# the kernels compile here: a TRITON_INTERPRET left in the environment would test the interpreter
unset TRITON_INTERPRET

SECONDS=0
rows=()
failed=0

part() { # NAME LIMIT COMMAND...
  local name=$1 limit=$2 begin=$SECONDS left=$((total - SECONDS)) status verdict
  shift 2
  ((limit > left)) && limit=$left
  echo
  echo "== $name: $*"
  if ((limit < 5)); then
    status=-1
    verdict="not run: out of time"
  else
    # --foreground: without it the signal comes twice, and a second SIGINT stops a run before its checkpoint
    timeout --foreground -s INT -k "$grace" "$limit" "$@" 2>&1 | tee "$out/$name.log"
    status=${PIPESTATUS[0]}
    case $status in
      0) verdict=ok ;;
      124 | 137) verdict="stopped after $limit s" ;;
      *) verdict="failed ($status)" ;;
    esac
  fi
  ((status == 0)) || failed=1
  rows+=("$(printf '%-24s %-24s %5d s' "$name" "$verdict" $((SECONDS - begin)))")
}

# Most of the tests' time goes to compiling kernels, on as many cores as there are.
parallel=()
"$PYTHON" -c 'import xdist' 2>/dev/null && [ ${#collect[@]} = 0 ] && parallel=(-n "$workers")

tests() { # NAME LIMIT ARGUMENTS... of pytest
  local name=$1 limit=$2
  shift 2
  part "$name" "$limit" "$PYTHON" -m pytest -p no:benchmark "${parallel[@]}" "${collect[@]}" \
    --junitxml "$out/$name.xml" "$@"
}

suite() { # NAME LIMIT FILE [ARGUMENTS... of pytest]
  local name=$1 limit=$2 file=benchmarks/$3 written=$out/$1.json chosen=("${collect[@]}")
  shift 3
  [ "$name" = store ] && chosen=() # short enough to be run even dry, down to the table
  rm -f "$written"
  part "$name" "$limit" "$PYTHON" -m pytest "$file" --rounds 3 -rs --benchmark-json "$written" "${chosen[@]}" "$@"
  [ -s "$written" ] && part "$name-rows" 10 "$PYTHON" benchmarks/tidy.py "$written" "$out"
}

case $stage in
  correctness)
    "$PYTHON" -c 'import hmc_fast.doctor' 2>/dev/null &&
      part doctor 60 "$PYTHON" -m hmc_fast.doctor --json "$out/doctor.json"
    tests gpu 180 -m gpu tests/test_gpu.py
    tests captured 150 --path captured -m "not statistical" \
      tests/samplers/test_protocol.py tests/samplers/test_hmc.py tests/samplers/test_sghmc.py
    tests kernels 180 -m gpu tests/kernels
    ;;
  speed)
    suite resnet 120 bench_steps.py -k ResNet-20-ours
    suite kernels 150 bench_kernels.py
    suite mlp 60 bench_steps.py -k "(regression or digits) and ours"
    suite lenet 50 bench_steps.py -k LeNet-5-ours
    suite chains 90 bench_chains.py
    suite store 20 bench_store.py
    suite scaling 50 bench_scaling.py
    part plots 20 "$PYTHON" benchmarks/plot.py "$out"
    ;;
  peers)
    suite resnet-peers 120 bench_steps.py -k ResNet-20-
    suite mlp-peers 100 bench_steps.py -k "regression or digits"
    suite lenet-peers 60 bench_steps.py -k LeNet-5-
    suite small-peers 90 bench_steps.py -k "logistic or Gaussian"
    suite ess 90 bench_ess.py
    suite start 90 bench_start.py
    ;;
  mission)
    run=$out/fashion-resnet20
    grace=30 # the iteration under way is finished, then the checkpoint is written
    if [ -f "$run/config.json" ] && [ ! -f "$run/metrics.json" ]; then
      part mission 520 "$PYTHON" -m hmc_fast.sample --resume --out "$run" --data-dir "$DATA" --profile
    elif [ ! -f "$run/metrics.json" ]; then
      part mission 520 "$PYTHON" -m hmc_fast.sample fashion-resnet20 --out "$run" --data-dir "$DATA" --profile \
        "${small[@]}"
    fi
    part summary 20 "$PYTHON" benchmarks/mission.py "$run"
    ;;
esac

echo
"$PYTHON" -c 'import torch, triton; print(torch.cuda.is_available() and torch.cuda.get_device_name() or "no GPU", "| torch", torch.__version__, "| triton", triton.__version__)'
echo "results in $out"
printf '%-24s %-24s %7s\n' part result time
printf '%s\n' "${rows[@]}"
exit "$failed"

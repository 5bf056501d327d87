#!/usr/bin/env bash
# Every check that needs a GPU, in one command that ends within ten minutes:
#     benchmarks/gpu_check.sh [OUT]        results, default benchmarks/results/gpu
# Runs the tests marked `gpu`, the protocol and distribution tests with every step captured, then the suites, each with `--out OUT`
# and a time limit. A part that fails is reported and does not hide the rest; the exit status is
# then 1. Without a CUDA GPU it says so and exits 0. PYTHON names the interpreter (default python3).
set -uo pipefail

PYTHON=${PYTHON:-python3}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
out=${1:-$root/benchmarks/results/gpu}
total=570 # seconds for all parts together

"$PYTHON" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else 3)'
case $? in
  0) ;;
  3) echo "gpu_check: no CUDA GPU here, nothing to check"; exit 0 ;;
  *) echo "gpu_check: $PYTHON cannot import torch" >&2; exit 1 ;;
esac

mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd) || exit 1
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
    timeout -k 5 "$limit" "$@" 2>&1 | tee "$out/$name.log"
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

part tests 150 "$PYTHON" -m pytest -m gpu --continue-on-collection-errors tests
part captured 60 "$PYTHON" -m pytest --path captured tests/samplers/test_protocol.py tests/samplers/test_hmc.py tests/samplers/test_sghmc.py -m "not statistical"
part bench_kernels 100 "$PYTHON" benchmarks/bench_kernels.py --out "$out"
for suite in steps chains store scaling ess end_to_end; do
  part "bench_$suite" 120 "$PYTHON" "benchmarks/bench_$suite.py" --out "$out"
done
part plots 20 "$PYTHON" benchmarks/plot.py "$out"

echo
"$PYTHON" -c 'import torch, triton; print(torch.cuda.get_device_name(), "| torch", torch.__version__, "| triton", triton.__version__)'
echo "results in $out"
printf '%-24s %-24s %7s\n' part result time
printf '%s\n' "${rows[@]}"
exit "$failed"

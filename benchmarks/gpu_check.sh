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
workers=$(($(nproc) < 8 ? $(nproc) : 8))

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
    timeout -s INT -k 5 "$limit" "$@" 2>&1 | tee "$out/$name.log"
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
pytest=("$PYTHON" -m pytest -p no:benchmark)
"$PYTHON" -c 'import xdist' 2>/dev/null && pytest+=(-n "$workers")
part tests 150 "${pytest[@]}" -m gpu tests/kernels tests/test_gpu.py
part captured 90 "${pytest[@]}" --path captured tests/samplers/test_protocol.py tests/samplers/test_hmc.py tests/samplers/test_sghmc.py -m "not statistical"
part bench_kernels 100 "$PYTHON" benchmarks/bench_kernels.py --out "$out"
part bench_end_to_end 60 "$PYTHON" benchmarks/bench_end_to_end.py --preset fashion-lenet --out "$out"
for suite in store scaling ess chains steps; do
  part "bench_$suite" 120 "$PYTHON" "benchmarks/bench_$suite.py" --out "$out"
done
part plots 20 "$PYTHON" benchmarks/plot.py "$out"

echo
"$PYTHON" -c 'import torch, triton; print(torch.cuda.get_device_name(), "| torch", torch.__version__, "| triton", triton.__version__)'
echo "results in $out"
printf '%-24s %-24s %7s\n' part result time
printf '%s\n' "${rows[@]}"
exit "$failed"

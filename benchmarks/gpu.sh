#!/usr/bin/env bash
# On a machine with a GPU: build for it, try it, measure, test; all in this checkout.
#   bash benchmarks/gpu.sh [OUTPUT_FOLDER] [options of python -m benchmarks.gpu, such as --data-root DIR]
# Needs nvcc, and a Python with a CUDA torch, pybind11, cmake, ninja, numpy, safetensors, pyyaml,
# pytest and pytest-xdist. Leaves seven files in the folder (default: build/gpu): gpu.json, gpu.md and
# the logs of build, smoke test, measurements, tests and sanitizer; build.log begins with the machine.
# Meant to take less than nine minutes on 16 cores. What tells most comes first, and each part
# leaves what it found where it is cut off: measurements are written one by one, tests have names.
set -uo pipefail
cd "$(dirname "$0")/.."
root="$PWD"
out="${1:-build/gpu}"
[ $# -eq 0 ] || shift
mkdir -p "$out"
out="$(cd "$out" && pwd)"
python="$(command -v python3)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# Behind what PATH names: cmake and ninja may be beside Python alone, nvcc where CUDA installs it.
scripts="$("$python" -c "import sysconfig; print(sysconfig.get_path('scripts'))" 2>/dev/null)"
export PATH="$PATH${scripts:+:$scripts}:${CUDA_HOME:-/usr/local/cuda}/bin"

deadline=530  # seconds since the start, after which nothing runs
# Seconds for a part that may take $1 and must leave $2 to those after it; at least one.
time_for() {
  local left=$((deadline - SECONDS - $2))
  [ "$left" -lt "$1" ] || left="$1"
  [ "$left" -gt 0 ] || left=1
  echo "$left"
}
# Runs a command for at most $1 seconds. SIGTERM ends it in order, SIGKILL what does not listen.
limited() {
  local seconds="$1"
  shift
  timeout --kill-after=10 "$seconds" "$@"
}
# pytest-timeout names a test that hangs; without it only the limit of the part holds.
each=()
"$python" -c "import pytest_timeout" 2>/dev/null && each=(--timeout 60)
pytest=("$python" -X faulthandler -m pytest -v -p no:cacheprovider)
state="" failures=0
ended() {  # the name of a part, and its exit status
  echo "== $1 exited with $2 after $SECONDS s"
  state="$state $1 $2"
  [ "$2" -eq 0 ] || failures=1
}

echo "== machine"
{
  nvidia-smi 2>&1 || true
  nvcc -V 2>&1 || true
  "$python" -c "import torch; print('torch', torch.__version__, 'CUDA', torch.version.cuda)" 2>&1
  nproc
} | tee "$out/build.log"
arch="$("$python" - <<'PYTHON'
import sys
try:
    import torch
except ImportError:
    sys.exit("torch is missing: install a CUDA build of torch")
if not torch.cuda.is_available():
    sys.exit(f"torch {torch.__version__} finds no GPU: see nvidia-smi, and that torch is a CUDA build")
print("{}.{}".format(*torch.cuda.get_device_capability()))
PYTHON
)" || exit 1

echo "== build for sm_${arch/./}"
TORCH_CUDA_ARCH_LIST="$arch" cmake -S . -B build/gpu-native -G Ninja -DEKPNET_CUDA=ON \
  -DPython_EXECUTABLE="$python" >>"$out/build.log" 2>&1 \
  && cmake --build build/gpu-native >>"$out/build.log" 2>&1 \
  && cmake --install build/gpu-native --prefix "$root/ekpnet_fast" >>"$out/build.log" 2>&1 \
  || { tail -n 40 "$out/build.log"; exit 1; }
ended build 0

echo "== smoke"
limited "$(time_for 60 300)" "${pytest[@]}" "${each[@]}" -m "cuda and smoke" tests/native tests/training \
  2>&1 | tee "$out/smoke.log"
ended smoke "${PIPESTATUS[0]}"

echo "== measure"
seconds="$(time_for 240 120)"
limited "$seconds" "$python" -m benchmarks.gpu --output "$out/gpu.json" --seconds "$((seconds - 20))" \
  "$@" 2>&1 >/dev/null | tee "$out/measure.log"
ended measure "${PIPESTATUS[0]}"
cat "$out/gpu.md"

echo "== test"
limited "$(time_for 150 30)" "${pytest[@]}" "${each[@]}" -n 4 -m "cuda and not smoke" \
  -k "not compute_sanitizer" \
  tests/ops tests/training tests/models/test_every_model.py >"$out/tests.log" 2>&1
tested=$?
grep -aE "FAILED|ERROR|Timeout" "$out/tests.log" | head -n 40
tail -n 25 "$out/tests.log"
ended test "$tested"

echo "== sanitizer"
limited "$(time_for 500 0)" "${pytest[@]}" -m cuda -k compute_sanitizer tests/training \
  2>&1 | tee "$out/sanitizer.log" | tail -n 25
ended sanitizer "${PIPESTATUS[0]}"

echo "== exit statuses (124: out of time):$state; everything is in $out"
exit "$failures"

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
job="" stopped=""
# By a signal the command that runs is ended, and with it the script, which tells what it knows.
stop() {
  stopped="${stopped:-$1}"
  [ -z "$job" ] || kill -TERM "$job" 2>/dev/null
}
for signal in HUP INT TERM; do
  # shellcheck disable=SC2064
  trap "stop $signal" "$signal"
done
# Runs a command for at most $1 seconds, its output into the log $2, and shows it as it comes.
# SIGTERM ends it and its children in order, SIGKILL what does not listen. It is a job that is
# waited for, because bash heeds no signal while a command is in front.
limited() {
  local seconds="$1" log="$2" status=143 shown="" before
  shift 2
  [ -z "$stopped" ] || return 143
  : >>"$log"
  before="$(wc -c <"$log")"
  timeout --kill-after=10 "$seconds" "$@" >>"$log" 2>&1 &
  job=$!
  if [ -z "$quiet" ]; then
    tail -c "+$((before + 1))" -s 0.2 -f --pid="$job" "$log" &
    shown=$!
  fi
  [ -z "$stopped" ] || kill -TERM "$job"  # it came before the job had its name
  while :; do
    wait "$job"
    status=$?
    kill -0 "$job" 2>/dev/null || break  # else a signal ended the waiting
  done
  job=""
  [ -z "$shown" ] || wait "$shown"
  return "$status"
}
quiet=""
# pytest-timeout names a test that hangs; without it only the limit of the part holds.
each=()
"$python" -c "import pytest_timeout" 2>/dev/null && each=(--timeout 60)
pytest=("$python" -X faulthandler -m pytest -v -p no:cacheprovider)
state="" failures=0
ended() {  # the name of a part, and its exit status
  echo "== $1 exited with $2 after $SECONDS s"
  state="$state $1 $2"
  [ "$2" -eq 0 ] || failures=1
  [ -z "$stopped" ] || finish
}
finish() {
  [ -z "$stopped" ] || echo "== stopped by SIG$stopped"
  echo "== exit statuses (124: out of time):$state; everything is in $out"
  [ -z "$stopped" ] || exit $((128 + $(kill -l "$stopped")))
  exit "$failures"
}

echo "== machine"
: >"$out/build.log"
limited 20 "$out/build.log" nvidia-smi
limited 20 "$out/build.log" nvcc -V
limited 60 "$out/build.log" "$python" -c \
  "import torch; print('torch', torch.__version__, 'CUDA', torch.version.cuda)"
limited 20 "$out/build.log" nproc
[ -z "$stopped" ] || finish
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
)" || { [ -z "$stopped" ] || finish; exit 1; }

echo "== build for sm_${arch/./}"
export TORCH_CUDA_ARCH_LIST="$arch"
quiet=yes
limited "$(time_for 500 0)" "$out/build.log" cmake -S . -B build/gpu-native -G Ninja -DEKPNET_CUDA=ON \
  -DPython_EXECUTABLE="$python" \
  && limited "$(time_for 500 0)" "$out/build.log" cmake --build build/gpu-native \
  && limited 60 "$out/build.log" cmake --install build/gpu-native --prefix "$root/ekpnet_fast"
built=$?
[ "$built" -eq 0 ] || tail -n 40 "$out/build.log"
ended build "$built"
[ "$built" -eq 0 ] || finish
quiet=""

echo "== smoke"
rm -f "$out"/{gpu.json,gpu.md,{smoke,measure,tests,sanitizer}.log}  # of a run before
limited "$(time_for 60 300)" "$out/smoke.log" \
  "${pytest[@]}" "${each[@]}" -m "cuda and smoke" tests/native tests/training
ended smoke $?

echo "== measure"
seconds="$(time_for 240 120)"
# Its tables are shown once, from the file.
limited "$seconds" "$out/measure.log" bash -c 'exec "$@" >/dev/null' measure \
  "$python" -m benchmarks.gpu --output "$out/gpu.json" --seconds "$((seconds - 20))" "$@"
measured=$?
[ ! -f "$out/gpu.md" ] || cat "$out/gpu.md"
ended measure "$measured"

echo "== test"
quiet=yes
limited "$(time_for 150 30)" "$out/tests.log" \
  "${pytest[@]}" "${each[@]}" -n 4 -m "cuda and not smoke" -k "not compute_sanitizer" \
  tests/ops tests/training tests/models/test_every_model.py
tested=$?
grep -aE "FAILED|ERROR|Timeout" "$out/tests.log" | head -n 40
tail -n 25 "$out/tests.log"
ended test "$tested"

echo "== sanitizer"
limited "$(time_for 500 0)" "$out/sanitizer.log" \
  "${pytest[@]}" -m cuda -k compute_sanitizer tests/training
sanitized=$?
tail -n 25 "$out/sanitizer.log"
ended sanitizer "$sanitized"
finish

#!/usr/bin/env bash
# On a machine with a GPU: build for it, test the CUDA code on it, measure; all in this checkout.
#   bash benchmarks/gpu.sh [OUTPUT_FOLDER] [options of python -m benchmarks.gpu, such as --data-root DIR]
# Needs nvcc, and a Python with a CUDA torch, pybind11, cmake, ninja, numpy, safetensors, pyyaml,
# pytest and pytest-xdist. Leaves gpu.json, gpu.md and the logs in the folder (default: build/gpu).
# Meant to take less than nine minutes: tests and measurements have time limits.
set -euo pipefail
cd "$(dirname "$0")/.."
root="$PWD"
out="${1:-build/gpu}"
[ $# -eq 0 ] || shift
mkdir -p "$out"
out="$(cd "$out" && pwd)"
python="$(command -v python3)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

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
)"
echo "== build for sm_${arch/./}"
TORCH_CUDA_ARCH_LIST="$arch" cmake -S . -B build/gpu-native -G Ninja -DEKPNET_CUDA=ON \
  -DPython_EXECUTABLE="$python" >"$out/build.log" 2>&1 \
  && cmake --build build/gpu-native >>"$out/build.log" 2>&1 \
  && cmake --install build/gpu-native --prefix "$root/ekpnet_fast" >>"$out/build.log" 2>&1 \
  || { tail -n 40 "$out/build.log"; exit 1; }

echo "== test"
tests=0
timeout 200 "$python" -m pytest -q -n 4 -m cuda tests/ops tests/training \
  tests/models/test_every_model.py >"$out/tests.log" 2>&1 || tests=$?
tail -n 25 "$out/tests.log"

echo "== measure"
measured=0
timeout 270 "$python" -m benchmarks.gpu --output "$out/gpu.json" "$@" >"$out/gpu.md" || measured=$?
cat "$out/gpu.md"
echo "== tests exited with $tests, measurements with $measured; everything is in $out"
[ "$tests" -eq 0 ] && [ "$measured" -eq 0 ]

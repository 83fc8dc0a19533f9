"""Measurements on a GPU; `benchmarks/gpu.sh` builds, tests and runs them."""

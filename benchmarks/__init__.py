"""Benchmarks: `pytest benchmarks --benchmark-only`. Nothing here passes or fails on a time."""

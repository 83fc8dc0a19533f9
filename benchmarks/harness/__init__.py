"""Benchmark harness: data and shapes, comparisons of times, stored results, and their page."""

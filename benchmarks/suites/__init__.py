"""Benchmark suites: each file is one section of the page."""

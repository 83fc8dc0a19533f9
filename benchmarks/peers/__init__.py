"""Peers of the benchmarks: the same work, the way others do it."""

"""What the benchmarks compare with: the same work, the way others do it."""

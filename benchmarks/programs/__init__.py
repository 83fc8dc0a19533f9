"""Benchmarked programs: training steps, single ops, samplers, worker jobs, the web server."""

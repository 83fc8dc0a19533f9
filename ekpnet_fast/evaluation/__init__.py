"""Evaluation: scores, rankings and metrics."""

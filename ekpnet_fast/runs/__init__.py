"""Runs and their folders: options, training, evaluation, report, search."""

from ekpnet_fast.runs.evaluate import evaluate_run
from ekpnet_fast.runs.runner import run

__all__ = ["evaluate_run", "run"]

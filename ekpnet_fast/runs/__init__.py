"""Runs and their folders: options, training, evaluation, report, search."""

from typing import TYPE_CHECKING

from ekpnet_fast.lazy import lazy_names

if TYPE_CHECKING:
    from ekpnet_fast.runs.evaluate import evaluate_run as evaluate_run
    from ekpnet_fast.runs.runner import run as run

# Imported on first use, so that reading a run's folder does not wait for what trains.
_LAZY = {"evaluate_run": "ekpnet_fast.runs.evaluate", "run": "ekpnet_fast.runs.runner"}

__all__ = [*_LAZY]
__getattr__ = lazy_names(__name__, _LAZY)

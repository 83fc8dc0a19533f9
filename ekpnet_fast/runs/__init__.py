"""Runs and their folders: options, training, evaluation, report, search."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ekpnet_fast.runs.evaluate import evaluate_run as evaluate_run
    from ekpnet_fast.runs.runner import run as run

# Imported on first use, so that reading a run's folder does not wait for what trains.
_LAZY = {"evaluate_run": "ekpnet_fast.runs.evaluate", "run": "ekpnet_fast.runs.runner"}

__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    """Import a name of the room's face on first use."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

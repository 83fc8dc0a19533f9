"""Training for a recommender: from keyword options to a state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import torch

from ekpnet_fast.data import Dataset, load_dataset
from ekpnet_fast.errors import DataError
from ekpnet_fast.native.cpus import usable_cpus
from ekpnet_fast.native.defaults import plain_defaults
from ekpnet_fast.native.device import resolve_device
from ekpnet_fast.recommender.state import State
from ekpnet_fast.recommender.store import state_of
from ekpnet_fast.runs.context_file import RunContext
from ekpnet_fast.runs.evaluate import prepare_run
from ekpnet_fast.runs.fit import fit_run
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.training.progress import Progress


def fit(
    dataset: Dataset | str | PathLike[str],
    model: str,
    options: Mapping[str, Any],
    on_progress: Callable[[Progress], None] | None,
) -> State:
    """Train a model with options by dotted name, and make a state of it.

    Raises:
        ConfigError, DataError, TrainingError: an option, the data, or training.
    """
    if isinstance(dataset, Dataset):
        name = dataset.name
        if dataset.split is not None:
            options = {"protocol": "fixed", **options}
    elif isinstance(dataset, str | PathLike):
        name = str(dataset)
    else:
        raise DataError(
            f"dataset: found {type(dataset).__name__}, expected a Dataset, such as load_dataset"
            " gives, a name, or a folder"
        )
    config = resolve({**options, "dataset": name, "model": model})
    resolve_device(config.device)  # a device that cannot be used is an error before any work
    if not isinstance(dataset, Dataset):
        dataset = load_dataset(
            name,
            config.data_root,
            synthetic=config.synthetic if name == "synthetic" else None,
            threshold=config.threshold,
        )
    with _threads(config.threads), plain_defaults():
        config, prepared, graph = prepare_run(config, dataset)
        fitted = fit_run(config, prepared, graph, on_progress or (lambda progress: None))
    context = RunContext.of(fitted.prepared, graph)
    return state_of(config, context, fitted.outcome.model, fitted.outcome.stage)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Set the number of threads inside the block; without one torch's, if as many may be used."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or min(before, usable_cpus().count))
    try:
        yield
    finally:
        torch.set_num_threads(before)

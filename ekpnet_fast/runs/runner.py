"""Runner: a run from options to metrics."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ekpnet_fast.config import WITHOUT_EFFECT, RunConfig
from ekpnet_fast.data import Dataset
from ekpnet_fast.data.stats import items_without_rows
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.models import MODELS
from ekpnet_fast.native.build import __version__, build_info
from ekpnet_fast.native.cpus import choose_threads
from ekpnet_fast.native.defaults import plain_defaults
from ekpnet_fast.native.device import describe_device, resolve_device, unused_gpu
from ekpnet_fast.runs import html_report as html
from ekpnet_fast.runs import run_folder
from ekpnet_fast.runs.context_file import RunContext
from ekpnet_fast.runs.evaluate import Stopwatch, evaluate, load
from ekpnet_fast.runs.fit import fit_run
from ekpnet_fast.runs.places import lasting
from ekpnet_fast.runs.resolve import from_data, resolve
from ekpnet_fast.runs.tensorboard import tracking
from ekpnet_fast.storage import checkpoint
from ekpnet_fast.storage.checkpoint import Checkpoint, CheckpointWriter
from ekpnet_fast.storage.files import to_json
from ekpnet_fast.training.parallel.backend import check_backend
from ekpnet_fast.training.parallel.world import World
from ekpnet_fast.training.progress import Progress, records_as_dicts
from ekpnet_fast.training.signals import Interrupted, Signals
from ekpnet_fast.training.snapshot import TrainingSnapshot


def run(
    options: RunConfig | Mapping[str, Any],
    on_progress: Callable[[Progress], None] = lambda progress: None,
    *,
    resume: bool = False,
    signals: Signals | None = None,
    warn: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    on_options: Callable[[Mapping[str, Any]], None] = lambda options: None,
    world: World | None = None,
) -> dict[str, Any]:
    """Train and evaluate; write the run's folder if `output` names one.

    Args:
        options: a configuration, or options by name, as `resolve` takes them.
        on_progress: called after each batch and each epoch.
        resume: go on with the unfinished run in `output`.
        signals: by which the run is stopped between two steps, with a checkpoint.
        warn: called with the place where a resumed run goes on, with what of it is damaged, and
            with what of the model is left out because the data have no triples, and with what of
            the data is odd.
        on_options: called before training with the options that followed from the data.
        world: the processes that train and evaluate together, of which the first one alone writes;
            None for this one alone.

    Returns:
        The content of `metrics.json` (see `ekpnet_fast.runs.run_folder`); nothing on all processes
        but the first.

    Raises:
        EkpnetError: an option, the data, or training; says what was found and expected.
        Interrupted: a signal came.
    """
    config = resolve(options)
    world = world or World()
    device = resolve_device(config.device)  # one that cannot be used is an error before any work
    if config.parallel.parts > 1 and device.type != "cpu":
        raise ConfigError(
            f"--parallel.parts is {config.parallel.parts}, but --device {config.device} is a GPU;"
            " expected --device cpu, where parts are computed"
        )
    check_backend(config.parallel, world.size)
    if config.report:
        html.check_available()
    if config.output is None:
        if resume:
            raise ConfigError("there is no --output, expected the folder of the run to resume")
        return _run(config, on_progress, None, signals, warn, on_options, world)
    if world.rank > 0:
        number: int | None = world.share(None) if resume else None
        start = None if number is None else checkpoint.read(config.output, number)
        return _run(config, on_progress, start, signals, _ignore, on_options, world)
    with run_folder.open_output(config.output, overwrite=config.overwrite, resume=resume):
        start = None
        if resume:
            start = checkpoint.latest(config.output, warn)
            world.share(None if start is None else start.number)
            if start is None:
                warn(f"{config.output}: no checkpoint yet; starting from the beginning")
        else:
            run_folder.save_config(config.output, lasting(config))
        return _run(config, on_progress, start, signals, warn, on_options, world)


def _ignore(text: str) -> None:
    pass


def _check_start(
    start: Checkpoint, config: RunConfig, data_hash: str, warn: Callable[[str], None]
) -> None:
    """Check that a checkpoint is one of this run, and warn where it goes on.

    The data set may lie elsewhere now: the hash of its data tells whether it is the same.

    Raises:
        ConfigError: its options are others.
        DataError: its data are others.
    """
    free = (*WITHOUT_EFFECT, "threads", "dataset")
    theirs, ours = (
        {name: value for name, value in to_json(options).items() if name not in free}
        for options in (start.facts["config"], config.as_dict())
    )
    different = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if different:
        raise ConfigError(f"{start.path}: written with other options: {', '.join(different)}")
    if start.facts["data_hash"] != data_hash:
        raise DataError(
            f"{start.path}: trained on data with hash {start.facts['data_hash']}, found"
            f" {data_hash}; the files of the data set have changed"
        )
    written = start.facts["version"], start.facts["torch"]
    if written != (__version__, torch.__version__):
        warn(
            f"{start.path}: written by version {written[0]} with torch {written[1]}, going on with"
            f" {__version__} and {torch.__version__}; numbers may differ from an undisturbed run's"
        )
    warn(f"resumed {TrainingSnapshot.of(start).position}")


def _warn_of_data(config: RunConfig, dataset: Dataset, warn: Callable[[str], None]) -> None:
    """Say what of the data the run cannot use, or uses otherwise than they ask for."""
    missed = MODELS[config.model].without_triples()
    if missed is not None and not dataset.reaches_items:
        warn(f"{config.dataset} has no triples of its items, {missed}")
    unseen, items = items_without_rows(dataset), dataset.num_items
    if dataset.item_ids is None and 2 * unseen > items:
        warn(
            f"{config.dataset}: {unseen:,} of {items:,} numbers of items are in no row, but lists"
            " may have them; `ekpnet data import` numbers without gaps"
        )
    if dataset.split is not None and config.protocol != "fixed":
        warn(
            f"{config.dataset} comes split, and is split anew by --protocol {config.protocol}: its"
            " rows of test are trained on too; --protocol fixed keeps them apart"
        )


@plain_defaults()
def _run(
    config: RunConfig,
    on_progress: Callable[[Progress], None],
    start: Checkpoint | None,
    signals: Signals | None,
    warn: Callable[[str], None],
    on_options: Callable[[Mapping[str, Any]], None],
    world: World,
) -> dict[str, Any]:
    watch = Stopwatch()
    config, prepared, graph = load(config, watch)
    writes = world.rank == 0
    if config.output is not None and start is None and writes:
        run_folder.save_config(config.output, lasting(config))
    auto = from_data(config, prepared)
    on_options(auto)
    _warn_of_data(config, prepared.dataset, warn)
    if start is not None:
        _check_start(start, config, prepared.hash, warn)
    world.caught = caught = lambda: None if signals is None else signals.caught
    # Processes that share the work stop after the same step.
    stopped = caught if config.parallel.parts == 1 else lambda: world.stop
    every = 1 if config.checkpoint_every is None else config.checkpoint_every
    with ExitStack() as stack:
        writer = None
        if config.output is not None:
            writer = stack.enter_context(
                CheckpointWriter(
                    config.output,
                    {"config": config.as_dict(), "data_hash": prepared.hash},
                    every=every,
                    start=start,
                    stopped=stopped,
                    first=writes,
                )
            )
            if signals is not None:
                stack.enter_context(signals.deferred())
        if config.track is not None and writes:
            first = 1 if start is None else TrainingSnapshot.of(start).position.epochs_done + 1
            on_progress = stack.enter_context(tracking(config.track, on_progress, first))
        fitted = fit_run(
            config, prepared, graph, on_progress, writer, lambda: _check_signals(signals), world
        )
    outcome, prepared = fitted.outcome, fitted.prepared
    watch.seconds.update(outcome.seconds)
    logits: list[NDArray[np.float32]] = []
    with watch.part("evaluate"):
        found = evaluate(config, prepared, graph, outcome, logits.append, world)
    if not writes:
        return {}
    trained = sum(record.seconds for record in outcome.records)
    pairs = sum(record.seconds * record.samples_per_second for record in outcome.records)
    unused = unused_gpu()
    metrics = {
        "format": run_folder.RUN_FORMAT,
        "version": __version__,
        "dataset": config.dataset,
        "model": config.model,
        "protocol": config.protocol,
        "seed": config.seed,
        "auto": auto,
        "data_hash": prepared.hash,
        "users": prepared.dataset.num_users,
        "dropped_users": prepared.dropped_users,
        "dropped_examples": prepared.dropped_examples,
        "split": None if prepared.counts is None else asdict(prepared.counts),
        "epochs": records_as_dicts(outcome.records),
        "refit": fitted.refit,
        "validated_users": outcome.validated_users,
        **found,
        "weights": outcome.model.weights_by_name() or None,
        "seconds": {
            **watch.seconds,
            "total": watch.total() + (0.0 if start is None else start.facts["elapsed"]),
        },
        "cpu_seconds": watch.cpu(),
        "resumed": 0 if writer is None else writer.resumed,
        "samples_per_second": pairs / trained if trained else None,
        "peak_rss_mb": _peak_rss_mb(),
        "environment": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "processor": _processor(),
            "isa": build_info().isa,
            "threads": torch.get_num_threads(),
            "threads_reason": choose_threads(config.threads).reason,
            "device": describe_device(resolve_device(config.device)),
            **({"processes": world.size} if world.size > 1 else {}),
            **({"unused_gpu": unused} if unused and config.device == "auto" else {}),
        },
    }
    if config.output is not None:
        run_folder.save_model(
            config.output, outcome.model, stage=outcome.stage, data_hash=prepared.hash
        )
        RunContext.of(prepared, graph).write(config.output)
        if config.report:
            report_file = config.output / html.REPORT_FILE
            html.write(report_file, metrics, config, prepared, logits[0] if logits else None)
        run_folder.save_metrics(config.output, metrics)
        checkpoint.remove_all(config.output)
    return metrics


def _check_signals(signals: Signals | None) -> None:
    """Stop where there is no checkpoint to write.

    Raises:
        Interrupted: a signal came.
    """
    if signals is not None and signals.caught is not None:
        raise Interrupted(signals.caught, "while training again")


def _peak_rss_mb() -> float:
    """Largest resident memory of the process, MiB.

    The counter of `getrusage` begins with that of the process that started this one.
    """
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

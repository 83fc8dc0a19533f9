"""A run from options to metrics, and the evaluation of a finished one."""

from __future__ import annotations

import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ekpnet_fast import report as html
from ekpnet_fast import results
from ekpnet_fast.config import WITHOUT_EFFECT, RunConfig
from ekpnet_fast.data import Dataset, PreparedData, load_dataset, prepare
from ekpnet_fast.errors import ConfigError, DataError, TrainingError
from ekpnet_fast.evaluation import scoring
from ekpnet_fast.evaluation.metrics import auc, click_metrics, popularity_click_metrics
from ekpnet_fast.evaluation.ranking import evaluate_ranking, popularity_scores
from ekpnet_fast.models import build
from ekpnet_fast.native.build import __version__, build_info
from ekpnet_fast.native.device import describe_device, resolve_device
from ekpnet_fast.ops import backends
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.storage import checkpoint
from ekpnet_fast.storage.checkpoint import Checkpoint, Keeper
from ekpnet_fast.storage.files import plain
from ekpnet_fast.track import tracking
from ekpnet_fast.training import loop
from ekpnet_fast.training.progress import Outcome, Progress, records_as_dicts
from ekpnet_fast.training.signals import Signals
from ekpnet_fast.training.snapshot import Saved


@dataclass
class Stopwatch:
    """Seconds per named part."""

    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def total(self) -> float:
        """Seconds since the stopwatch was made."""
        return time.perf_counter() - self.started


def load(config: RunConfig, watch: Stopwatch) -> tuple[PreparedData, Graph]:
    """The data of a run."""
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    with watch.part("load"):
        dataset = load_dataset(
            config.dataset,
            config.data_root,
            synthetic=config.synthetic if config.dataset == "synthetic" else None,
            threshold=config.threshold,
        )
    with watch.part("prepare"):
        return prepare_run(config, dataset)


def prepare_run(config: RunConfig, dataset: Dataset) -> tuple[PreparedData, Graph]:
    """The data of a run, split, and its graph.

    Raises:
        TrainingError: a data set that is too small to split.
    """
    prepared = prepare(dataset, config.seed, config.protocol)
    graph = Graph.from_dataset(dataset, inverse=config.sampling.inverse)
    for name, rows in (("validation", prepared.valid), ("test", prepared.test)):
        if config.protocol == "recbole":
            if not len(rows):
                raise TrainingError(
                    f"{dataset.name}: the {name} split has no positive, expected some; the data"
                    " set is too small to split 8:1:1"
                )
        elif len(set(rows.labels.tolist())) < 2:
            raise TrainingError(
                f"{dataset.name}: the {name} split has {len(rows)} rows of one label, expected"
                " positives and negatives; the data set is too small to split 6:2:2"
            )
    return prepared, graph


def evaluate(
    config: RunConfig,
    prepared: PreparedData,
    graph: Graph,
    outcome: Outcome,
    scored: Callable[[NDArray[np.float32]], None] = lambda logits: None,
) -> dict[str, Any]:
    """Test metrics of a trained model, beside item popularity and, if known, the best possible.

    Under the protocol "recbole" there are no negative rows, hence no click metrics; else `scored`
    is told the logits of the test rows [N].
    """
    backend = backends.BACKENDS[config.backend]
    device = resolve_device(config.device)
    outcome.model.to(device)
    ripple = build.sample_ripple_sets(config, graph, prepared).to(device)
    found: dict[str, Any] = {
        "test": None,
        "popularity": None,
        "popularity_auc": None,
        "oracle_auc": None,
        "ranking": None,
        "popularity_ranking": None,
    }
    if config.protocol == "ripplenet":
        test_rows = scoring.rows_by_user(prepared.test, prepared)
        scores = scoring.score_rows(backend, outcome.model, ripple, test_rows, stage=outcome.stage)
        scored(scores)
        popularity = popularity_click_metrics(prepared.test, prepared)
        found["test"] = asdict(click_metrics(prepared.test, scores, prepared))
        found["popularity"] = asdict(popularity)
        found["popularity_auc"] = popularity.auc
    if prepared.oracle_test is not None:
        found["oracle_auc"] = auc(prepared.test.labels, prepared.oracle_test)
    if config.ranking:
        scorer = scoring.catalogue_scorer(
            backend, outcome.model, ripple, prepared.dataset.num_items, stage=outcome.stage
        )
        found["ranking"] = evaluate_ranking(scorer, prepared, memory_mb=config.memory_mb)
        found["popularity_ranking"] = evaluate_ranking(
            popularity_scores(prepared), prepared, memory_mb=config.memory_mb
        )
    return found


def run(
    config: RunConfig,
    report: Callable[[Progress], None] = lambda progress: None,
    *,
    resume: bool = False,
    signals: Signals | None = None,
    tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> dict[str, Any]:
    """Train and evaluate; write the run's folder if `config.output` names one.

    Args:
        config: a resolved run.
        report: told about each batch and each epoch.
        resume: go on with the unfinished run in `config.output`.
        signals: by which the run is stopped between two steps, with a checkpoint.
        tell: told where a resumed run goes on, and what of it is damaged.

    Returns:
        The content of `metrics.json` (see `ekpnet_fast.results`).

    Raises:
        EkpnetError: an option, the data, or training; says what was found and expected.
        Interrupted: a signal came.
    """
    resolve_device(config.device)  # a device that cannot be used is told before any work
    if config.report:
        html.check_available()
    if config.output is None:
        if resume:
            raise ConfigError("there is no --output, expected the folder of the run to resume")
        return _run(config, report, None, signals, tell)
    with results.open_output(config.output, overwrite=config.overwrite, resume=resume):
        start = None
        if resume:
            start = checkpoint.latest(config.output, tell)
            if start is None:
                tell(f"{config.output}: no checkpoint yet; starting from the beginning")
        else:
            results.save_config(config.output, config)
        return _run(config, report, start, signals, tell)


def _check_start(
    start: Checkpoint, config: RunConfig, data_hash: str, tell: Callable[[str], None]
) -> None:
    """See that a checkpoint is one of this run, and say where it goes on.

    Raises:
        ConfigError: its options are others.
        DataError: its data are others.
    """
    free = (*WITHOUT_EFFECT, "threads")
    theirs, ours = (
        {name: value for name, value in plain(options).items() if name not in free}
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
        tell(
            f"{start.path}: written by version {written[0]} with torch {written[1]}, going on with"
            f" {__version__} and {torch.__version__}; numbers may differ from an undisturbed run's"
        )
    tell(f"resumed {Saved.of(start).position}")


def _run(
    config: RunConfig,
    report: Callable[[Progress], None],
    start: Checkpoint | None,
    signals: Signals | None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    watch = Stopwatch()
    prepared, graph = load(config, watch)
    if start is not None:
        _check_start(start, config, prepared.hash, tell)
    every = 1 if config.checkpoint_every is None else config.checkpoint_every
    with ExitStack() as stack:
        keeper = None
        if config.output is not None:
            keeper = stack.enter_context(
                Keeper(
                    config.output,
                    {"config": config.as_dict(), "data_hash": prepared.hash},
                    every=every,
                    start=start,
                    stopped=lambda: None if signals is None else signals.caught,
                )
            )
            if signals is not None:
                stack.enter_context(signals.deferred())
        if config.track is not None:
            first = 1 if start is None else Saved.of(start).position.epochs_done + 1
            report = stack.enter_context(tracking(config.track, report, first))
        outcome = loop.train(config, prepared, graph, report, keeper)
    watch.seconds.update(outcome.seconds)
    logits: list[NDArray[np.float32]] = []
    with watch.part("evaluate"):
        found = evaluate(config, prepared, graph, outcome, logits.append)
    trained = sum(record.seconds for record in outcome.records)
    pairs = sum(record.seconds * record.samples_per_second for record in outcome.records)
    metrics = {
        "format": results.RUN_FORMAT,
        "version": __version__,
        "dataset": config.dataset,
        "model": config.model,
        "protocol": config.protocol,
        "seed": config.seed,
        "data_hash": prepared.hash,
        "users": prepared.dataset.num_users,
        "dropped_users": prepared.dropped_users,
        "dropped_rows": prepared.dropped_rows,
        "epochs": records_as_dicts(outcome.records),
        **found,
        "weights": outcome.model.weights_by_name() or None,
        "seconds": {
            **watch.seconds,
            "total": watch.total() + (0.0 if start is None else start.facts["elapsed"]),
        },
        "resumed": 0 if keeper is None else keeper.resumed,
        "samples_per_second": pairs / trained if trained else None,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "environment": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "processor": _processor(),
            "isa": build_info().isa,
            "threads": torch.get_num_threads(),
            "device": describe_device(resolve_device(config.device)),
        },
    }
    if config.output is not None:
        results.save_model(
            config.output, outcome.model, stage=outcome.stage, data_hash=prepared.hash
        )
        if config.report:
            report_file = config.output / html.REPORT_FILE
            html.write(report_file, metrics, config, prepared, logits[0] if logits else None)
        results.save_metrics(config.output, metrics)
        checkpoint.remove_all(config.output)
    return metrics


def evaluate_run(
    output: Path,
    data_root: Path | None = None,
    threads: int | None = None,
    device: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate a finished run again: what is found now, and what `metrics.json` says.

    Args:
        output: the run's folder.
        data_root: where the data sets lie now, if not where they lay.
        threads: CPU threads, if not as many as the run had.
        device: "auto", "cpu" or "cuda", if not what the run was told.

    Raises:
        DataError: no finished run, or the data are not those that it was trained on.
    """
    # Only commands read options, so only they need its parser.
    from ekpnet_fast.options import parse_run

    stored = results.load_metrics(output)
    arguments = ["--config", str(output / results.CONFIG_FILE)]
    if data_root is not None:
        arguments += ["--data-root", str(data_root)]
    if threads is not None:
        arguments += ["--threads", str(threads)]
    if device is not None:
        arguments += ["--device", device]
    config = parse_run(arguments)
    prepared, graph = load(config, Stopwatch())
    model = build.build_model(config, prepared, graph)
    stage, data_hash = results.load_model(output, model)
    if prepared.hash != data_hash:
        raise DataError(
            f"{output}: trained on data with hash {data_hash}, found {prepared.hash};"
            " the files of the data set have changed"
        )
    return evaluate(config, prepared, graph, Outcome(model, stage)), stored


def same_metrics(found: dict[str, Any], stored: dict[str, Any]) -> bool:
    """Whether evaluation gave the stored numbers exactly."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, dict) and isinstance(b, dict):
            a = {str(key): value for key, value in a.items()}
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        if isinstance(a, float) and not math.isfinite(a):
            return b is None
        return bool(a == b)

    return all(same(value, stored[name]) for name, value in found.items())


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

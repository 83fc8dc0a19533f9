"""Evaluation of a trained model, and of a finished run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import Dataset, PreparedData, load_dataset, prepare
from ekpnet_fast.data.splits import RANKING, TEMPORAL, with_validation
from ekpnet_fast.errors import DataError, TrainingError
from ekpnet_fast.evaluation import scoring
from ekpnet_fast.evaluation.metrics import (
    DEFAULT_KS,
    auc,
    click_metrics,
    popularity_click_metrics,
)
from ekpnet_fast.evaluation.ranking import popularity_scores, ranking_task, report_ranking
from ekpnet_fast.models import MODELS, build
from ekpnet_fast.native.cpus import choose_threads
from ekpnet_fast.native.defaults import plain_defaults
from ekpnet_fast.native.device import resolve_device
from ekpnet_fast.native.processes import ALONE, Processes
from ekpnet_fast.ops import backends
from ekpnet_fast.ops.threads import beside, torch_on_one_thread
from ekpnet_fast.runs import run_folder
from ekpnet_fast.runs.places import moved
from ekpnet_fast.runs.resolve import resolve, settle
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.pairs import TrainContext
from ekpnet_fast.training.progress import Outcome


@dataclass
class Stopwatch:
    """Seconds per named part."""

    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    used: float = field(default_factory=time.process_time)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def total(self) -> float:
        """Seconds since the stopwatch was made."""
        return time.perf_counter() - self.started

    def cpu(self) -> float:
        """CPU seconds of all threads of the process since the stopwatch was made."""
        return time.process_time() - self.used


class Loaded(NamedTuple):
    """Loaded data of a run, and its options, of which none is left to the data."""

    config: RunConfig
    prepared: PreparedData
    graph: Graph


def load(config: RunConfig, watch: Stopwatch) -> Loaded:
    """Load the data of a run, split, and its graph; sets the CPU threads."""
    torch.set_num_threads(choose_threads(config.threads).count)
    with watch.part("load"):
        dataset = load_dataset(
            config.dataset,
            config.data_root,
            synthetic=config.synthetic if config.dataset == "synthetic" else None,
            threshold=config.threshold,
        )
    with watch.part("prepare"):
        return prepare_run(config, dataset)


def prepare_run(config: RunConfig, dataset: Dataset) -> Loaded:
    """Split the data of a run, settle its options and make its graph.

    Raises:
        DataError: the data set lacks what the model needs.
        TrainingError: a data set that is too small to split.
    """
    expect_enough(config.model, dataset)
    prepared = prepare(dataset, config.seed, config.protocol, config.cut)
    config = settle(config, prepared)
    graph = Graph.from_dataset(dataset, inverse=config.sampling.inverse)
    for name, examples in (("validation", prepared.valid), ("test", prepared.test)):
        if config.protocol in RANKING:
            if not len(examples):
                raise TrainingError(
                    f"{dataset.name}: the {name} split has no positive, expected some; the data"
                    " set is too small to split 8:1:1"
                )
        elif len(set(examples.labels.tolist())) < 2:
            raise TrainingError(
                f"{dataset.name}: the {name} split has {len(examples)} rows of one label, expected"
                " positives and negatives; the data set is too small to split 6:2:2"
            )
    return Loaded(config, prepared, graph)


def expect_enough(model: str, dataset: Dataset) -> None:
    """Raise where a data set lacks what a model cannot do without.

    Raises:
        DataError: names it, and the models that need no such thing.
    """
    kind = MODELS[model]
    lacking = kind.lacking(dataset)
    if lacking is not None:
        blind = not dataset.reaches_items
        others = [
            name
            for name, other in MODELS.items()
            if not other.lacking(dataset) and not (blind and other.by_graph_alone())
        ]
        raise DataError(
            f"{dataset.name}: found no {lacking}, without which --model {model} cannot tell items"
            f" apart; expected {kind.needs}, or another model: {', '.join(others)}"
        )


def evaluate(
    config: RunConfig,
    prepared: PreparedData,
    graph: Graph,
    outcome: Outcome,
    scored: Callable[[NDArray[np.float32]], None] = lambda logits: None,
    together: Processes = ALONE,
) -> dict[str, Any]:
    """Test metrics of a trained model, beside item popularity and, if known, the best possible.

    Under a protocol that ranks there are no negatives, hence no click metrics; else `scored` is
    called with the logits of the test examples [N]. Processes that evaluate together score a share
    of the users each, and all return the same.
    """
    # Torch's own operators would wait for threads that other programs keep from running: users are
    # shared among threads instead.
    with torch_on_one_thread():
        return _evaluate(config, prepared, graph, outcome, scored, together)


def _evaluate(
    config: RunConfig,
    prepared: PreparedData,
    graph: Graph,
    outcome: Outcome,
    scored: Callable[[NDArray[np.float32]], None],
    together: Processes,
) -> dict[str, Any]:
    backend = backends.BACKENDS[config.backend]
    device = resolve_device(config.device)
    outcome.model.to(device)
    model, seen = outcome.model, prepared
    if config.protocol in TEMPORAL and model.new_users:
        # All that is known of a user as test begins; what was fitted stays.
        seen = with_validation(prepared)
        model = model.with_context(TrainContext.of(seen, graph, config.seed))
    ripple = build.sample_ripple_sets(config, graph, seen, lazy=together.size > 1).to(device)
    found: dict[str, Any] = {
        "test": None,
        "popularity": None,
        "popularity_auc": None,
        "oracle_auc": None,
        "ranked_users": None,
        "ranking": None,
        "popularity_ranking": None,
    }
    if config.protocol == "ripplenet":
        test_examples = scoring.examples_by_user(prepared.test, prepared)
        scores = scoring.score_examples(
            backend,
            outcome.model,
            ripple,
            test_examples,
            stage=outcome.stage,
            together=together,
        )
        scored(scores)
        popularity = popularity_click_metrics(prepared.test, prepared)
        found["test"] = asdict(click_metrics(prepared.test, scores, prepared))
        found["popularity"] = asdict(popularity)
        found["popularity_auc"] = popularity.auc
    if prepared.oracle_test is not None:
        found["oracle_auc"] = auc(prepared.test.labels, prepared.oracle_test)
    if config.ranking:
        found["ranked_users"] = len(ranking_task(prepared, users=config.ranked_users).users)
        scorer = scoring.catalogue_scorer(
            backend, model, ripple, prepared.dataset.num_items, stage=outcome.stage
        )
        ks, most = tuple(sorted({*DEFAULT_KS, *config.ks})), config.ranked_users
        by_popularity = beside(
            lambda: report_ranking(
                popularity_scores(prepared), prepared, ks, config.memory_mb, users=most
            )
        )
        threads = scorer.scorer.threads
        found["ranking"] = report_ranking(
            scorer, prepared, ks, config.memory_mb, together, most, threads
        )
        found["popularity_ranking"] = by_popularity()
    return found


@plain_defaults()
def evaluate_run(
    output: Path,
    data_root: Path | None = None,
    threads: int | None = None,
    device: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate a finished run again; returns the metrics of now and those in `metrics.json`.

    Args:
        output: the run's folder.
        data_root: folder of the data sets now, if they were moved.
        threads: CPU threads, if not the run's option.
        device: "auto", "cpu" or "cuda", if not the run's.

    Raises:
        DataError: no finished run, or the data are not those that it was trained on.
    """
    stored = run_folder.load_metrics(output)
    run_folder.check_run(output, stored, (run_folder.CONFIG_FILE, run_folder.MODEL_FILE))
    changes = {"threads": threads, "device": device}
    given = {name: value for name, value in changes.items() if value is not None}
    config = resolve({**moved(run_folder.read_config(output), data_root), **given})
    config, prepared, graph = load(config, Stopwatch())
    if config.refit:
        prepared = with_validation(prepared)
    model = build.build_model(config, prepared, graph)
    stage, data_hash = run_folder.load_model(output, model)
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

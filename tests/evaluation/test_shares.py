"""Evaluation by several processes: metrics are the bits of one process's."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.config import ModelConfig, RunConfig
from ekpnet_fast.data import make_synthetic
from ekpnet_fast.data.tables import Examples
from ekpnet_fast.evaluation import scoring
from ekpnet_fast.evaluation.metrics import auc, click_metrics, gauc
from ekpnet_fast.evaluation.ranking import report_ranking
from ekpnet_fast.evaluation.shares import all_shares, share_of
from ekpnet_fast.models import MODELS
from ekpnet_fast.models.build import build_model, sample_ripple_sets
from ekpnet_fast.runs.evaluate import prepare_run
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.training.data import TrainingData
from support.small_training import SYNTHETIC
from support.thread_worlds import run_together

CONFIG = RunConfig(
    shape=ModelConfig(width=6, hops=2, slots=8, layers=3), synthetic=SYNTHETIC, threads=1
)
QUICK = ("ekpnet", "mf", "ripplenet", "kgcn")
STAGED = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name, kind in MODELS.items()
    if kind.stages and not kind.uncut
]
SIZES = (2, 3, 7)


@pytest.mark.parametrize(
    "lengths",
    [[], [0, 0], [5], [1, 1, 1], [100, 1, 1, 1], [1, 1, 1, 100], [0, 3, 0, 9, 2, 0, 7, 1]],
)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
def test_shares_are_all_users_once_and_in_order(lengths, size):
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64) + 5
    shares = [share_of(indptr, rank, size) for rank in range(size)]
    users = [user for share in shares for user in range(share.start, share.stop)]
    assert users == list(range(len(lengths)))
    most = max(lengths, default=0)
    for share in shares:
        pairs = int(indptr[share.stop] - indptr[share.start])
        assert pairs <= sum(lengths) / size + most


def uneven(rows):
    """The same examples without most of those of most users, so that shares differ."""
    kept = (rows.users % 7 == 0) | (np.arange(len(rows)) % 11 == 0)
    return Examples(rows.users[kept], rows.items[kept], rows.labels[kept])


@pytest.mark.parametrize("model", STAGED)
def test_processes_find_what_one_finds(model, threads):
    threads(1)
    config = resolve(replace(CONFIG, model=model))
    config, prepared, graph = prepare_run(config, make_synthetic(config.synthetic))
    prepared = replace(prepared, test=uneven(prepared.test))
    made = build_model(config, prepared, graph)
    made.fit_features(TrainingData(config, prepared, graph).training_examples)
    stage = made.stages[-1]
    rows = scoring.examples_by_user(prepared.test, prepared)
    num_items = prepared.dataset.num_items

    def found(ripple, together=None):
        given = {} if together is None else {"together": together}
        scores = scoring.score_examples(ops, made, ripple, rows, stage=stage, **given)
        scorer = scoring.catalogue_scorer(ops, made, ripple, num_items, stage=stage)
        ranking = report_ranking(scorer, prepared, (1, 5, 20), **given)
        return scores, asdict(click_metrics(prepared.test, scores, prepared)), ranking

    scores, clicks, ranking = found(sample_ripple_sets(config, graph, prepared))
    for size in SIZES:
        sets = sample_ripple_sets(config, graph, prepared, lazy=True)
        for theirs in run_together(size, lambda world, sets=sets: found(sets, world)):
            assert np.array_equal(theirs[0], scores)
            assert theirs[1] == clicks and theirs[2] == ranking


def test_what_others_get_wrong_would_be_seen():
    """Means of shares' metrics, and users added so that shares are even, give other numbers."""
    draw = np.random.default_rng(0)
    lengths = np.array([3, 50, 4, 2, 6, 30, 5, 2, 3, 41])
    users = np.repeat(np.arange(10), lengths)
    labels = (draw.random(len(users)) < 0.4).astype(np.int8)
    scores = (draw.random(len(users)) + labels * draw.random(10)[users]).astype(np.float32)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    shares = [share_of(indptr, rank, 3) for rank in range(3)]
    pieces = [slice(int(indptr[share.start]), int(indptr[share.stop])) for share in shares]
    assert len({piece.stop - piece.start for piece in pieces}) > 1
    metrics = (
        lambda at: auc(labels[at], scores[at]),
        lambda at: gauc(users[at], labels[at], scores[at]),
    )
    for metric in metrics:
        whole = metric(slice(None))
        assert np.mean([metric(piece) for piece in pieces]) != pytest.approx(whole, abs=1e-3)
    longest = max(piece.stop - piece.start for piece in pieces)
    padded = np.concatenate([np.resize(np.arange(len(users))[piece], longest) for piece in pieces])
    assert auc(labels[padded], scores[padded]) != pytest.approx(auc(labels, scores), abs=1e-3)

    def together(world):
        counts = [piece.stop - piece.start for piece in pieces]
        mine = torch.from_numpy(scores[pieces[world.rank]])
        return all_shares(mine, counts, world).numpy()

    for found in run_together(3, together):
        assert auc(labels, found) == auc(labels, scores)
        assert gauc(users, labels, found) == gauc(users, labels, scores)

"""Folds of the wide part that processes share."""

from __future__ import annotations

import gc
from dataclasses import replace
from weakref import WeakSet

import pytest
import torch

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import make_synthetic
from ekpnet_fast.models.build import build_model
from ekpnet_fast.models.wide import folds, part
from ekpnet_fast.runs.evaluate import prepare_run
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.training.data import TrainingData
from support import small_training
from support.thread_worlds import run_together


def drawn(protocol, objective):
    """Training of EKPNet+ on drawn data."""
    options = RunConfig(
        model="ekpnet_plus",
        folds=5,
        synthetic=small_training.SYNTHETIC,
        protocol=protocol,
        ranking=protocol == "recbole",
        options=part.LinearOptions(objective=objective),
        train=replace(small_training.STAGE, epochs=1),
    )
    config = resolve(options)
    return TrainingData(*prepare_run(config, make_synthetic(config.synthetic)))


@pytest.mark.parametrize(("protocol", "objective"), [("ripplenet", "click"), ("recbole", "list")])
@pytest.mark.parametrize(("rows", "of_lists"), [(1 << 20, 5), (1 << 14, 2), (500, 1)])
def test_processes_share_folds_and_change_no_bit(
    protocol, objective, rows, of_lists, monkeypatch, threads
):
    """Where the weights are fitted to all folds, and to the first ones.

    Affinities are made once of each fold, and candidates of those that the weights are fitted to.
    """
    threads(1)
    for module in (folds, part):
        monkeypatch.setattr(module, "FITTED_ROWS", rows)
    data = drawn(protocol, objective)
    made, nominated = [], []

    def count(self):
        made.append(self)
        return affinities(self)

    def count_candidates(*arguments):
        nominated.append(arguments)
        return candidate_rows(*arguments)

    affinities = folds.Fold.affinities.func
    monkeypatch.setattr(folds.Fold.affinities, "func", count)
    candidate_rows = folds.candidate_rows
    monkeypatch.setattr(folds, "candidate_rows", count_candidates)

    def fit(world=None):
        model = build_model(data.config, data.prepared, data.graph)
        model.fit_features(data.training_examples, *([] if world is None else [world]))
        return model.linear

    alone = fit()
    expected = of_lists if objective == "list" else 0
    assert len(made) == 5 and len(nominated) == expected
    assert alone._of_rows.std() > 0 and alone.weight.any()
    for size in (2, 3, 8):
        made.clear()
        nominated.clear()
        for linear in run_together(size, fit):
            assert torch.equal(linear._of_rows, alone._of_rows)
            for name, x in alone.state_dict().items():
                assert torch.equal(x, linear.state_dict()[name]), name
        assert len(made) == 5 and len(nominated) == expected


@pytest.mark.parametrize(("protocol", "objective"), [("ripplenet", "click"), ("recbole", "list")])
def test_affinities_of_a_fold_are_given_up_with_its_logits(protocol, objective, monkeypatch):
    """Of rows that are drawn once, features stay in their place."""
    data = drawn(protocol, objective)
    made, left = WeakSet(), []
    affinities, of_fold = folds.Fold.affinities.func, part.LinearPart._of_fold

    def seen(self):
        found = affinities(self)
        made.add(found)
        return found

    def counted(self, fold, items):
        gc.collect()
        left.append(len(made))
        return of_fold(self, fold, items)

    monkeypatch.setattr(folds.Fold.affinities, "func", seen)
    monkeypatch.setattr(part.LinearPart, "_of_fold", counted)
    model = build_model(data.config, data.prepared, data.graph)
    model.fit_features(data.training_examples)
    gc.collect()
    assert left == ([0] * 5 if protocol == "ripplenet" else [5, 4, 3, 2, 1])
    assert not made

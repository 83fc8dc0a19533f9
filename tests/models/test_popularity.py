"""Item popularity."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ekpnet_fast.runs import evaluate
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.training import loop
from support.small_training import CONFIG, load


def test_is_the_popularity_row():
    config = resolve(replace(CONFIG, model="popularity", ranking=True))
    prepared, graph = load(config)
    outcome = loop.train(config, prepared, graph)
    found = evaluate.evaluate(config, prepared, graph, outcome)
    assert outcome.records == []
    assert found["test"] == found["popularity"]
    assert found["ranking"] == found["popularity_ranking"]


def test_monotone_in_the_count():
    config = resolve(replace(CONFIG, model="popularity"))
    prepared, graph = load(config)
    model = loop.train(config, prepared, graph).model
    counts = torch.bincount(
        torch.from_numpy(prepared.history_items), minlength=prepared.dataset.num_items
    )
    order = torch.argsort(counts, stable=True)
    steps, gains = counts[order].diff(), model.logit[order].diff()
    assert (gains[steps > 0] > 0).all() and (gains[steps == 0] == 0).all()
    odds = torch.exp(model.logit.double())
    ratio = odds / (counts + 0.5)
    assert ratio.tolist() == pytest.approx([float(ratio[0])] * len(ratio), rel=1e-5)

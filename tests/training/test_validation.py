"""Validation on a GPU: the same number as on the CPU, for which the host waits once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.evaluation.metrics import auc
from ekpnet_fast.models import build
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.training import validation as module
from ekpnet_fast.training.data import TrainingData
from ekpnet_fast.training.parallel.world import World
from ekpnet_fast.training.validation import Validation, auc_on_device, validated_users
from support.pretended_gpu import pretended_gpu
from support.small_training import CONFIG, PLUS, SYNTHETIC, load, train


def on_device(labels, scores):
    positive = torch.from_numpy(labels) == 1
    places = (x.nonzero().squeeze(1) for x in (positive, ~positive))
    with pretended_gpu() as gpu:
        moved = [x.cuda() for x in (torch.from_numpy(scores), *places)]
        gpu.counts.clear()
        found = auc_on_device(*moved)
        assert gpu.counts["waits"] == 1 and gpu.counts["copies"] == 0
    return found


@pytest.mark.parametrize("levels", [1, 2, 30, 10**6])
def test_auc_is_that_of_the_cpu(levels):
    draw = np.random.default_rng(levels)
    labels = draw.integers(0, 2, 1001).astype(np.int8)
    scores = (draw.integers(-levels, levels, 1001) / 7).astype(np.float32)
    scores[:4] = [-math.inf, math.inf, -0.0, 0.0]
    assert on_device(labels, scores) == auc(labels, scores)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_auc(label):
    assert math.isnan(on_device(np.full(3, label, np.int8), np.zeros(3, np.float32)))


def test_nan_is_refused():
    scores = np.float32([0, math.nan, 1, math.nan])
    with pytest.raises(TrainingError, match="found 2 NaN among 4 scores"):
        on_device(np.int8([0, 1, 0, 1]), scores)


@pytest.mark.parametrize("config", [CONFIG, PLUS], ids=["ekpnet", "plus"])
def test_pairs_stay_on_the_device(config):
    """From the second validation on nothing is copied to the device."""
    config = resolve(config)
    data = TrainingData(config, *load(config))
    model = build.build_model(config, data.prepared, data.graph)
    model.fit_features(data.training_examples)
    with pretended_gpu() as gpu:
        gpu_model = model.to("cuda")
        validation = Validation(data, gpu_model, ops, torch.device("cuda"), World())
        expected = validation.score("train")
        gpu.counts.clear()
        assert validation.score("train") == expected
        assert gpu.counts["waits"] == 1 and gpu.counts["copies"] == 0


@pytest.mark.parametrize(
    ("items", "trained", "users"),
    [
        (30_000, None, 1118),
        (30_000, 2_000_000, 1066),  # 16 pairs are scored for each that is trained on
        (30_000, 20_000_000, 1118),
        (3_846, 34_000, 256),  # no fewer
        (10**6, 34_000, 33),
        (10**9, 1, 1),
    ],
)
def test_users_that_choose_epochs(items, trained, users):
    assert validated_users(items, trained) == users


@pytest.mark.parametrize(
    ("model", "users"), [("mf", 60), ("ekpnet", 60), ("ripplenet", 12), ("ekp_att", 12)]
)
def test_models_that_score_every_pair_validate_fewer_users(monkeypatch, model, users):
    """Those of which lists can be made without scoring every item validate as many as before."""
    monkeypatch.setattr(module, "LEAST_USERS", 5)
    monkeypatch.setattr(module, "SCORED_PER_TRAINED", 1)
    options = {"protocol": "recbole", "shape.width": 6, "synthetic": vars(SYNTHETIC)}
    config = resolve({**options, "model": model, "epochs": 1})
    seen = []
    outcome = train(config, seen.append)
    assert outcome.validated_users == users
    assert {progress.validated_users for progress in seen} == {users}

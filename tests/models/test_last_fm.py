"""What each model reaches on Last.FM, by its default preset cut short."""

from __future__ import annotations

import statistics

import pytest

from ekpnet_fast import run
from ekpnet_fast.options import parse_run

# Model, options, mean test AUC over seeds 0, 1, 2, and how far from it a mean may be. Measured as
# the test does; popularity alone is at 0.798.
STATED = [
    ("cke", ["--epochs", "20"], 0.806, 0.008),
    ("wide_deep", [], 0.7957, 0.008),
    ("ripp_mkr", ["--train.epochs", "3"], 0.8063, 0.01),
    ("kgcn", ["--train.epochs", "15"], 0.7087, 0.01),
]


@pytest.mark.data
@pytest.mark.parametrize(
    ("model", "options", "stated", "spread"), STATED, ids=[row[0] for row in STATED]
)
def test_auc(model, options, stated, spread, data_root, threads):
    threads(1)
    aucs = []
    for seed in range(3):
        given = ["--model", model, "--dataset", "last-fm", "--data-root", str(data_root)]
        config = parse_run([*given, "--seed", str(seed), "--ranking", "false", *options])
        aucs.append(run.run(config)["test"]["auc"])
    assert statistics.mean(aucs) == pytest.approx(stated, abs=spread), aucs

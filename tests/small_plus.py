"""A small run of EKPNet+ and its linear part, for the tests of either."""

from __future__ import annotations

from dataclasses import replace

from ekpnet_fast.config import ModelConfig, RunConfig, StageConfig
from ekpnet_fast.data import SyntheticConfig, make_synthetic, prepare
from ekpnet_fast.evaluation import scoring
from ekpnet_fast.models import MODELS, build
from ekpnet_fast.sampling.folds import Folds
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.rows import TrainingRows

STAGE = StageConfig(epochs=2, batch_size=64, group_size=8, triples=16, lr=0.01)
CONFIG = RunConfig(
    folds=5,
    shape=ModelConfig(width=4, hops=2, slots=6, layers=2),
    pretrain=STAGE,
    train=STAGE,
    synthetic=SyntheticConfig(
        users=60, items=80, positives=10, attributes=16, parents=4, triples=435, item_links=4
    ),
)


def load(config=CONFIG):
    dataset = make_synthetic(config.synthetic)
    return prepare(dataset, config.seed), Graph.from_dataset(dataset, inverse=True)


def with_options(model, **changes):
    kind = MODELS[model].Options
    return replace(CONFIG, model=model, options=kind(**changes)).resolved()


def fit_linear():
    """A linear model, and the rows that it was fitted to."""
    prepared, graph = load()
    config = with_options("linear")
    model = build.build_model(config, prepared, graph)
    folds = Folds.cut(scoring.rows_by_user(prepared.train, prepared), 5, config.seed)
    model.begin(TrainingRows(folds.rows, folds.histories, 5))
    return model, prepared, graph, folds

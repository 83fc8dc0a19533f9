"""Which runs a table asks for, and with which options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ekpnet_fast.data import SyntheticConfig, make_synthetic
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.experiments import plan as planning
from ekpnet_fast.experiments.plan import Cell, Plan, Settings
from ekpnet_fast.models import MODELS
from ekpnet_fast.models.ekpnet import EKPNet
from ekpnet_fast.runs.resolve import resolve


def plan_of(**settings):
    return Plan(Settings(output=Path("unused"), data_root=Path("nowhere"), **settings))


def test_table_1_needs_no_run():
    assert plan_of().cells("table1") == []


@pytest.fixture
def models(monkeypatch):
    """Leaves only some models in the registry that the plans look at."""

    def leave(*names):
        monkeypatch.setattr(planning, "MODELS", {name: MODELS.get(name, EKPNet) for name in names})

    return leave


def test_a_table_is_data_sets_by_models_by_seeds(models):
    models("ekpnet", "ekp_no", "mf", "kgcn", "popularity", "ekp_att", "ekp_frame")
    plan = plan_of(datasets=("last-fm", "book-crossing"), seeds=2)
    for table in ("table3", "table5", "figure4", "figure5", "figure6"):
        assert plan.cells(table) == [
            Cell(dataset, model, seed)
            for dataset in ("last-fm", "book-crossing")
            for model in (
                "popularity",
                "mf",
                "kgcn",
                "ekpnet",
            )  # of those that can be run, in the paper's order
            for seed in (0, 1)
        ]
    assert {cell.model for cell in plan.cells("table4")} == {
        *("popularity", "ekp_no", "ekp_att", "ekp_frame", "ekpnet")
    }


def test_models_may_be_chosen():
    plan = plan_of(datasets=("last-fm",), models=("ekp_att",), seeds=1)
    popularity = Cell("last-fm", "popularity", 0)
    assert plan.cells("table4") == [popularity, Cell("last-fm", "ekp_att", 0)]
    assert plan.cells("table3") == [popularity]
    assert plan.cells("figure7") == []


def test_figure_7_shares_what_it_can():
    plan = plan_of(datasets=("last-fm",), seeds=1)
    cells = plan.cells("figure7")
    # 3 activations by 6 depths; without a hidden layer the activation makes no difference.
    assert len(cells) == len(set(cells)) == 3 * 5 + 1 + 1  # and popularity
    layers = resolve({"dataset": "last-fm"}).shape.layers
    assert plan.shape_cell("last-fm", "tanh", layers, 0) == Cell("last-fm", "ekpnet", 0)
    assert plan.cells("table3")[-1] in cells
    config = plan.config(Cell("last-fm", "ekpnet", 0, "relu", 6))
    assert (config.shape.activation, config.shape.layers) == ("relu", 6)
    assert config.shape.width == plan.config(Cell("last-fm", "ekpnet", 0)).shape.width


def test_threads_are_named_also_where_none_are_given(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # or what the machine has
    assert plan_of().config(Cell("last-fm", "ekpnet", 0)).threads == 3


def test_options_of_a_run():
    plan = plan_of(preset="paper", threads=3, device="cpu")
    config = plan.config(Cell("movielens-1m", "ekpnet", 2))
    assert (config.dataset, config.model, config.seed) == ("movielens-1m", "ekpnet", 2)
    assert (config.threads, config.device, config.data_root) == (3, "cpu", Path("nowhere"))
    assert config.pretrain.lambda2 == EKPNet.presets["paper"]["movielens-1m"]["pretrain.lambda2"]
    assert config.output is None and config == resolve(config)
    with pytest.raises(ConfigError, match="not for last-fm"):
        plan.config(Cell("last-fm", "ekpnet", 0))
    # What has no such preset takes its own.
    assert plan.config(Cell("last-fm", "mf", 0)).preset == "default"


def test_only_what_is_shown_is_ranked():
    plan = plan_of()
    ranked = {
        cell: plan.config(cell).ranking
        for cell in (
            Cell("last-fm", "ekpnet", 0),
            Cell("last-fm", "ekp_att", 0),
            Cell("last-fm", "ekpnet", 0, "relu", 6),
        )
    }
    assert list(ranked.values()) == [True, False, False]


def test_the_ranking_protocol_ranks_everything():
    plan = plan_of(protocol="recbole")
    for cell in (Cell("last-fm", "ekp_att", 0), Cell("last-fm", "ekpnet", 0, "relu", 6)):
        config = plan.config(cell)
        assert (config.protocol, config.ranking) == ("recbole", True)


def test_quick_is_short():
    plan = plan_of(quick=True, datasets=("last-fm",), seeds=2)
    config = plan.config(Cell("last-fm", "ekpnet", 0))
    assert (config.pretrain.epochs, config.train.epochs) == (1, 1)
    assert len(plan.cells("figure7")) < len(plan_of(datasets=("last-fm",)).cells("figure7")) / 2


def test_what_cannot_be_run_is_refused():
    with pytest.raises(ConfigError, match="--seeds is 0, expected at least 1"):
        plan_of(seeds=0)
    with pytest.raises(ConfigError, match=r"unknown model 'ekpnett', .*; did you mean ekpnet\?"):
        plan_of(models=("ekpnett",))


def test_a_system_without_code_is_refused(models):
    models("ekpnet", "popularity")
    with pytest.raises(ConfigError, match="kcan is not built yet, expected some of popularity, ek"):
        plan_of(models=("kcan",))


def test_model_that_a_data_set_cannot_serve_is_left_out():
    config = SyntheticConfig(
        users=60, items=80, positives=10, attributes=16, parents=4, triples=435
    )
    titled = make_synthetic(config)
    datasets = [titled, replace(titled, item_names=None)]
    settings = Settings(output=Path("unused"), datasets=("titled", "bare"), seeds=1)
    found = Plan(settings, datasets)
    assert found.lacking == {("bare", "dkn"): "titles"}
    rows = {cell.dataset for cell in found.cells("table3") if cell.model == "dkn"}
    assert rows == {"titled"}

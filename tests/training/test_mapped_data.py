"""Training on mapped files, and on ripple sets that are drawn when they are asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ekpnet_fast.data import load_dataset, make_synthetic, prepare
from ekpnet_fast.data.formats.imported import write_imported
from ekpnet_fast.models import build
from ekpnet_fast.runs.evaluate import evaluate
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.ripple_sets import LazyRippleSets, RippleSets
from ekpnet_fast.training import loop
from support.small_training import CONFIG, PLUS, SYNTHETIC


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mapped") / "drawn"
    write_imported(make_synthetic(SYNTHETIC), folder, {}, overwrite=False)
    return load_dataset(str(folder))


def in_memory(dataset):
    """The same data set with arrays and texts of its own, and no graph."""
    rows = dataset.rows
    return replace(
        dataset,
        rows=replace(rows, **{name: getattr(rows, name).copy() for name in ("users", "items")}),
        **{name: getattr(dataset, name).copy() for name in ("heads", "relations", "tails")},
        **{name: tuple(getattr(dataset, name)) for name in ("item_names", "entity_ids")},
        graph=None,
    )


def trained(config, dataset):
    config = resolve(config)
    prepared = prepare(dataset, config.seed, config.protocol)
    graph = Graph.from_dataset(dataset, inverse=config.sampling.inverse)
    outcome = loop.train(config, prepared, graph)
    metrics = evaluate(replace(config, ranking=True), prepared, graph, outcome)
    return prepared.hash, outcome.model.state_dict(), metrics


def assert_equal_bits(found, expected):
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, values in expected[1].items():
        assert torch.equal(found[1][name], values), name
    assert found[2] == expected[2]


@pytest.mark.parametrize("inverse", [True, False])
@pytest.mark.parametrize("config", [CONFIG, PLUS], ids=lambda config: config.model)
def test_mapped_data_train_as_data_in_memory(mapped, config, inverse):
    assert mapped.graph.inverse and isinstance(mapped.heads.base, np.memmap)
    config = replace(config, sampling=replace(config.sampling, inverse=inverse))
    assert_equal_bits(trained(config, mapped), trained(config, in_memory(mapped)))


def test_a_drawn_data_set_and_its_import_have_one_hash(mapped):
    drawn = make_synthetic(SYNTHETIC)
    assert prepare(mapped, 3).hash == prepare(drawn, 3).hash
    for inverse in (True, False):
        graphs = [Graph.from_dataset(data, inverse=inverse) for data in (mapped, drawn)]
        for name in ("indptr", "relations", "tails"):
            assert torch.equal(*(getattr(graph, name) for graph in graphs))


@pytest.mark.parametrize(
    ("config", "sampling"),
    [
        (CONFIG, {}),
        (CONFIG, {"resample": True}),
        (CONFIG, {"padding": "repeat", "inverse": False}),
        (PLUS, {"resample": True}),
    ],
    ids=["of users", "redrawn", "repeated", "of folds"],
)
def test_sets_drawn_when_asked_for_are_those_of_all(mapped, monkeypatch, config, sampling):
    config = replace(config, sampling=replace(config.sampling, **sampling))
    held = trained(config, mapped)
    monkeypatch.setattr(build, "HELD_BYTES", 0)
    prepared = prepare(mapped, config.seed, config.protocol)
    graph = Graph.from_dataset(mapped, inverse=config.sampling.inverse)
    sets = build.sample_ripple_sets(resolve(config), graph, prepared)
    assert isinstance(sets, LazyRippleSets)
    assert_equal_bits(trained(config, mapped), held)


@pytest.mark.parametrize("repeat", [False, True])
def test_a_set_does_not_depend_on_whose_are_drawn_with_it(mapped, repeat):
    prepared = prepare(mapped, 0)
    graph = Graph.from_dataset(mapped, inverse=True)
    histories = Histories(*map(torch.from_numpy, (prepared.history_indptr, prepared.history_items)))
    how = {"hops": 3, "slots": 5, "seed": 7, "epoch": 2, "repeat": repeat}
    every = RippleSets.sample(graph, histories.indptr, histories.items, **how)
    lazy = LazyRippleSets(graph, histories, **how)
    for ids in ([5], [59, 0, 5, 5, 17], list(range(60)), []):
        users = torch.tensor(ids, dtype=torch.int64)
        found, expected = lazy.of_users(users), every.of_users(users)
        for name in ("heads", "relations", "tails", "counts"):
            assert torch.equal(getattr(found, name), getattr(expected, name))

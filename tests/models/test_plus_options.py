"""EKPNet+'s options that draw: what each adds to the logit or the loss, by plain loops."""

from __future__ import annotations

import re
import types
from dataclasses import replace

import numpy as np
import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.evaluation import scoring
from ekpnet_fast.models import build
from ekpnet_fast.models.ekpnet_plus import EKPNetPlusOptions
from ekpnet_fast.models.linear import LinearOptions
from ekpnet_fast.models.wide.affinity import Affinities, Knowledge
from ekpnet_fast.ops import reference
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.pairs import Request
from ekpnet_fast.sampling.rows import TrainingRows
from ekpnet_fast.training import loop
from support.contracts import threads
from support.small_plus import fit_linear, load, with_options

DRAWING = {"mf": {"mf": 4}, "clicked_with": {"clicked_with": 3}, "item_side": {"item_side": 5}}


def scored(model, config, prepared, graph, users, ends, items):
    """Logits of pairs by whole tables, and the pairs."""
    sets = build.sample_ripple_sets(config, graph, prepared)
    pairs = scoring.scored_pairs(model, sets, users, ends, items)
    tables = {name: model.table(name) for name in model.spaces}
    return model.logits(ops, tables, pairs, stage="pretrain").detach(), pairs


@pytest.fixture(scope="module")
def fitted():
    return fit_linear()


@pytest.mark.parametrize("option", DRAWING)
def test_what_an_option_adds(option, fitted):
    """To the logit without it, by plain loops in float64."""
    _, prepared, graph, folds = fitted
    config = with_options("ekpnet_plus", **DRAWING[option])
    model = build.build_model(config, prepared, graph)
    model.begin(TrainingRows(folds.rows, folds.histories, 5))
    model.entity.mul_(10)
    model.relation.data.mul_(5)
    users, ends = np.arange(3, dtype=np.int32), torch.tensor([0, 2, 3, 6])
    items = torch.tensor([1, 2, 3, 1, 5, 2], dtype=torch.int32)
    found, pairs = scored(model, config, prepared, graph, users, ends, items)
    model.options = EKPNetPlusOptions()
    without, _ = scored(model, config, prepared, graph, users, ends, items)
    inputs = pairs.inputs
    v, gamma = model.entity.double().unbind(1)
    W_e, b_e = model.W_e.detach().double(), model.b_e.detach().double()

    def eq_15(relation, heads, relations, tails, query):
        """The match of one hop: psi(x) = gamma_r (gamma_x . x), as the reference computes it."""
        table = torch.stack([torch.cat([v, query[None]]), torch.cat([gamma, 0 * query[None]])], 1)
        one = torch.tensor([[[len(heads)]]])
        _, match = reference.ripple_attention(
            table, relation.detach().double(), W_e, b_e,
            heads.view(1, 1, -1), relations.view(1, 1, -1), tails.view(1, 1, -1),
            one.view(1, 1).int(), torch.tensor([0, 1]), torch.tensor([len(v)]).int(),
        )  # fmt: skip
        return float(match)

    for pair, item in enumerate(items.tolist()):
        group = int(torch.searchsorted(ends, pair, right=True)) - 1
        if option == "clicked_with":
            n = int(inputs["with_counts"][group, 0])
            heads, relations, tails = (
                inputs[f"with_{x}"][group, 0, :n] for x in ("heads", "relations", "tails")
            )
            assert not relations.any() and set(heads.tolist()) <= clicked_by(prepared, group)
            expected = eq_15(model.with_relation, heads, relations, tails, v[item])
        else:
            clicked = inputs["clicked"][group, : inputs["clicked_counts"][group]].long()
            assert set(clicked.tolist()) <= clicked_by(prepared, group)
            if option == "mf":
                user = model.mf_clicked.double()[clicked].mean(0)
                expected = float(user @ model.mf_item.double()[item])
            else:
                at = int(inputs["item_of"][pair])
                n = int(inputs["item_counts"][at, 0])
                heads, relations, tails = (
                    inputs[f"item_{x}"][at, 0, :n] for x in ("heads", "relations", "tails")
                )
                assert set(heads.tolist()) == {item}
                expected = eq_15(model.relation, heads, relations, tails, v[clicked].mean(0))
        assert float(found[pair] - without[pair]) == pytest.approx(expected, rel=2e-3, abs=1e-4)


def clicked_by(prepared, user):
    first, last = prepared.history_indptr[user : user + 2]
    return set(prepared.history_items[first:last].tolist())


def test_what_was_clicked_together_is_cross_fitted(fitted):
    """The tails that a training row sees were clicked with its heads outside its fold."""
    _, prepared, graph, folds = fitted
    model = build.build_model(with_options("ekpnet_plus", clicked_with=4), prepared, graph)
    model.begin(TrainingRows(folds.rows, folds.histories, 5))
    ids = torch.nonzero(folds.rows.indptr.diff()).squeeze(1)[:60].int()
    request = Request(
        ids // 5, torch.arange(61), torch.zeros(60, dtype=torch.int32), 1,
        histories=folds.histories, ids=ids, folds=5, rows=torch.zeros(60, dtype=torch.int64),
    )  # fmt: skip
    inputs = model.inputs(request)
    seen = 0
    for group, owner in enumerate(ids.tolist()):
        outside = [
            set(folds.histories.of(torch.tensor([n])).items.tolist())
            for n in range(owner % 5, len(folds.histories), 5)
        ]
        n = int(inputs["with_counts"][group, 0])
        for head, tail in zip(
            inputs["with_heads"][group, 0, :n].tolist(),
            inputs["with_tails"][group, 0, :n].tolist(),
            strict=True,
        ):
            assert head in outside[owner // 5]
            assert any({head, tail} <= history for history in outside)
            seen += 1
    assert seen > 100


def test_most_clicked_together_come_first():
    """By hand: item 0 with 1 twice and with 2 once, in histories of two or three."""
    clicks = [[0, 1], [0, 1, 2], [2, 3], [4]]
    histories = Histories(
        torch.tensor([0, 2, 5, 7, 8]), torch.tensor([i for some in clicks for i in some]).int()
    )
    none = np.zeros(0, dtype=np.int32)
    graph = Graph.from_triples(none, none, none, 6, 1)
    found = Affinities(histories, Knowledge(graph, 6), LinearOptions().signals)
    one, two = found.clicked_with(1), found.clicked_with(2)
    assert one.indptr.diff().tolist() == [1, 1, 1, 1, 0, 0]
    assert one.tails.tolist() == [1, 0, 3, 2]
    # Item 2: with 3 by 1/2 / sqrt(2 * 1), with 0 and 1 by 1/3 / sqrt(2 * 2) each.
    assert sorted(two.tails[two.indptr[2] : two.indptr[3]].tolist()) == [0, 3]


def test_the_contrastive_term_is_info_nce(fitted):
    _, prepared, graph, folds = fitted
    losses = {}
    for weight in (0.0, 0.5, 1.0):
        config = with_options("ekpnet_plus", contrast=weight)
        model = build.build_model(config, prepared, graph)
        model.begin(TrainingRows(folds.rows, folds.histories, 5))
        request = Request(
            torch.zeros(1, dtype=torch.int32), torch.tensor([0, 9]), torch.arange(9).int(), 1
        )
        inputs = model.inputs(request)
        nothing = torch.zeros(0, dtype=torch.int32)
        batch = types.SimpleNamespace(
            inputs=inputs, triple_heads=nothing, triple_relations=nothing,
            triple_tails=nothing, triple_labels=nothing.to(torch.int8),
        )  # fmt: skip
        losses[weight] = model.kg_sum(ops, {"entity": model.entity}, batch, stage="train").item()
    assert losses[0.0] == 0 and "view_near" in inputs
    v = model.entity[:, 0].double()
    near, together = [], []
    for row in range(len(inputs["view_near"])):
        n, m = int(inputs["view_near_counts"][row]), int(inputs["view_with_counts"][row])
        if n and m:
            near.append(v[inputs["view_near"][row, :n].long()].mean(0))
            together.append(v[inputs["view_with"][row, :m].long()].mean(0))
    a, b = (torch.nn.functional.normalize(torch.stack(x), dim=1) for x in (near, together))
    target = torch.arange(len(a))
    expected = torch.nn.functional.cross_entropy(a @ b.T / 0.2, target, reduction="sum")
    assert losses[1.0] == pytest.approx(float(expected), rel=1e-4)
    assert losses[0.5] == pytest.approx(losses[1.0] / 2, rel=1e-5)


ALL = {"clicked": True, "contrast": 0.5, "mf": 4, "clicked_with": 3, "item_side": 5}


@pytest.mark.parametrize("changes", [*DRAWING.values(), {"contrast": 0.5}, ALL])
def test_options_that_draw_train_the_same_bits_at_any_number_of_threads(changes):
    prepared, graph = load()
    config = with_options("ekpnet_plus", **changes)
    found = []
    for count in (1, 4):
        with threads(count):
            found.append(loop.train(config, prepared, graph).model.state_dict())
    default = loop.train(with_options("ekpnet_plus"), prepared, graph).model
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name
    assert not torch.equal(found[0]["entity"], default.entity)


def test_items_are_asked_for_by_more_users_than_there_are_rows(fitted):
    _, prepared, graph, folds = fitted
    config = with_options("ekpnet_plus", item_side=4)
    model = build.build_model(config, prepared, graph)
    model.begin(TrainingRows(folds.rows, folds.histories, 5))
    G = graph.num_entities + 5
    users = np.arange(G, dtype=np.int32) % prepared.dataset.num_users
    items = torch.zeros(G, dtype=torch.int32)
    found, _ = scored(model, config, prepared, graph, users, torch.arange(G + 1), items)
    assert found.isfinite().all() and found.shape == (G,)


def test_masked_slots_touch_nothing_besides(fitted):
    """Every id that the options give is of an item or entity that some valid slot or pair names."""
    _, prepared, graph, folds = fitted
    model = build.build_model(with_options("ekpnet_plus", **ALL), prepared, graph)
    model.begin(TrainingRows(folds.rows, folds.histories, 5))
    items = torch.arange(10, 18).int()
    request = Request(torch.arange(4).int(), torch.arange(5) * 2, items, 1)
    inputs = model.inputs(request)
    for name in model.input_spaces:
        of = "clicked" if name == "clicked_items" else re.sub("_(heads|tails)$", "", name)
        counts = inputs[f"{of}_counts"]
        valid = torch.arange(inputs[name].shape[-1]) < counts.unsqueeze(-1)
        assert set(inputs[name][~valid].tolist()) <= set(items.tolist()), name


def test_contrast_needs_a_weight():
    with pytest.raises(ConfigError, match=r"contrast is 0.5 but --train.lambda1 is 0, expected"):
        config = with_options("ekpnet_plus", contrast=0.5)
        replace(config, train=replace(config.train, lambda1=0.0)).resolved()
    with pytest.raises(ConfigError, match=r"--ekpnet_plus.item_side is 65, expected 0 to 64"):
        with_options("ekpnet_plus", item_side=65)

"""Reasons: what paths are, what they do, how they are told, drawn and measured."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models import MODELS
from ekpnet_fast.ops import reference
from ekpnet_fast.recommender import Recommender
from ekpnet_fast.recommender.reasons import masked_logits, paths_of
from ekpnet_fast.sampling.ripple_sets import RippleSets
from support.cinema import NAMES, cinema, fitted

RIPPLE = [name for name in MODELS if MODELS[name].ripple]


def everything(recommender, history, item):
    """State, query, ripple sets and entity of a question."""
    state = recommender._state
    query = state.of_histories([np.array([state.items.number(i) for i in history])])
    return state, query, state.ripple_sets(query), state.items.number(item)


def test_paths_by_hand(recommender):
    """Dune leads to its genre, and from there to the films of the genre."""
    _, paths = paths_of(*everything(recommender, ["dune"], "alien"))
    found = {(p.hop, p.head, p.relation, p.tail) for p in paths}
    assert found == {(0, 3, 1, 7), (1, 7, 4, 0), (1, 7, 4, 1), (1, 7, 4, 3)}
    assert all(len(p.slots) == 1 for p in paths)
    assert [p.effect for p in paths] == sorted((p.effect for p in paths), reverse=True)
    by_hop = [sum(p.attention for p in paths if p.hop == hop) for hop in (0, 1)]
    assert by_hop == pytest.approx([1, 1])


@pytest.mark.parametrize("model", ["ekpnet", "ekp_no"])
def test_effect_is_the_logit_without_the_triple(model):
    """Against the reference, on sets that are written down without the triple."""
    recommender = fitted(model)
    state, query, sets, entity = everything(recommender, ["alien", "casablanca"], "dune")
    logit, paths = paths_of(state, query, sets, entity)

    def score(sets):
        item = torch.tensor([entity], dtype=torch.int32)
        pairs = state.scorer.pairs(state.groups(query, sets), torch.tensor([0, 1]), item)
        with torch.no_grad():
            return float(state.model.logits(reference, state.tables, pairs, stage=state.stage))

    assert logit == pytest.approx(score(sets), abs=1e-5)
    assert len(paths) > 8
    for path in paths:
        (slot,) = path.slots
        counts = sets.counts.clone()
        columns = []
        for x in (sets.heads, sets.relations, sets.tails):
            rest = [*x[0, path.hop, :slot].tolist(), *x[0, path.hop, slot + 1 :].tolist(), 0]
            x = x.clone()
            x[0, path.hop] = torch.tensor(rest)
            columns.append(x)
        counts[0, path.hop] -= 1
        expected = logit - score(RippleSets(*columns, counts))
        assert path.effect == pytest.approx(expected, abs=1e-5)


def test_attention_is_that_of_equation_10(recommender):
    state, query, sets, entity = everything(recommender, ["alien", "casablanca"], "dune")
    _, paths = paths_of(state, query, sets, entity)
    model = state.model
    propagation = ops.Propagation(
        *(state.tables["entity"], model.relation, model.W_e, model.b_e),
        *(sets.heads, sets.relations, sets.tails, sets.counts),
        torch.tensor([0, 1]),
        torch.tensor([entity], dtype=torch.int32),
    )
    alpha = ops.ripple_attention_weights(propagation)[0].detach()
    for path in paths:
        assert path.attention == pytest.approx(float(alpha[path.hop, path.slots[0]]), abs=1e-6)


@pytest.mark.parametrize("item_update", ["replace", "plus", "replace_transform", "plus_transform"])
def test_attention_of_ripplenet(item_update):
    """p of its eq. 4, with the item as the code updates it between hops."""
    recommender = fitted("ripplenet", epochs=1, ripplenet__item_update=item_update)
    state, query, sets, entity = everything(recommender, ["alien", "casablanca"], "dune")
    _, paths = paths_of(state, query, sets, entity)
    model, rows = state.model, state.tables["entity"]
    item = rows[entity]
    for hop in range(2):
        some = [path for path in paths if path.hop == hop]
        keys = torch.stack([model.relation[p.relation] @ rows[p.head] for p in some])
        weights = torch.softmax(keys @ item, 0)
        assert [p.attention for p in some] == pytest.approx(weights.tolist(), abs=1e-5)
        answer = weights @ torch.stack([rows[p.tail] for p in some])
        item = answer if item_update.startswith("replace") else item + answer
        if item_update.endswith("transform"):
            item = item @ model.W


@pytest.mark.parametrize("model", RIPPLE)
def test_every_ripple_model_gives_paths(model):
    recommender = fitted(model, epochs=1)
    state, query, sets, entity = everything(recommender, ["alien", "casablanca"], "dune")
    logit, paths = paths_of(state, query, sets, entity)
    assert len(paths) == int(sets.counts.sum())
    score = recommender.recommend(history=["alien", "casablanca"], filter_items=["dune"])[0].score
    assert 1 / (1 + math.exp(-logit)) == pytest.approx(score, abs=1e-6)
    assert any(path.effect != 0 for path in paths)
    for hop in range(2):  # attention is a share of the hop
        shares = [path.attention for path in paths if path.hop == hop]
        assert sum(shares) == pytest.approx(1, abs=1e-5) and min(shares) >= 0
    explanation = recommender.explain(history=["alien", "casablanca"], item="dune", top=99)
    assert explanation.score == pytest.approx(score, abs=1e-6)
    for reason in explanation.reasons:
        assert reason.steps[0].start.id in ("alien", "casablanca")
        assert reason.effect > 0
        for one, next_one in zip(reason.steps, reason.steps[1:], strict=False):
            assert one.end == next_one.start
    known = recommender.explain("ann", "casablanca")
    (best,) = recommender.recommend("ann", filter_items=["casablanca"])
    assert known.score == pytest.approx(best.score, abs=1e-6)


@pytest.mark.parametrize("padding", ["mask", "repeat"])
def test_slots_that_repeat_are_one_path(padding):
    """Short hops are filled by repetition, and an empty hop is a copy of the one before."""
    recommender = fitted(sampling__padding=padding, sampling__inverse=False, shape__hops=2)
    state, query, sets, entity = everything(recommender, ["dune"], "alien")
    _, paths = paths_of(state, query, sets, entity)
    if padding == "mask":
        assert [(p.hop, p.tail, p.slots) for p in paths] == [(0, 7, (0,))]
    else:
        assert sorted((p.hop, p.tail, p.slots) for p in paths) == [
            (0, 7, tuple(range(8))),
            (1, 7, tuple(range(8))),
        ]
    found = recommender.explain(history=["dune"], item="alien", top=9)
    assert {len(reason.steps) for reason in found.reasons} <= {1}


def test_masking_nothing_changes_nothing_and_masking_all_leaves_the_item(recommender):
    state, query, sets, entity = everything(recommender, ["alien"], "dune")
    every = [(hop, slot) for hop in range(2) for slot in range(8)]
    found = masked_logits(state, query, sets, entity, [[], every])
    none = RippleSets(*(torch.zeros_like(x) for x in vars(sets).values()))
    item = torch.tensor([entity], dtype=torch.int32)

    def logit(sets):
        pairs = state.scorer.pairs(state.groups(query, sets), torch.tensor([0, 1]), item)
        return float(state.scorer.logits(pairs))

    assert float(found[1]) == pytest.approx(logit(none), abs=1e-6)
    assert float(found[0]) == pytest.approx(logit(sets), abs=1e-6)


# ---- how they are told ---------------------------------------------------------------------------


@pytest.fixture
def rigged():
    """Recommender whose rows are set so that every path speaks for the item."""
    recommender = fitted("ekp_no", epochs=1)
    state = recommender._state
    for parameter in state.model.parameters():
        parameter.data.zero_()
    values = torch.full((10, 1, 4), 0.5)
    values[0], values[7] = 1.0, 2.0
    state.tables["entity"].copy_(values)
    return recommender


@pytest.fixture
def explanation(rigged):
    return rigged.explain(history=["dune"], item="alien", top=9)


def test_text(explanation):
    """Worked out by hand: W_e is 0, so attention is even in the second hop."""
    lines = explanation.to_text().splitlines()
    assert lines[0] == "Alien (alien) for history dune: 1.0000"
    assert lines[1] == "  1. Dune -[genre]-> m/scifi <-[genre]- Alien"
    assert lines[2] == "     effect +8.0000, attention by hop 1.000"
    assert lines[3] == "  2. Dune -[genre]-> m/scifi <-[genre]- Alien"
    assert lines[4] == "     effect +0.6667, attention by hop 1.000, 0.333"
    # Masked together they are 8, and in the second hop 1 of tails of mean 2/3 that leaves 1/2.
    wanted = "logit +10.6667 = +0.0000 without paths, +8.6667 by these (81 %), +2.0000 by 2 more"
    assert lines[5] == f"     {wanted}"
    assert len(lines) == 6
    one, two = explanation.reasons
    assert (one.match, two.match) == ("linked", "is")
    assert str(one.link) == "<-[genre]-" and two.link is None
    assert explanation.paths == 4


def test_an_end_that_is_alike():
    recommender = fitted()
    found = recommender.explain(history=["casablanca"], item="alien", top=9)
    alike = [reason for reason in found.reasons if reason.match == "alike"]
    assert alike and all(reason.link is None for reason in alike)
    assert found.to_text().count(" ~ Alien") == len(alike)


def test_json(explanation):
    found = json.loads(explanation.to_json())
    assert found == explanation.to_dict()
    assert found["reasons"] == [reason.to_dict() for reason in explanation.reasons]
    assert found["item"] == {"id": "alien", "name": "Alien", "kind": "item"}
    first = found["reasons"][0]
    assert first["match"] == "linked" and first["effect"] == pytest.approx(8)
    assert first["steps"] == [
        {
            "start": {"id": "dune", "name": "Dune", "kind": "item"},
            "relation": "genre",
            "end": {"id": "m/scifi", "name": None, "kind": "entity"},
            "backwards": False,
            "attention": pytest.approx(1),
        }
    ]
    assert first["link"]["backwards"] is True


def test_hops_are_the_whole_ripple_set(recommender):
    found = recommender.explain(history=["dune"], item="alien", top=1, hops=True)
    assert [len(hop) for hop in found.hops] == [1, 3] and found.paths == 4
    (first,), second = found.hops
    assert (str(first.start), first.relation, str(first.end)) == ("Dune", "genre", "m/scifi")
    assert [triple.effect for triple in second] == sorted((t.effect for t in second), reverse=True)
    by_hop = [sum(triple.attention for triple in hop) for hop in found.hops]
    assert by_hop == pytest.approx([1, 1])
    told = found.to_dict()
    assert [len(hop) for hop in told.pop("hops")] == [1, 3]
    alone = recommender.explain(history=["dune"], item="alien", top=1)
    assert alone.hops is None and alone.to_dict() == told


def test_svg(explanation):
    svg = ElementTree.fromstring(explanation.to_svg())
    space = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in svg.iter(f"{space}text")]
    assert {"Dune", "m/scifi", "Alien", "genre →", "← genre"} <= set(texts)
    assert len(list(svg.iter(f"{space}path"))) == 2  # the two reasons share both steps
    widths = [float(path.get("stroke-width")) for path in svg.iter(f"{space}path")]
    assert max(widths) == 5.0
    x = {
        group.find(f"{space}text").text: float(group.find(f"{space}rect").get("x"))
        for group in svg.iter(f"{space}g")
    }
    assert x["Dune"] < x["m/scifi"] < x["Alien"]


def test_svg_of_names_that_look_like_markup(recommender):
    names = list(NAMES)
    names[3] = '<b>"Dune" & more, a name that is too long to be drawn whole</b>'
    dataset = replace(cinema(), item_names=tuple(names[:6]), entity_names=tuple(names))
    found = Recommender.fit(dataset, epochs=1, options={"shape.width": 4}).explain(
        history=["dune"], item="alien", top=9
    )
    svg = ElementTree.fromstring(found.to_svg())
    titles = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}title")]
    assert any(title.startswith(names[3]) for title in titles) or not found.reasons


def test_svg_without_reasons(recommender):
    found = recommender.explain(history=["fargo"], item="alien")
    assert found.reasons == ()
    svg = ElementTree.fromstring(found.to_svg())
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "Alien" in texts and any("no path of the graph" in text for text in texts)


def test_models_without_paths():
    found = fitted("mf", epochs=1, pretrain__batch_size=16).explain("ann", "eden")
    assert found.reasons == () and found.paths == 0
    assert found.notes == ("model mf does not look at paths of the graph",)
    assert found.parts == () and found.base is None and found.to_text().count("\n") == 1


# ---- fidelity ------------------------------------------------------------------------------------


def test_fidelity(numbered):
    found = numbered.fidelity(items=2, masked=3, draws=4)
    assert found.pairs == 120 and found.masked == 3
    assert found.top > found.attention and found.top > abs(found.random)
    assert found.larger > 0.9
    assert found.said > 0
    assert numbered.fidelity(items=2, masked=3, draws=4) == found
    assert numbered.fidelity(items=2, masked=3, draws=4, seed=1) != found
    assert numbered.fidelity(users=[3, 4], items=2, masked=3).pairs == 4


def test_fidelity_by_hand(recommender):
    """Of one pair: the fall of the logit without its first two paths."""
    found = recommender.fidelity(users=["ann"], items=1, masked=2)
    (best,) = recommender.recommend("ann", k=1)
    state = recommender._state
    query = state.of_users([0])
    sets = state.ripple_sets(query)
    entity = state.items.number(best.item)
    logit, paths = paths_of(state, query, sets, entity)
    mask = [(path.hop, path.slots[0]) for path in paths[:2]]
    (without,) = masked_logits(state, query, sets, entity, [mask]).tolist()
    assert found.top == pytest.approx(logit - without, abs=1e-6)
    assert found.said == pytest.approx(paths[0].effect + paths[1].effect, abs=1e-6)
    every = [(hop, slot) for hop in range(2) for slot in range(8)]
    (base,) = masked_logits(state, query, sets, entity, [every]).tolist()
    assert logit < base and found.covered is None  # taken together the paths speak against it


def test_what_paths_cover(rigged):
    """What falls without the first path, of all that the logit is above that without paths."""
    whole = rigged.explain("ann", "casablanca", top=1)
    found = rigged.fidelity(users=["ann"], items=1, masked=1)
    assert found.pairs == 1 and 0 < found.covered <= 1
    assert whole.covered / (whole.logit - whole.base) == pytest.approx(found.covered)


def test_fidelity_that_cannot_be_measured(recommender):
    with pytest.raises(ConfigError, match="no recommended item with 1000 "):
        recommender.fidelity(masked=500)
    with pytest.raises(ConfigError, match="no recommended item with 100 parts"):
        fitted("linear").fidelity(masked=50)
    with pytest.raises(ConfigError, match="model mf does not look at paths"):
        fitted("mf", epochs=1, pretrain__batch_size=16).fidelity()

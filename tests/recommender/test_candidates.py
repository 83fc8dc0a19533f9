"""Lists by candidates: what they hold, what they leave out, and the index that they come from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.models import MODELS
from ekpnet_fast.recommender import Recommender, topk
from ekpnet_fast.recommender.candidates import best_candidates
from ekpnet_fast.recommender.item_index import ItemIndex, block_size
from ekpnet_fast.recommender.state import State
from ekpnet_fast.storage import tensor_file
from support.sealing import reseal

BY_VECTOR = [name for name, model in MODELS.items() if model.by_vector]
ITEMS = 3000


def drawn(recommender: Recommender, items: int = ITEMS) -> State:
    """State of a recommender with drawn items behind its own, whose rows are drawn, too."""
    state = recommender.state
    stream = torch.Generator().manual_seed(5)
    entity, graph, own = state.tables["entity"], state.graph, state.catalogue
    first, more = len(entity), items - len(own)
    rows = torch.randn(items, *entity.shape[1:], generator=stream) * 0.5
    new = torch.arange(first, first + more, dtype=torch.int32)
    table = torch.cat([entity, rows[:more]])
    table[own.long()] = rows[more:]
    indptr = torch.cat([graph.indptr, graph.indptr[-1:].expand(more)])
    ids = [f"drawn {i}" for i in range(more)]
    return replace(
        state,
        graph=replace(graph, indptr=indptr, num_entities=first + more),
        tables={**state.tables, "entity": table},
        catalogue=torch.cat([own, new]),
        items=state.items.with_more(ids, None),
        entities=state.entities.with_more(ids, None),
    )


@pytest.fixture
def large(numbered) -> Recommender:
    return Recommender(drawn(numbered))


def test_which_models_have_a_first_stage():
    assert BY_VECTOR == [
        "mf",
        "cke",
        "ripplenet",
        "ripp_mkr",
        "akupm",
        "ekp_no",
        "ekp_att",
        "ekp_frame",
        "ekpnet",
    ]


@pytest.mark.parametrize("model", MODELS)
def test_every_model(model, numbered_dataset):
    recommender = Recommender.fit(numbered_dataset, model, epochs=1, options={"shape.width": 4})
    exact = recommender.recommend(user=3, k=5)
    found = recommender.recommend(user=3, k=5, candidates=20)
    assert recommender.recommend(user=3, k=5, candidates=80) == exact
    assert recommender.recommend(user=3, k=5, candidates="all") == exact
    by_id = {i.item: i.score for i in recommender.recommend(user=3, k=80, exclude_seen=False)}
    assert len(found) == 5 and all(abs(by_id[i.item] - i.score) < 1e-6 for i in found)
    if model in BY_VECTOR:
        # 40 representatives and 20 candidates, or more where the user has seen more.
        assert " of 80 items were scored" in found.notes[-1]
    else:
        assert found.items == exact.items and f"model {model} has no first stage" in found.notes[-1]


def test_it_finds_the_best_of_many(large):
    found = large.recall(candidates=300, users=40)
    assert found.mean >= 0.99 and found.items == ITEMS and found.users == 40
    assert found.candidates == 300 and found.representatives == 429
    # The estimates find them, not the representatives' luck: among as many drawn items are few.
    exact = large.recommend(user=3, k=100, exclude_seen=False, candidates="all")
    few = large.recommend(user=3, k=100, exclude_seen=False, candidates=300)
    held = len({i.item for i in exact} & {i.item for i in few})
    assert held >= 80 > 100 * (429 + 300) / ITEMS


def test_scores_order_and_what_was_seen_are_the_exact_lists(large):
    exact = large.recommend(user=3, k=10, candidates="all")
    found = large.recommend(user=3, k=10, candidates=2500)
    assert {i.item for i in found} == {i.item for i in exact}
    for a, b in zip(found, exact, strict=True):
        assert a.score == pytest.approx(b.score, abs=1e-6)
    seen = set(large.history(3))
    assert seen and not seen & {i.item for i in found}


def test_ties_go_by_the_catalogues_order(numbered):
    state = drawn(numbered)
    entity = state.tables["entity"].clone()
    entity[state.catalogue.long()] = entity[state.catalogue[0]].clone()
    same = Recommender(replace(state, tables={**state.tables, "entity": entity}))
    found = same.recommend(user=3, k=5, candidates=100)
    places = [same.state.items.number(i.item) for i in found]
    assert places == sorted(places) and len({i.score for i in found}) == 1


def test_a_list_is_full_whatever_was_seen(large):
    assert len(large.history(3)) > 1
    assert len(large.recommend(user=3, k=30, candidates=1)) == 30


def test_the_same_at_any_number_of_threads(large, threads):
    one = large.recommend_batch(users=[3, 5], candidates=200)
    index = large.state.index.of(large.state, 200)
    threads(8)
    again = ItemIndex.build(large.state)
    for name, value in vars(index).items():
        assert np.array_equal(value, vars(again)[name]), name
    assert large.recommend_batch(users=[3, 5], candidates=200) == one


def test_blocks_hold_every_item_once(large):
    index = ItemIndex.build(large.state)
    size = block_size(ITEMS)
    assert index.items.shape == (-(-ITEMS // size), size) and size == 7
    assert sorted(index.items[index.items >= 0]) == list(range(ITEMS))
    assert (index.items[:-1] >= 0).all()
    # A block's items are nearer to each other than to the rest: most of the variance is between.
    within = index.spreads.mean()
    assert within < 0.6


def test_a_plane_is_found_exactly(large):
    """Scores that are linear in the vectors: the estimates are the scores."""
    index = ItemIndex.build(large.state)
    slope = np.random.default_rng(0).standard_normal(index.vectors.shape[1]).astype(np.float32)
    every = np.zeros(ITEMS, np.float32)
    every[index.items[index.items >= 0]] = np.einsum("kfl,f->kl", index.vectors, slope)[
        index.items >= 0
    ]
    found = best_candidates(index, ITEMS, 100, 50, lambda items: every[items])
    expected = np.argsort(-every, kind="stable")[:50]
    assert set(found.items) == set(expected)
    assert np.array_equal(found.scores, every[found.items])
    assert found.count == len(index.items) + 100


def test_scores_that_are_no_numbers(large):
    index = ItemIndex.build(large.state)

    def score(items):
        return np.where(items % 2 == 0, np.nan, items).astype(np.float32)

    found = best_candidates(index, ITEMS, 100, 10, score)
    assert (found.items % 2 == 1).all() and len(found.items) == 10
    nothing = best_candidates(index, ITEMS, 100, 10, lambda x: np.full(len(x), np.nan, np.float32))
    assert nothing.count == len(index.items) + 100


def test_new_items_are_candidates_at_once(numbered):
    numbered.prepare(candidates=16)
    index = numbered.state.index.of(numbered.state, 16)
    before = numbered.snapshot()
    numbered.graph.add_items({"new": [("parent", 96)], "newer": [("parent", 97)]})
    assert numbered.state.index.of(numbered.state, 16) is index  # two of 16 candidates
    assert before.recommend(user=3, k=2, candidates=16).notes[-1].startswith("56 of 80")
    assert numbered.recommend(user=3, k=2, candidates=16).notes[-1].startswith("58 of 82")
    asked = []

    def score(items):
        asked.extend(items.tolist())
        return -items.astype(np.float32)

    best_candidates(index, 82, 16, 2, score)
    assert {80, 81} <= set(asked) and len(set(asked)) == len(asked) == 58
    numbered.graph.add_items({f"late {i}": [("parent", 96)] for i in range(3)})
    assert numbered.state.index.of(numbered.state, 16) is not index
    assert len(numbered.state.index.of(numbered.state, 16)) == 85


def test_an_index_is_kept_with_the_recommender(numbered, tmp_path, monkeypatch):
    numbered.save(tmp_path / "without")
    assert not (tmp_path / "without" / "index.safetensors").exists()
    best = numbered.recommend(user=3, candidates=20)
    numbered.save(tmp_path / "with")
    loaded = Recommender.load(tmp_path / "with", device="cpu")
    monkeypatch.setattr(ItemIndex, "build", None)  # must not be needed
    assert loaded.recommend(user=3, candidates=20) == best


@pytest.mark.parametrize("name", ["items", "neighbours", "catalogue", "slopes"])
def test_a_damaged_index_is_refused(numbered, tmp_path, name):
    numbered.prepare(candidates=20)
    numbered.save(tmp_path / "r")
    path = tmp_path / "r" / "index.safetensors"
    names = vars(numbered.state.index.of(numbered.state, 20))
    tensors, _ = tensor_file.read(path, "item index", "a test", tensors=tuple(names))
    damaged = {key: value.clone() for key, value in tensors.items()}
    damaged[name] = damaged[name][1:].clone() if name == "slopes" else damaged[name] + 1
    tensor_file.write(path, "item index", damaged, {})
    reseal(tmp_path / "r" / "recommender.json")
    with pytest.raises(DataError, match=r"index.safetensors: found blocks"):
        Recommender.load(tmp_path / "r", device="cpu")


def test_large_catalogues_have_a_first_stage_unless_all_is_asked_for(large, monkeypatch):
    assert large.recommend(user=3).notes == ()
    monkeypatch.setattr(topk, "EXACT_ITEMS", ITEMS - 1)
    monkeypatch.setattr(topk, "CANDIDATES", 100)
    assert large.recommend(user=3).notes[-1].startswith("529 of 3,000 items were scored")
    assert large.recommend(user=3, candidates="all").notes == ()
    assert large.recommend(user=3, filter_items=large.item_ids()).notes == ()


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "some"])
def test_what_is_refused(numbered, wrong):
    with pytest.raises(ConfigError, match=r"candidates: found .*from 1, or 'all'"):
        numbered.recommend(user=3, candidates=wrong)
    with pytest.raises(ConfigError, match="every list is exact"):
        numbered.recall(candidates="all")
    with pytest.raises(DataError, match="users: found none"):
        numbered.recall(candidates=10, users=[])

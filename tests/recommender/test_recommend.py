"""Lists: scores of evaluation, ids of the user's own, what is left out, what is refused."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from ekpnet_fast.data import Interactions, prepare
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.evaluation import scoring
from ekpnet_fast.models import MODELS
from ekpnet_fast.native.cpus import Threads
from ekpnet_fast.ops import backends
from ekpnet_fast.ops.threads import num_threads
from ekpnet_fast.recommender import Recommender, fitting
from ekpnet_fast.sampling.ripple_sets import RippleSets
from support.cinema import FILMS, SMALL, cinema, fitted


def evaluated(recommender):
    """Scores [U, I] as evaluation computes them."""
    state = recommender._state
    shape = state.config.shape
    ripple = RippleSets.none(len(state.users))
    if state.model.ripple:
        ripple = RippleSets.sample(
            state.graph,
            state.history_indptr,
            state.history_items,
            hops=shape.hops,
            slots=shape.slots,
            seed=state.config.seed,
        )
    backend = backends.BACKENDS[state.config.backend]
    score = scoring.catalogue_scorer(
        backend, state.model, ripple, state.num_items, stage=state.stage
    )
    return score(np.arange(len(state.users), dtype=np.int32))


@pytest.mark.parametrize("model", MODELS)
def test_scores_are_those_of_evaluation(model, numbered_dataset):
    recommender = Recommender.fit(numbered_dataset, model, epochs=1, options={"shape.width": 4})
    expected = torch.sigmoid(evaluated(recommender))
    for user in (3, 17):
        best = recommender.recommend(user=user, k=80, exclude_seen=False)
        assert len(best) == 80 and best.user == user and best.history is None
        found = torch.tensor([item.score for item in best])
        items = [item.item for item in best]
        assert sorted(items) == list(range(80))
        torch.testing.assert_close(found, expected[user, items], rtol=1e-5, atol=1e-6)
        assert (found[1:] <= found[:-1]).all()
        pairs = recommender.predict([user] * 80, items)
        torch.testing.assert_close(torch.from_numpy(pairs), found, rtol=1e-5, atol=1e-6)


def test_blocks_give_the_same_bits(numbered, monkeypatch):
    users, items = [5, 3, 5, 8, 3, 5] * 5, list(range(30))
    together, lists = numbered.predict(users, items), numbered.recommend_batch(users=[8, 3, 5])
    monkeypatch.setitem(scoring.SCORED_PAIRS, "cpu", 7)
    assert np.array_equal(numbered.predict(users, items), together)
    assert numbered.recommend_batch(users=[8, 3, 5]) == lists
    assert numbered.predict([], []).shape == (0,)


def test_an_empty_list_says_why(numbered):
    nothing = numbered.recommend(history=range(80))
    assert len(nothing) == 0 and "--include-seen" in nothing.notes[0]
    assert not numbered.recommend(history=range(79)).notes
    assert len(numbered.recommend(history=range(80), k=80, exclude_seen=False)) == 80


def test_an_item_without_a_name_is_told_by_its_id_alone(recommender):
    item = next(item.item for item in recommender.recommend("ann", k=3) if item.name is None)
    assert recommender.explain("ann", item).to_text().startswith(f"{item} for user ann: 0.")


def test_a_list_in_the_users_own_ids(recommender):
    best = recommender.recommend(user="ann", k=2)
    assert best.user == "ann" and len(best) == 2
    assert {item.item for item in best} <= set(FILMS)
    assert {item.name for item in best} <= {
        "Casablanca",
        None,
    }  # all others have no name or are seen
    assert best.to_dict() == {
        "user": "ann",
        "history": None,
        "items": [{"item": i.item, "name": i.name, "score": i.score} for i in best],
        "notes": [],
    }
    assert (
        best[0] == best.items[0] and best[:1] == best.items[:1] and list(best) == list(best.items)
    )


def test_numbers_in_numbers_out(numbered):
    best = numbered.recommend(user="3", history=None, k=2)
    assert best.user == 3 and all(type(item.item) is int for item in best)
    assert numbered.recommend(user=3, k=2) == best
    assert numbered.recommend(user=np.int64(3), k=2) == best
    assert numbered.user_ids()[:2] == [0, 1] and numbered.item_ids()[-1] == 79


def test_what_is_left_out():
    dataset = cinema()
    recommender = fitted()
    every = {item.item for item in recommender.recommend(user="eve", k=9)}
    assert every == {"alien", "blade", "dune"}  # not casablanca, eden, fargo, in whatever split
    assert len(recommender.recommend(user="eve", k=9, exclude_seen=False)) == 6
    new = recommender.recommend(history=["alien", "dune", "alien"], k=9)
    assert {item.item for item in new} == {"blade", "casablanca", "eden", "fargo"}
    assert new.history == ("alien", "dune", "alien") and new.user is None
    assert dataset.num_items == 6


def test_touched_below_the_threshold_is_seen():
    rows = cinema().rows
    clicks = Interactions(rows.users, rows.items, rows.labels == 1)
    kept = (rows.labels == 1) | (rows.items == 5)
    clicks = Interactions(rows.users[kept], rows.items[kept], rows.labels[kept] == 1)
    dataset = replace(cinema(), rows=None, interactions=clicks)
    recommender = Recommender.fit(dataset, options=SMALL, epochs=1)
    assert "fargo" not in {item.item for item in recommender.recommend(user="ann", k=9)}


def test_order_and_repeats_of_a_history_play_no_part(recommender):
    a = recommender.recommend(history=["alien", "casablanca", "dune"])
    b = recommender.recommend(history=["dune", "alien", "casablanca", "alien"])
    assert a.items == b.items


def test_a_history_is_scored_like_a_user_who_has_it(numbered):
    """With slots for every triple nothing is drawn, so the key of the draws does not matter."""
    state = numbered._state
    shape = replace(state.config.shape, hops=1, slots=64)
    wide = Recommender.fit(
        "synthetic",
        "ekp_att",
        epochs=1,
        options={"synthetic.users": 60, "synthetic.items": 80, "synthetic.positives": 10,
                 "synthetic.attributes": 16, "synthetic.parents": 4, "synthetic.triples": 435,
                 "shape.width": shape.width, "shape.hops": 1, "shape.slots": 64},
    )  # fmt: skip
    user = next(u for u in wide.user_ids() if 0 < len(wide.history(u)) <= 5)
    known = wide.recommend(user=user, k=80, exclude_seen=False)
    new = wide.recommend(history=wide.history(user), k=80, exclude_seen=False)
    assert new.items == known.items


def test_filter(recommender):
    only = recommender.recommend(user="ann", filter_items=["eden", "alien", "casablanca"])
    every = recommender.recommend(user="ann")
    assert [i.item for i in only] == [i.item for i in every if i.item in ("eden", "casablanca")]
    assert [i.score for i in only] == pytest.approx(
        [i.score for i in every if i.item in ("eden", "casablanca")], abs=1e-6
    )
    asked = []

    def late(item):
        asked.append(item)
        return item > "c"

    assert {i.item for i in recommender.recommend(user="ann", filter_items=late)} == {
        "casablanca",
        "eden",
        "fargo",
    }
    assert asked == list(FILMS)
    assert len(recommender.recommend(user="ann", filter_items=[])) == 0
    assert len(recommender.recommend(user="ann", filter_items=["alien"])) == 0  # seen


def test_batch_gives_the_same_as_one_by_one(recommender, monkeypatch):
    users = ["bob", "ann", "bob", "eve2"]
    one_by_one = [recommender.recommend(user=user, k=3) for user in users]
    assert recommender.recommend_batch(users=users, k=3) == one_by_one
    histories = [["alien"], ["casablanca", "eden"], ["dune", "fargo"]]
    expected = [recommender.recommend(history=history, k=3) for history in histories]
    assert recommender.recommend_batch(histories=histories, k=3) == expected
    monkeypatch.setitem(scoring.SCORED_PAIRS, "cpu", 2 * len(FILMS))
    assert recommender.recommend_batch(users=users, k=3) == one_by_one
    assert recommender.recommend_batch(users=[]) == []
    with_history = [user for user in recommender.user_ids() if recommender.history(user)]
    assert [best.user for best in recommender.recommend_batch()] == with_history


@pytest.mark.parametrize("model", [name for name in MODELS if MODELS[name].new_users])
def test_batches_of_histories_with_every_model(model):
    recommender = fitted(model, epochs=1) if model != "popularity" else _popularity()
    histories = [["alien"], ["casablanca", "eden"], ["dune"]]
    expected = [recommender.recommend(history=history) for history in histories]
    for found, wanted in zip(
        recommender.recommend_batch(histories=histories), expected, strict=True
    ):
        assert [i.item for i in found] == [i.item for i in wanted]
        assert [i.score for i in found] == pytest.approx([i.score for i in wanted], abs=1e-6)


def _popularity():
    return Recommender.fit(cinema(), "popularity", epochs=1)


@pytest.mark.parametrize("model", [name for name in MODELS if not MODELS[name].new_users])
def test_models_of_users_refuse_a_history(model):
    recommender = fitted(model, epochs=1)
    with pytest.raises(
        ConfigError, match=rf"history: model {model} scores users .* such as ekpnet"
    ):
        recommender.recommend(history=["alien"])


def test_a_history_without_an_entity_is_told(recommender):
    best = recommender.recommend(history=["fargo"])
    assert len(best) == 5
    assert best.notes == (
        "the graph says nothing about the history: the order does not depend on it",
    )
    assert recommender.recommend(history=["fargo", "alien"]).notes == ()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda r: r.recommend(), DataError, "found neither user nor history"),
        (lambda r: r.recommend("ann", ["alien"]), DataError, "found both user and history"),
        (lambda r: r.recommend("anne"), DataError, "user: found 'anne', .* such as 'ann'"),
        (lambda r: r.recommend(3), DataError, "user: found '3', expected one of 20 ids"),
        (lambda r: r.recommend(1.5), DataError, r"user: found 1\.5 \(float\), expected an id"),
        (lambda r: r.recommend(True), DataError, r"user: found True \(bool\)"),
        (lambda r: r.recommend(history=[]), DataError, "history: found no item"),
        (lambda r: r.recommend(history="alien"), DataError, "history: found 'alien', expected"),
        (lambda r: r.recommend(history=np.array(3)), DataError, r"history: found array\(3\)"),
        (lambda r: r.recommend("ann", exclude_seen="no"), ConfigError, "exclude_seen: found 'no'"),
        (lambda r: r.recommend_batch(exclude_seen=0), ConfigError, "exclude_seen: found 0"),
        (lambda r: r.recommend_batch(histories=5), DataError, "histories: found 5, expected"),
        (lambda r: r.recommend(history=["alein"]), DataError, "item: found 'alein', .* 'alien'"),
        (lambda r: r.recommend(history=[None]), DataError, "found None"),
        (lambda r: r.recommend("ann", k=0), ConfigError, "k: found 0, expected a whole number"),
        (lambda r: r.recommend("ann", k=-3), ConfigError, "k: found -3"),
        (lambda r: r.recommend("ann", k=2.0), ConfigError, r"k: found 2\.0"),
        (lambda r: r.recommend("ann", k=True), ConfigError, "k: found True"),
        (lambda r: r.recommend("ann", filter_items=["x"]), DataError, "filter_items: item: found"),
        (lambda r: r.recommend("ann", filter_items="alien"), DataError, "expected a list of ids"),
        (lambda r: r.recommend_batch(["ann"], [["alien"]]), DataError, "users and histories"),
        (lambda r: r.recommend_batch(histories=[["alien"], []]), DataError, "history: found no"),
        (lambda r: r.predict(["ann"], []), DataError, "found 1 users and 0 items"),
        (lambda r: r.predict(["ann"], ["x"]), DataError, "item: found 'x'"),
        (lambda r: r.similar_items("x"), DataError, "item: found 'x'"),
        (lambda r: r.explain("ann"), DataError, "item: found None"),
        (lambda r: r.explain("ann", "alien", top=0), ConfigError, "top: found 0"),
        (lambda r: r.history("x"), DataError, "user: found 'x'"),
        (lambda r: r.item_name("x"), DataError, "item: found 'x'"),
    ],
)  # fmt: skip
def test_what_is_refused(call, kind, message):
    recommender = _shared()
    with pytest.raises(kind, match=message):
        call(recommender)


def _shared(found=[]):  # noqa: B006
    if not found:
        found.append(fitted())
    return found[0]


def test_a_user_without_a_click_in_train():
    dataset = cinema()
    names = (*dataset.user_ids, "zoe")
    dataset = replace(dataset, num_users=len(names), user_ids=names)
    recommender = Recommender.fit(dataset, options=SMALL, epochs=1)
    assert recommender.history("zoe") == []
    with pytest.raises(DataError, match="user: found 'zoe', of whom training saw no click"):
        recommender.recommend(user="zoe")
    popular = Recommender.fit(dataset, "popularity")
    assert len(popular.recommend(user="zoe", k=3)) == 3


def test_predict_does_not_depend_on_the_order(numbered):
    users, items = [5, 3, 5, 9, 3], [0, 1, 2, 3, 4]
    found = numbered.predict(users, items)
    assert found.dtype == np.float32
    for user, item, value in zip(users, items, found, strict=True):
        assert numbered.predict([user], [item])[0] == pytest.approx(value, abs=1e-6)
    assert numbered.predict([], []).shape == (0,)


def test_similar_items(recommender):
    rows = recommender._state.model.table("entity")[:6, 0]
    rows = rows / rows.norm(dim=1, keepdim=True)
    expected = (rows @ rows[0])[1:].sort(descending=True)
    found = recommender.similar_items("alien", k=9)
    assert [FILMS.index(f.item) for f in found] == (expected.indices + 1).tolist()
    assert [f.similarity for f in found] == pytest.approx(expected.values.tolist(), abs=1e-6)
    with pytest.raises(ConfigError, match="model popularity has no vectors of items"):
        _popularity().similar_items("alien")


def test_concurrent_reads_give_what_one_thread_gives(numbered):
    expected = {user: numbered.recommend(user=user) for user in range(20)}
    explained = numbered.explain(history=[1, 2, 3], item=7)
    wrong = []

    def ask():
        for user, best in expected.items():
            if numbered.recommend(user=user) != best:
                wrong.append(user)
            if numbered.explain(history=[1, 2, 3], item=7) != explained:
                wrong.append(user)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_fit_refuses_what_train_refuses():
    with pytest.raises(ConfigError, match=r"lr_rate.*did you mean"):
        Recommender.fit(cinema(), options={"train.lr_rate": 1})
    with pytest.raises(ConfigError, match="--mf"):
        Recommender.fit(cinema(), options={"mf.user_bias": True})
    with pytest.raises(DataError, match="dataset: found int, expected a Dataset"):
        Recommender.fit(3)
    with pytest.raises(DataError, match="unknown data set 'nowhere'"):
        Recommender.fit("nowhere")


def test_fit_leaves_the_number_of_threads(threads):
    threads(2)
    Recommender.fit(cinema(), options=SMALL, epochs=1, threads=1)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("set_before", "during"), [(5, 3), (2, 2)])
def test_fit_takes_no_more_threads_than_cpus(monkeypatch, threads, set_before, during):
    """A program that never set them has as many as the machine has CPUs, whatever its quota."""
    monkeypatch.setattr(fitting, "usable_cpus", lambda: Threads(3, "made up"))
    threads(set_before)
    found = []
    Recommender.fit(
        cinema(),
        options=SMALL,
        epochs=1,
        on_progress=lambda progress: found.append(num_threads()),
    )
    assert set(found) == {during} and torch.get_num_threads() == set_before


def test_the_training_data_are_split_as_train_splits_them(numbered, numbered_dataset):
    assert numbered._state.data_hash == prepare(numbered_dataset, 0).hash

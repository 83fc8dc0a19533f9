"""EKPNet+ after live changes: how far from a refresh, and that nothing is left behind.

A refresh fits the wide part anew and leaves EKPNet's weights, so that EKPNet's part of a logit is
the refreshed one at once.
"""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from ekpnet_fast.data import Dataset, SyntheticConfig, make_synthetic
from ekpnet_fast.recommender import Recommender
from ekpnet_fast.sampling.histories import Histories
from support.cinema import SMALL
from support.growing import distance

OPTIONS = {**SMALL, "pretrain.batch_size": 1024, "train.batch_size": 1024}
ATTRIBUTE = 245  # an entity that is no item, and has a lower number than any that is new
OLD, NEW = (3, 17, 60), "new"


@pytest.fixture(scope="module")
def drawn() -> Dataset:
    sizes = {"users": 300, "items": 240, "positives": 16, "attributes": 24, "parents": 6}
    return make_synthetic(SyntheticConfig(**sizes, triples=1260))


def fitted(dataset: Dataset, **options: object) -> Recommender:
    """Recommender with an EKPNet that has something to say, refreshed."""
    found = Recommender.fit(
        dataset, "ekpnet_plus", epochs=2, options={**OPTIONS, **options}, device="cpu"
    )
    model = found.state.model
    with torch.no_grad():
        model.w_out.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    found.refresh()
    return found


@pytest.fixture(scope="module")
def trained(drawn):
    return fitted(drawn, ranking=False)


@pytest.fixture(scope="module", params=["click", "list", "few neighbours"])
def either(request, drawn):
    """A recommender by either objective, whose items keep all neighbours or some."""
    if request.param == "click":
        return request.getfixturevalue("trained")
    few = {"ekpnet_plus.neighbours": 12} if request.param == "few neighbours" else {}
    return fitted(drawn, protocol="recbole", **few)


def logits(recommender, user=None, history=None):
    """Logits of the catalogue, and EKPNet's part of them."""
    state = recommender.state
    if user is not None:
        query = state.of_users([state.users.number(user)])
    else:
        query = state.of_histories([np.array([state.items.number(item) for item in history])])
    whole = state.scores(query, state.ripple_sets(query), state.catalogue_there)[0]
    part = state.scorer.model.linear
    asked = part._numbered(Histories(query.indptr, query.entities))
    return whole.numpy(), (whole - part._logits(part.affinities, asked)[0]).numpy()


def are_same(one, other, *users):
    asked = [*(dict(user=user) for user in (*OLD, *users)), {"history": [5, 9, 40]}]
    pairs = [(logits(one, **query)[0], logits(other, **query)[0]) for query in asked]
    return all(np.array_equal(x, y) for x, y in pairs)


def refreshed(recommender, more_seed=0):
    """Copy that is refreshed, with drawn items of another seed."""
    config = recommender.state.config
    config = replace(config, seed=config.seed + more_seed)
    found = Recommender(replace(recommender.state, config=config))
    found.refresh()
    return found


# ---- kinds of changes ----------------------------------------------------------------------------


def later_clicks(dataset, recommender):
    """Positives of each user that are in no history: those of validation and test."""
    found: dict[int, list[int]] = {}
    histories = {user: set(recommender.history(user)) for user in recommender.user_ids()}
    rows = dataset.rows
    for user, item, label in zip(rows.users, rows.items, rows.labels, strict=True):
        if label == 1 and item not in histories[user]:
            found.setdefault(int(user), []).append(int(item))
    return found


def some_triples(recommender, dataset):
    state = recommender.state
    chosen = np.random.default_rng(0).choice(len(dataset.heads), len(dataset.heads) // 20, False)
    names = (state.entities.id, state.relations.id, state.entities.id)
    columns = (dataset.heads, dataset.relations, dataset.tails)
    return [
        tuple(name(int(column[row])) for name, column in zip(names, columns, strict=True))
        for row in chosen.tolist()
    ]


def like_others(recommender):
    """New items, each with the triples of another."""
    every = {item: recommender.graph.triples(item) for item in range(0, 240, 20)}
    own = {item: [t[1:] for t in triples if t[0] == item] for item, triples in every.items()}
    return {9000 + item: links for item, links in own.items() if links}


def clicks_of_known_users(now, dataset):
    later = later_clicks(dataset, now)
    now.add_clicks({user: later[user][:3] for user in list(later)[::3]})


def new_users(now, dataset):
    later = later_clicks(dataset, now)
    now.add_clicks({f"new{user}": later[user] for user in list(later)[1::10]})


def triples_removed(now, dataset):
    now.graph.remove_triples(some_triples(now, dataset))


def items_added(now, dataset):
    now.graph.add_items(like_others(now))


def items_clicked(now, dataset):
    items_added(now, dataset)
    clicks: dict[int, list[int]] = {}
    for user in now.user_ids()[::2]:
        for item in now.history(user):
            if item + 9000 in like_others(now):
                clicks.setdefault(user, []).append(item + 9000)
    now.add_clicks(clicks)


def everything(now, dataset):
    for change in (clicks_of_known_users, new_users, triples_removed, items_clicked):
        change(now, dataset)


def triples_added(now, dataset):
    """Those that `now` was fitted without; see `before`."""
    now.graph.add_triples(some_triples(now, dataset))


def before(trained, dataset, change):
    """What the recommender was fitted to before a change."""
    found = trained.snapshot()
    if change is triples_added:
        triples_removed(found, dataset)
        found.refresh()
    return found


@pytest.mark.parametrize(
    ("change", "gap", "lists", "nearer"),
    [
        (clicks_of_known_users, 0.2, 0.75, True),
        (new_users, 0.2, 0.75, False),
        (triples_added, 0.25, 0.75, True),
        (triples_removed, 0.25, 0.75, True),
        (items_added, 0.2, 0.75, False),
        (items_clicked, 0.6, 0.7, False),
        (everything, 0.6, 0.65, False),
    ],
)
def test_live_answers_are_near_refreshed_ones(trained, drawn, change, gap, lists, nearer):
    """The root mean squared difference of logits in their standard deviations, and shared lists."""
    old = before(trained, drawn, change)
    live = old.snapshot()
    change(live, drawn)
    after = refreshed(live)
    found = distance(live, after, 100)
    assert found.logits < gap * found.spread and found.lists > lists
    if nearer:  # than what knows nothing of the change
        stale = distance(old, after, 100)
        assert found.logits < stale.logits and found.lists > stale.lists
    known = distance(refreshed(live, 1), after, 100)  # other draws
    assert known.logits < 0.2 * known.spread
    for user in (*OLD, *live.user_ids()[-2:]):
        deep, deep_after = (logits(each, user)[1] for each in (live, after))
        np.testing.assert_allclose(deep, deep_after, atol=2e-6)
        assert deep.std() > 0.01


def test_others_are_answered_as_before_new_users(trained, drawn):
    live = trained.snapshot()
    new_users(live, drawn)
    assert are_same(live, trained)


def test_clicks_on_a_live_item_count_from_the_refresh_on(trained, drawn):
    """Until then it stands by its triples alone, far below; its clickers' histories have it."""
    live = trained.snapshot()
    items_added(live, drawn)
    unclicked = live.snapshot()
    live.add_clicks({user: [9000] for user in range(0, 300, 2)})
    after = refreshed(live)
    place = live.item_ids().index(9000)

    def rank(recommender, user):
        whole = logits(recommender, user)[0]
        return int((whole > whole[place]).sum())

    odd = range(1, 60, 8)  # who did not click it
    assert all(logits(live, u)[0][place] == logits(unclicked, u)[0][place] for u in odd)
    assert np.mean([rank(live, user) for user in odd]) > 120
    assert np.mean([rank(after, user) for user in odd]) < 20
    assert after.state.model.linear.affinities.counts[place] == 150


# ---- what was changed back, in parts, or written -------------------------------------------------


def test_what_was_added_and_removed_leaves_nothing(either):
    """The same bits, be it between known entities or of new ones; EKPNet's paths too."""
    now = either.snapshot()
    triples = [(7, "noise", 33), (9, "noise", "somewhere")]
    now.graph.add_triples(triples)
    assert not are_same(now, either)
    now.graph.remove_triples(triples)
    assert are_same(now, either)


def test_what_was_removed_and_added_again_is_back(either):
    """But for the order of a head's triples, which EKPNet's draws go by."""
    now, own = either.snapshot(), either.graph.triples(5)
    now.graph.remove_triples(own)
    assert not now.graph.triples(5) and not are_same(now, either)
    now.graph.add_triples(own)
    for user in OLD:
        (whole, deep), (expected, of_deep) = logits(now, user), logits(either, user)
        np.testing.assert_array_equal(whole - deep, expected - of_deep)


def test_changes_one_by_one_are_those_at_once(either):
    one, all_at_once = either.snapshot(), either.snapshot()
    triples = [(7, "noise", 33), (9, "noise", "somewhere")]
    items = {"x": [("noise", 33)], "y": [("noise", "z")]}
    for triple in triples:
        one.graph.add_triples([triple])
    for item, links in items.items():
        one.graph.add_items({item: links})
    one.add_clicks({3: ["x"]})
    one.add_clicks({NEW: ["x", "y", 5]})
    one.add_clicks({NEW: [9]})
    all_at_once.graph.add_triples(triples)
    all_at_once.graph.add_items(items)
    all_at_once.add_clicks({3: ["x"], NEW: [9, "x", "y", 5]})
    assert are_same(one, all_at_once, NEW)
    assert are_same(refreshed(one), refreshed(all_at_once), NEW)


def check_sums(recommender, histories, *users):
    """Parts add up to the logit of the list, and nothing is missing or no number."""
    ids = recommender.item_ids()
    for user, history in [*((u, None) for u in (3, *users)), *((None, h) for h in histories)]:
        of_list = logits(recommender, user, history)[0]
        assert np.isfinite(of_list).all()
        for place in (*range(0, len(ids), 37), *range(len(ids) - 4, len(ids))):
            found = recommender.explain(user, ids[place], history=history, top=99)
            total = found.base + sum(part.effect for part in found.parts)
            assert total == pytest.approx(found.logit, abs=1e-5)
            assert found.logit == pytest.approx(of_list[place], abs=1e-5)
            for part in found.parts:
                assert "nan" not in part.text
                if part.shared:
                    assert sum(f.effect for f in part.shared) == pytest.approx(part.effect)


def test_every_state_is_told_and_saved(either, tmp_path):
    """An item without its last triple, live items and clicks on them, an entity that became one."""
    now = either.snapshot()
    histories = ([5], [5, 9, 40])

    def check(*users):
        check_sums(now, histories, *users)
        now.save(tmp_path / "saved", overwrite=True)
        loaded = Recommender.load(tmp_path / "saved", device="cpu")
        assert are_same(loaded, now, *users)
        return loaded

    now.graph.remove_triples(now.graph.triples(5))
    check()
    now.graph.add_items({"x": [("noise", 33)], "y": [("noise", "z")]})
    now.add_clicks({3: ["x"], NEW: ["x", "y", 5], 60: ["y", "x"]})
    histories = (["x"], ["y", 5])
    check(NEW)
    now.graph.add_items({ATTRIBUTE: []})  # behind items of higher numbers among the entities
    now.add_clicks({NEW: [ATTRIBUTE], 60: [ATTRIBUTE], 17: [ATTRIBUTE, "x"]})
    histories = ([ATTRIBUTE, "x"], [5, "y"])
    now.refresh()
    check(NEW)
    now.graph.remove_triples([("x", "noise", 33)])
    now.graph.remove_triples(now.graph.triples(ATTRIBUTE)[:3])
    loaded = check(NEW)
    assert are_same(pickle.loads(pickle.dumps(now)), now, NEW)
    assert are_same(refreshed(loaded), refreshed(now), NEW)

"""New clicks count from the next answer on, and a refresh fits what is fitted to all of them."""

from __future__ import annotations

import numpy as np
import pytest

from ekpnet_fast import refresh
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.models import MODELS
from ekpnet_fast.recommender import Recommender
from support import numbered as by_number
from support.cinema import cinema, fitted

WIDE = ("linear", "ekpnet_plus")
GLADIATOR = {"gladiator": [("directed by", "m/ridley"), ("genre", "m/epic")]}


def scores(recommender, **query):
    found = recommender.recommend(**query, k=1000, exclude_seen=False)
    return {item.item: item.score for item in found}


def of_user(recommender, user):
    """Scores of a user of the numbered data set, by item."""
    return np.array([score for _, score in sorted(scores(recommender, user=user).items())])


@pytest.fixture(scope="module", params=["ekpnet", *WIDE])
def trained(request):
    return fitted(request.param)


@pytest.fixture
def recommender(trained):
    return trained.snapshot()


def test_clicks_are_in_the_history_at_once(recommender):
    before = recommender.history("ann")
    change = recommender.add_clicks({"ann": ["fargo", "casablanca"]})
    assert (change.users, change.clicks) == (0, 2)
    after = recommender.history("ann")
    assert set(after) == {*before, "fargo", "casablanca"} and len(after) == len(before) + 2
    if recommender.model == "linear":  # draws of the others are keyed by the user
        assert scores(recommender, user="ann") == scores(recommender, history=after)
    best = {item.item for item in recommender.recommend(user="ann", k=9)}
    assert not best & set(after)


def test_a_new_user_is_answered_as_the_history(recommender):
    change = recommender.add_clicks({"zoe": ["dune", "alien"], "yan": ["fargo"]}, {"zoe": "Zoe"})
    assert (change.users, change.clicks) == (2, 3)
    assert recommender.user_ids()[-2:] == ["zoe", "yan"]
    assert recommender.history("zoe") == ["alien", "dune"]
    assert scores(recommender, user="zoe") == scores(recommender, history=["alien", "dune"])
    assert scores(recommender, user="yan") == scores(recommender, history=["fargo"])
    expected = scores(recommender, history=["dune", "alien"])
    found = recommender.predict(["zoe", "ann", "zoe"], ["eden", "eden", "blade"])
    assert found[[0, 2]] == pytest.approx([expected["eden"], expected["blade"]], abs=1e-6)
    both = recommender.recommend_batch(users=["zoe", "ann"], k=9, exclude_seen=False)
    assert [best.user for best in both] == ["zoe", "ann"]
    ann = scores(recommender, user="ann")
    assert {i.item: i.score for i in both[1]} == pytest.approx(ann, abs=1e-6)
    assert {i.item for i in recommender.recommend(user="zoe", k=9)} == {
        *("blade", "casablanca", "eden", "fargo")
    }


def test_others_are_answered_as_before(recommender):
    before = scores(recommender, user="bob"), scores(recommender, history=["dune"])
    recommender.add_clicks({"zoe": ["dune"], "ann": ["fargo"]})
    assert (scores(recommender, user="bob"), scores(recommender, history=["dune"])) == before


def test_a_click_that_is_known_changes_nothing(recommender):
    state = recommender.state
    known = recommender.history("ann")
    assert recommender.add_clicks({"ann": [known[0], known[0]]}).clicks == 0
    assert recommender.state is state


def test_new_items_may_be_clicked(recommender):
    recommender.graph.add_items(GLADIATOR)
    recommender.add_clicks({"zoe": ["gladiator", "alien"], "bob": ["gladiator"]})
    assert recommender.history("zoe") == ["alien", "gladiator"]
    assert recommender.history("bob")[-1] == "gladiator"
    found = scores(recommender, user="zoe")
    assert found == scores(recommender, history=["gladiator", "alien"])
    assert len(found) == 7


def test_a_user_by_text_and_by_number_is_one(recommender):
    change = recommender.add_clicks({7: ["dune"], "7": ["alien"]})
    assert (change.users, change.clicks) == (1, 2)
    assert recommender.history(7) == recommender.history("7") == ["alien", "dune"]


@pytest.mark.parametrize(
    ("clicks", "message"),
    [
        ({"ann": ["heat"]}, "clicks: item: found 'heat'"),
        ({"ann": []}, "clicks: found no item of user 'ann'"),
        ({"ann": "alien"}, "clicks: found 'alien', expected a list of ids"),
        ({"": ["alien"]}, r"clicks: found '' \(str\), expected an id"),
        ({"\ud800": ["alien"]}, "expected Unicode text"),
        ({1.5: ["alien"]}, r"clicks: found 1\.5 \(float\), expected an id"),
        (["ann"], r"clicks: found \['ann'\], expected items by user"),
        ({"zoe": ["alien"], "ann": ["heat"]}, "clicks: item: found 'heat'"),
    ],
)
def test_what_is_refused_adds_nothing(recommender, clicks, message):
    state = recommender.state
    with pytest.raises(DataError, match=message):
        recommender.add_clicks(clicks)
    assert recommender.state is state


@pytest.mark.parametrize("model", MODELS)
def test_models_of_known_users_say_so(model):
    if MODELS[model].new_users:
        return
    recommender = Recommender.fit(cinema(), model, epochs=1, options={"shape.width": 4})
    with pytest.raises(ConfigError, match=f"add_clicks: model {model} scores users by what"):
        recommender.add_clicks({"ann": ["fargo"]})


def test_is_saved(recommender, tmp_path):
    """With the graph, the catalogue and the clicks, before and after a refresh."""
    gone = [("m/alien", "directed by", "m/ridley"), ("m/alien", "genre", "m/scifi")]
    for again in range(2):
        recommender.graph.add_items(GLADIATOR if not again else {"heat": [("genre", "m/epic")]})
        recommender.graph.remove_triples([gone[again]])
        recommender.add_clicks({("zoe", "yan")[again]: ["gladiator", "dune"], "ann": ["fargo"]})
        recommender.save(tmp_path / "saved", overwrite=True)
        loaded = Recommender.load(tmp_path / "saved", device="cpu")
        for user in ("ann", "bob", "zoe"):
            assert scores(loaded, user=user) == scores(recommender, user=user)
            assert loaded.history(user) == recommender.history(user)
        assert loaded.item_ids() == recommender.item_ids()
        if not recommender.state.model.as_fitted:
            return
        loaded.add_clicks({"dee": ["eden"]})
        recommender.add_clicks({"dee": ["eden"]})
        loaded.refresh()
        recommender.refresh()
        assert scores(loaded, user="zoe") == scores(recommender, user="zoe")
        recommender.save(tmp_path / "saved", overwrite=True)
        loaded = Recommender.load(tmp_path / "saved", device="cpu")
        assert scores(loaded, user="zoe") == scores(recommender, user="zoe")


def test_a_change_says_what_stays_as_fitted(recommender):
    changes = [
        recommender.graph.add_items(GLADIATOR),
        recommender.graph.add_triples([("m/blade", "country", "m/usa")]),
        recommender.graph.remove_triples([("m/blade", "country", "m/usa")]),
        recommender.add_clicks({"zoe": ["dune"]}),
    ]
    assert [(c.items, c.entities, c.triples, c.users, c.clicks) for c in changes] == [
        *((1, 2, 2, 0, 0), (0, 0, 1, 0, 0), (0, 0, 1, 0, 0), (0, 0, 0, 1, 1))
    ]
    of_model = ("curves" in change.as_fitted for change in changes)
    assert all(of_model) == (recommender.model in WIDE)


def test_only_what_is_fitted_beside_weights_is_refreshed():
    with pytest.raises(ConfigError, match="refresh: nothing of model ekpnet is fitted beside"):
        fitted("ekpnet", epochs=1).refresh()


@pytest.fixture(scope="module", params=WIDE)
def counted(request, numbered_dataset):
    options = {**by_number.OPTIONS, "folds": 5}
    return Recommender.fit(numbered_dataset, request.param, epochs=1, options=options, device="cpu")


def test_a_refresh_of_what_was_fitted_changes_little(counted):
    """The same clicks, and other drawn items: the lists are about the same."""
    now = counted.snapshot()
    change = now.refresh()
    assert change.as_fitted == ()
    for user in range(0, 60, 7):
        before, after = of_user(counted, user), of_user(now, user)
        assert np.corrcoef(rank(before), rank(after))[0, 1] > 0.8


def test_a_refresh_again_changes_nothing(counted):
    """Nor does the share of drawn items drift, where folds drop some clicks."""
    for recommender in (counted.snapshot(), fitted("linear")):
        recommender.refresh()
        before = scores(recommender, history=[recommender.item_ids()[3]])
        recommender.refresh()
        assert scores(recommender, history=[recommender.item_ids()[3]]) == before


def rank(x: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(x))


def test_live_answers_come_near_to_refitted_ones(counted):
    """Nearer than those that know nothing of the changes, which are many here."""
    live = counted.snapshot()
    rng = np.random.default_rng(0)
    links = {9000 + n: [tuple(t[1:]) for t in live.graph.triples(n)] for n in range(8)}
    live.graph.add_items({item: own for item, own in links.items() if own})
    added = [item for item, own in links.items() if own]
    live.add_clicks({user: [item] for user, item in enumerate(rng.integers(0, 80, 20).tolist())})
    live.add_clicks({f"new{n}": [added[n % len(added)], n] for n in range(5)})
    refitted = live.snapshot()
    refitted.refresh()
    agreed = []
    for user in [*range(0, 60, 7), "new1", "new3"]:
        before, after = scores(live, user=user), scores(refitted, user=user)
        assert before.keys() == after.keys() and len(before) == 80 + len(added)
        items = sorted(before)
        agreed.append(
            np.corrcoef(rank([before[i] for i in items]), rank([after[i] for i in items]))[0, 1]
        )
    assert min(agreed) > 0.6 and np.mean(agreed) > 0.8


def test_refreshed_counts_are_those_of_all_clicks(counted):
    now = counted.snapshot()
    now.add_clicks({f"fan{n}": [5] for n in range(30)})
    live, live_counts = scores(now, user=7), now.state.model.linear.affinities.counts
    now.refresh()
    counts = now.state.model.linear.affinities.counts
    clicks = sum(5 in now.history(user) for user in now.user_ids())
    assert counts[5] == clicks >= 30
    assert live_counts[5] < clicks
    after = scores(now, user=7)
    items = sorted(after)
    place = items.index(5)
    assert rank([after[i] for i in items])[place] > rank([live[i] for i in items])[place]


def test_command(tmp_path, capsys):
    recommender = fitted("linear")
    recommender.graph.add_items(GLADIATOR)
    recommender.add_clicks({"zoe": ["gladiator", "dune"]})
    recommender.save(tmp_path / "saved")
    assert refresh.main([str(tmp_path / "saved"), "--threads", "1"]) == 0
    assert "refreshed in" in capsys.readouterr().out
    recommender.refresh()
    loaded = Recommender.load(tmp_path / "saved", device="cpu")
    assert scores(loaded, user="zoe") == scores(recommender, user="zoe")
    other = tmp_path / "other"
    assert refresh.main([str(tmp_path / "saved"), "--output", str(other)]) == 0
    assert scores(Recommender.load(other, device="cpu"), user="zoe") == scores(loaded, user="zoe")
    assert refresh.main([str(tmp_path)]) == 2
    assert "expected a recommender's folder, or --output" in capsys.readouterr().err


@pytest.mark.parametrize("model", WIDE)
def test_reasons_name_the_pair_that_a_new_item_shares(model):
    recommender = fitted(model)
    recommender.graph.add_items(GLADIATOR)
    found = recommender.explain(history=["gladiator"], item="alien", top=99)
    facts = {(fact.relation, str(fact.end)) for part in found.parts for fact in part.shared}
    assert ("directed by", "Ridley Scott") in facts

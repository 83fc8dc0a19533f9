"""Requests while the graph changes: each is answered from the graph as it is when it begins."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from ekpnet_fast.data.ids import Ids
from ekpnet_fast.recommender.names import Names
from ekpnet_fast.serve import engine, schemas
from ekpnet_fast.serve.engine import RecommenderEngine
from support.cinema import fitted

GLADIATOR = {"gladiator": [("directed by", "m/ridley"), ("genre", "m/epic")]}
TITLES = {"gladiator": "Gladiator", "m/epic": "Epic"}


@pytest.fixture
def recommender():
    """One of its own for each test, because the graph is changed."""
    return fitted()


@pytest.fixture
def live(recommender, serving):
    return serving(RecommenderEngine(recommender))


def posted(client, path, **body):
    answer = client.post(f"/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def agree(client, recommender, history, item):
    """Lists, scores and reasons over HTTP are about one graph, which is the recommender's."""
    (listed,) = posted(client, "recommend", history=history, filter_items=[item])["items"]
    (scored,) = posted(client, "score", history=history, items=[item])["items"]
    explained = posted(client, "explain", history=history, item=item, top=99)
    assert scored == listed
    assert explained["score"] == pytest.approx(listed["score"], abs=1e-6)
    expected = recommender.explain(history=history, item=item, top=99, hops=True)
    hops = explained.pop("hops")
    told = json.loads(expected.to_json())
    assert sum(map(len, told.pop("hops"))) == sum(len(hop["triples"]) for hop in hops)
    assert explained == told
    return explained


def test_an_item_added_since_the_start(live, recommender):
    before = live.get("/health").json()
    assert "found 'gladiator'" in live.post("/recommend", json={"history": ["gladiator"]}).text
    recommender.graph.add_items(GLADIATOR, names=TITLES)

    found = posted(live, "recommend", history=["gladiator"], k=9)
    assert found["clicked"] == [{"id": "gladiator", "name": "Gladiator", "kind": "item"}]
    assert len(found["items"]) == 6 and found["notes"] == []
    found = posted(live, "recommend", user="ann", k=9)
    assert {"gladiator", "Gladiator"} <= {v for item in found["items"] for v in item.values()}
    assert {node["id"] for node in found["clicked"]} == set(recommender.history("ann"))

    # The item's entity is not of the same number.
    recommender.add_clicks({"ann": ["gladiator"], "zoe": ["gladiator"]})
    found = posted(live, "recommend", user="zoe", k=9)
    assert found["clicked"] == [{"id": "gladiator", "name": "Gladiator", "kind": "item"}]
    found = posted(live, "recommend", user="ann", k=9)
    assert {node["id"] for node in found["clicked"]} == {*recommender.history("ann")}
    assert "gladiator" in recommender.history("ann") and "Gladiator" not in str(found["items"])

    start = agree(live, recommender, ["gladiator"], "alien")["reasons"][0]["steps"][0]["start"]
    assert start == {"id": "gladiator", "name": "Gladiator", "kind": "item"}
    assert agree(live, recommender, ["alien"], "gladiator")["item"]["name"] == "Gladiator"
    scores = posted(live, "score", user="ann", items=["gladiator", "dune", "gladiator"])["items"]
    assert [item["item"] for item in scores] == ["gladiator", "dune", "gladiator"]
    assert recommender.similar_items("gladiator", k=6)[0].similarity <= 1

    after = live.get("/health").json()
    assert [after[name] - before[name] for name in ("items", "entities", "triples", "users")] == [
        *(1, 2, 2, 1)
    ]


def test_search_finds_an_item_added_since_the_start(live, recommender):
    assert live.get("/items", params={"query": "gladi"}).json()["total"] == 0
    recommender.graph.add_items(GLADIATOR, names=TITLES)
    new = {"id": "gladiator", "name": "Gladiator", "clicks": 0}
    for query in ("gladi", "GLADIATOR"):
        assert live.get("/items", params={"query": query}).json()["matches"] == [new]
    everything = live.get("/items").json()
    assert everything["total"] == 7 and new in everything["matches"]
    recommender.graph.add_items({"heat": [("genre", "m/drama")]})  # without a name
    (found,) = live.get("/items", params={"query": "heat"}).json()["matches"]
    assert found["id"] == "heat"
    assert live.get("/users").json()["total"] == live.get("/health").json()["users"]


def test_the_index_is_kept_while_items_stay(recommender):
    engine = RecommenderEngine(recommender)
    index = engine._items.of(recommender.state)
    recommender.graph.add_triples([("m/eden", "directed by", "m/ridley")])
    assert engine._items.of(recommender.state) is index
    recommender.graph.add_items(GLADIATOR)
    kept = engine._items.of(recommender.state)
    assert kept is not index
    assert engine._items.of(recommender.state) is kept


def test_search_finds_clicks_added_since_the_start(live, recommender):
    before = live.get("/health").json()["users"]
    recommender.add_clicks({"zoe": ["fargo", "dune"]}, names={"zoe": "Zoe"})
    assert live.get("/users", params={"query": "zoe"}).json()["matches"] == [
        {"id": "zoe", "name": "Zoe", "clicks": 2}
    ]
    assert live.get("/health").json()["users"] == live.get("/users").json()["total"] == before + 1
    (found,) = live.get("/items", params={"query": "fargo"}).json()["matches"]
    assert found["clicks"] == sum(
        "fargo" in recommender.history(user) for user in recommender.user_ids()
    )


def test_triples_added_and_removed(live, recommender):
    before = agree(live, recommender, ["dune"], "alien")
    assert before["paths"] == 4
    triples = live.get("/health").json()["triples"]
    recommender.graph.remove_triples([("m/dune", "genre", "m/scifi")])
    without = agree(live, recommender, ["dune"], "alien")
    assert without["paths"] == 0 and without["score"] != before["score"]
    assert without["notes"] == ["no path of the graph leads away from the history"]
    assert live.get("/health").json()["triples"] == triples - 1
    recommender.graph.add_triples([("m/dune", "genre", "m/scifi")])
    assert agree(live, recommender, ["dune"], "alien") == before
    recommender.graph.add_triples([("m/dune", "country", "m/mars")], names={"m/mars": "Mars"})
    ends = {
        step["end"]["name"]
        for hop in posted(live, "explain", history=["dune"], item="alien")["hops"]
        for step in hop["triples"]
    }
    assert "Mars" in ends
    assert agree(live, recommender, ["dune"], "alien")["paths"] > 4


def test_requests_end_with_the_graph_that_they_began_with(recommender, monkeypatch):
    """Everything is renamed between the lists of an answer and the names of what was clicked."""
    lists = engine.recommend_topk

    def rename(queries, *options):
        found = lists(queries, *options)
        items = recommender.state.items
        ids = Ids("item", items.ids.ids, ("renamed",) * len(items))
        recommender._become(replace(recommender.state, items=Names(ids, numbered=False)))
        return found

    monkeypatch.setattr(engine, "recommend_topk", rename)
    answering = RecommenderEngine(recommender)
    asked = [schemas.RecommendRequest(user=user, k=9) for user in ("ann", "bob")]
    for found in answering.recommend_together(asked):
        names = {node["name"] for part in ("items", "clicked") for node in found[part]}
        assert found["items"] and found["clicked"] and "renamed" not in names
    monkeypatch.undo()
    (found,) = answering.recommend_together(asked[:1])
    assert {node["name"] for node in found["clicked"]} == {"renamed"}


def test_requests_while_items_are_added(recommender, serving):
    """Every answer is whole: what is listed can be explained and found right after."""
    live = serving(RecommenderEngine(recommender), threads=2, queue=8)

    def add():
        for number in range(20):
            recommender.graph.add_items(
                {f"film{number}": [("genre", "m/scifi"), ("directed by", "m/ridley")]}
            )

    adder = threading.Thread(target=add)
    adder.start()
    while True:
        last = not adder.is_alive()
        best = posted(live, "recommend", history=["alien"], k=99, exclude_seen=False)["items"]
        newest = max(best, key=lambda item: len(item["item"]))["item"]
        posted(live, "explain", history=[newest], item=newest, top=1)
        assert live.get("/items", params={"query": newest}).json()["matches"][0]["id"] == newest
        if last:
            break
    adder.join()
    assert len(best) == live.get("/health").json()["items"] == 26

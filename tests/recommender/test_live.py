"""Changes of the graph count from the next answer on, without training."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.models import MODELS
from ekpnet_fast.recommender import Recommender
from ekpnet_fast.sampling.graph import Graph
from support.cinema import TRIPLES, cinema, fitted


def graph_of(triples, entities=10):
    heads, relations, tails = np.array(triples, dtype=np.int32).T
    return Graph.from_triples(heads, relations, tails, entities, 3, inverse=True)


def edges(graph):
    """Triples (head, relation, tail), in no order."""
    heads = torch.repeat_interleave(graph.indptr.diff())
    return sorted(zip(heads.tolist(), graph.relations.tolist(), graph.tails.tolist(), strict=True))


def test_removing_the_only_path_removes_the_reason(recommender):
    """Dune is known to the graph by its genre alone."""
    before = recommender.explain(history=["dune"], item="alien", top=99)
    assert before.paths == 4  # to the genre, and from there to three films
    recommender.graph.remove_triples([("m/dune", "genre", "m/scifi")])
    after = recommender.explain(history=["dune"], item="alien", top=99)
    assert after.paths == 0 and after.reasons == ()
    assert after.notes == ("no path of the graph leads away from the history",)
    assert after.score != before.score
    assert recommender.recommend(history=["dune"]).notes != ()
    recommender.graph.add_triples([("m/dune", "genre", "m/scifi")])
    assert recommender.explain(history=["dune"], item="alien", top=99) == before


def test_one_of_two_paths_stays(recommender):
    def ends():
        found = recommender.explain(history=["alien"], item="blade", top=99)
        return found.paths

    assert ends() == 7  # director, genre; from there to two films and to three
    recommender.graph.remove_triples([("m/alien", "genre", "m/scifi")])
    assert ends() == 3


def test_the_next_list_changes(recommender):
    before = recommender.recommend(history=["casablanca"])
    recommender.graph.add_triples([("m/casablanca", "directed by", "m/ridley")])
    after = recommender.recommend(history=["casablanca"])
    assert {i.item for i in before} == {i.item for i in after}
    assert [i.score for i in before] != [i.score for i in after]


def test_graph_is_that_of_all_triples(recommender):
    recommender.graph.add_triples([("m/eden", "directed by", "m/ridley")])
    recommender.graph.remove_triples([("m/alien", "directed by", "m/ridley")])
    expected = [*TRIPLES[1:], (4, 0, 6)]
    assert edges(recommender._state.graph) == edges(graph_of(expected))
    assert recommender.graph.num_triples == len(TRIPLES)


def test_draws_from_other_heads_stay(numbered):
    untouched = numbered.explain(history=[5], item=9, top=99)
    heads = {step.start.id for reason in untouched.reasons for step in reason.steps}
    far = next(item for item in numbered.item_ids() if item not in heads and item != 9)
    numbered.graph.add_triples([(far, "noise", far)])
    assert numbered.explain(history=[5], item=9, top=99) == untouched


def test_a_new_entity_starts_from_its_neighbours(recommender):
    table = recommender._state.model.table("entity").clone()
    recommender.graph.add_triples(
        [("m/blade", "directed by", "m/scott"), ("m/scott", "country", "m/usa")],
        names={"m/scott": "R. Scott"},
    )
    state = recommender._state
    assert len(state.entities) == 11 and recommender.graph.num_entities == 11
    assert torch.allclose(state.tables["entity"][10], (table[1] + table[9]) / 2)
    assert torch.equal(state.tables["entity"][:10], table)  # the others stay
    assert torch.equal(state.model.table("entity"), table)  # and so does the trained model
    recommender.graph.remove_triples([("m/scott", "country", "m/usa")])
    assert torch.allclose(recommender._state.tables["entity"][10], table[1])
    paths = recommender.explain(history=["blade"], item="alien", top=99)
    assert paths.paths == 9  # to three neighbours, and from them to two, three and one film


def test_a_chain_of_new_entities_hangs_on_the_old_ones(recommender):
    table = recommender._state.model.table("entity")
    recommender.graph.add_triples([("far", "country", "near"), ("near", "country", "m/usa")])
    rows = recommender._state.tables["entity"]
    assert torch.allclose(rows[11], table[9])  # near: usa alone has a row
    assert torch.allclose(rows[10], table[9])  # far: what near got
    recommender.graph.add_triples([("lost", "country", "lost2")])
    assert not recommender._state.tables["entity"][12:].any()


def test_a_new_item(recommender):
    recommender.graph.add_items(
        {"gladiator": [("directed by", "m/ridley"), ("genre", "m/epic")]},
        names={"gladiator": "Gladiator", "m/epic": "Epic"},
    )
    assert recommender.item_ids()[-1] == "gladiator"
    assert recommender.item_name("gladiator") == "Gladiator"
    best = recommender.recommend(history=["alien"], k=9)
    assert {item.item for item in best} == {
        *("blade", "casablanca", "dune", "eden", "fargo", "gladiator")
    }
    assert "gladiator" in {item.item for item in recommender.recommend(user="ann", k=9)}
    assert "gladiator" not in {i.item for i in recommender.recommend(history=["gladiator"], k=9)}
    found = recommender.explain(history=["gladiator"], item="alien", top=99)
    starts = {str(reason.steps[0].start) for reason in found.reasons}
    assert found.paths >= 2 and starts <= {"Gladiator"}
    assert recommender.predict(["ann"], ["gladiator"]).shape == (1,)
    assert len(recommender.similar_items("gladiator", k=9)) == 6
    assert recommender.graph.triples("gladiator") == [
        ("gladiator", "directed by", "m/ridley"),
        ("gladiator", "genre", "m/epic"),
    ]


def test_an_entity_becomes_an_item(recommender):
    recommender.graph.add_items({"m/ridley": []})
    assert recommender.graph.num_entities == 10
    found = recommender.recommend(history=["alien"], k=9)
    assert "m/ridley" in {item.item for item in found}
    assert recommender.item_name("m/ridley") == "Ridley Scott"


def test_numbers(numbered):
    numbered.graph.add_items({9001: [("noise", 85)]})
    assert numbered.item_ids()[-1] == 9001
    assert numbered.recommend(history=[9001], k=3).history == (9001,)
    assert numbered.graph.triples(9001) == [(9001, "noise", 85)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.add_triples([("m/alien", "sequel of", "m/blade")]), "relation: found 'sequel"),
        (lambda g: g.add_triples([("m/alien", "genre")]), r"triples: found \('m/alien', 'genre'\)"),
        (lambda g: g.add_triples("abc"), "triples: found 'abc'"),
        (lambda g: g.add_triples(["abc"]), "triples: found 'abc'"),
        (lambda g: g.add_triples([("m/alien", "genre", 1.5)]), r"triples: found 1\.5"),
        (
            lambda g: g.remove_triples(
                [("m/dune", "genre", "m/scifi"), ("m/dune", "genre", "m/drama")]
            ),
            r"found \('m/dune', 'genre', 'm/drama'\), expected one that is in the graph",
        ),
        (lambda g: g.remove_triples([("x", "genre", "m/drama")]), "entity: found 'x'"),
        (
            lambda g: g.add_items({"alien": [("genre", "m/drama")]}),
            "expected ids that are no items",
        ),
        (lambda g: g.add_items({"m/alien": []}), "expected ids that are no items"),
        (lambda g: g.add_items({"heat": []}), "items: found no triple of 'heat'"),
        (lambda g: g.triples("x"), "entity: found 'x'"),
    ],
)
def test_what_is_refused_changes_nothing(recommender, call, message):
    before = recommender._state
    with pytest.raises(DataError, match=message):
        call(recommender.graph)
    assert recommender._state is before


@pytest.mark.parametrize("model", MODELS)
def test_every_model_follows_the_graph_or_says_that_it_does_not(model):
    recommender = Recommender.fit(cinema(), model, epochs=1, options={"shape.width": 4})
    items = {"gladiator": [("directed by", "m/ridley"), ("genre", "m/epic")]}
    if not MODELS[model].live:
        with pytest.raises(ConfigError, match=f"graph: model {model} keeps what it read"):
            recommender.graph.add_items(items)
        return
    before = {i.item: i.score for i in recommender.recommend(user="ann", k=9, exclude_seen=False)}
    recommender.graph.add_items(items)
    recommender.graph.remove_triples([("m/alien", "directed by", "m/ridley")])
    after = recommender.recommend(user="ann", k=9, exclude_seen=False)
    assert "gladiator" in {item.item for item in after}
    assert before != {item.item: item.score for item in after if item.item != "gladiator"}
    assert all(0 < item.score <= 1 for item in after)  # a wide part is sure of what was clicked


def test_an_answer_sees_one_graph(recommender):
    """Readers beside a writer meet the graph before or after, and nothing between."""
    before = recommender.explain(history=["dune"], item="alien")
    recommender.graph.remove_triples([("m/dune", "genre", "m/scifi")])
    without = recommender.explain(history=["dune"], item="alien")
    stop, wrong = threading.Event(), []

    def read():
        while not stop.is_set():
            found = recommender.explain(history=["dune"], item="alien")
            if found not in (before, without):
                wrong.append(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(20):
        recommender.graph.add_triples([("m/dune", "genre", "m/scifi")])
        recommender.graph.remove_triples([("m/dune", "genre", "m/scifi")])
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_writers_wait_for_each_other(recommender):
    def add(name):
        for i in range(5):
            recommender.graph.add_items({f"{name}{i}": [("genre", "m/scifi")]})

    writers = [threading.Thread(target=add, args=(name,)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(recommender.item_ids()) == 6 + 15
    assert recommender.graph.num_triples == len(TRIPLES) + 15


def test_without_inverse_relations():
    recommender = fitted(sampling__inverse=False)
    assert recommender.explain(history=["dune"], item="alien").paths == 1
    recommender.graph.add_triples([("m/scifi", "country", "m/usa")])
    assert recommender.explain(history=["dune"], item="alien").paths == 2
    recommender.graph.remove_triples([("m/dune", "genre", "m/scifi")])
    assert recommender.explain(history=["dune"], item="alien").paths == 0


@pytest.mark.parametrize(
    "items",
    [
        {"heat": [("genre", "m/drama")]},
        [("heat", [["genre", "m/drama"]])],
        {"heat": np.array([["genre", "m/drama"]])},
        {"heat": {"genre": "m/drama"}},
        {"heat": {"genre": ["m/drama"]}},
    ],
)
def test_items_as_people_have_them(items):
    recommender = fitted(epochs=1)
    recommender.graph.add_items(items)
    assert recommender.graph.triples("heat") == [("heat", "genre", "m/drama")]


@pytest.mark.parametrize(
    "items",
    [
        *(["heat"], None, 7, "heat", {"": [("genre", "m/drama")]}, {1.5: [("genre", "m/drama")]}),
        *({"heat": [("genre",)]}, {"heat": 3}, {"heat": {"genre": 1.5}}, {"\ud800": []}),
        {7: [("genre", "m/drama")], "7": [("genre", "m/drama")]},
    ],
)
def test_items_that_are_none(items):
    recommender = fitted(epochs=1)
    with pytest.raises(DataError, match="items: "):
        recommender.graph.add_items(items)
    assert len(recommender.item_ids()) == 6


def test_a_text_that_reads_as_a_number_is_no_second_one(numbered):
    numbered.graph.add_items({"007": [(numbered.state.relations.id(0), 96)]})
    assert numbered.item_ids().count(7) == 1 and numbered.item_ids()[-1] == "007"
    assert numbered.recommend(history=[12], filter_items=["007"])[0].item == "007"

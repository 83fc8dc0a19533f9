"""Copies of a recommender: pickled, deep, in spawned and in forked processes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import pytest

from ekpnet_fast.models import MODELS
from ekpnet_fast.recommender import Recommender
from support.cinema import fitted


@pytest.mark.parametrize("model", MODELS)
def test_pickled(model):
    recommender = fitted(model, epochs=1)
    again = pickle.loads(pickle.dumps(recommender))
    assert again.recommend_batch() == recommender.recommend_batch()
    assert again.explain("ann", "eden") == recommender.explain("ann", "eden")


def test_with_live_changes():
    recommender = fitted(epochs=1)
    recommender.graph.add_items({"heat": [("genre", "m/drama"), ("genre", "m/new")]})
    again = copy.deepcopy(recommender)
    assert again.recommend(history=["heat"], k=9) == recommender.recommend(history=["heat"], k=9)
    again.graph.add_items({"ronin": [("genre", "m/new")]})
    assert len(again.item_ids()) == len(recommender.item_ids()) + 1


def test_the_graph_is_copied_with_its_recommender():
    recommender = fitted(epochs=1)
    again = pickle.loads(pickle.dumps((recommender, recommender.graph)))
    assert again[1] is again[0].graph
    alone = copy.deepcopy(recommender.graph)
    alone.add_items({"heat": [("genre", "m/drama")]})
    assert alone.num_triples == recommender.graph.num_triples + 1


def _asked(recommender: Recommender) -> object:
    return recommender.recommend("ann").to_dict()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_workers(method):
    recommender = fitted(epochs=1)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_asked, (recommender,)) == _asked(recommender)

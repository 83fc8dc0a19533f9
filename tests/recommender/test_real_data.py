"""On Last.FM, from its files to lists and reasons."""

from __future__ import annotations

import numpy as np
import pytest

from ekpnet_fast.data import load_dataset, prepare
from ekpnet_fast.evaluation.ranking import rank_all, ranking_task
from ekpnet_fast.recommender import Recommender
from support.growing import distance, grown

pytestmark = [pytest.mark.slow, pytest.mark.data]


@pytest.fixture(scope="module")
def last_fm(data_root):
    return Recommender.fit(
        "last-fm", data_root=data_root, epochs=2, options={"ranking": False}, device="cpu"
    )


def test_lists_are_those_of_the_ranking_that_is_evaluated(last_fm, data_root):
    """What evaluation would rank for some users, but for the items that the test part holds."""
    state = last_fm.state
    prepared = prepare(load_dataset("last-fm", data_root), 0)
    task = ranking_task(prepared)
    users = task.users[:50]
    query = state.of_users(users.tolist())
    scores = state.scores(query, state.ripple_sets(query), state.catalogue_there)
    ranked = rank_all(
        lambda block: scores[np.searchsorted(users, block)],
        users,
        state.num_items,
        task.consumed_indptr[:51],
        task.consumed_items[: task.consumed_indptr[50]],
        10,
    )
    for user, row in zip(users.tolist(), ranked.tolist(), strict=True):
        first, last = state.consumed_indptr[user : user + 2]
        known = set(state.consumed_items[first:last].tolist())
        found = last_fm.recommend(user=user, k=10, exclude_seen=True)
        assert not known & {item.item for item in found}
        expected = [item for item in row if item not in known]
        assert [item.item for item in found][: len(expected)] == expected


def test_reasons_carry_the_scores(last_fm):
    found = last_fm.fidelity(items=1)
    assert found.top > 10 * abs(found.random)
    assert found.larger > 0.95


def test_a_new_history_of_a_users_clicks_gives_much_the_same(last_fm):
    """Other draws of the same ripples: the lists overlap far more than those of two users."""
    users = [user for user in last_fm.user_ids() if len(last_fm.history(user)) >= 5][:60]
    known = [{i.item for i in last_fm.recommend(user=user, k=50)} for user in users]
    new = [
        {i.item for i in last_fm.recommend(history=last_fm.history(user), k=50)} for user in users
    ]
    same = np.mean([len(a & b) for a, b in zip(known, new, strict=True)])
    other = np.mean([len(a & b) for a, b in zip(known, new[1:] + new[:1], strict=True)])
    assert same > other


@pytest.mark.parametrize("model", ["linear", "ekpnet_plus"])
def test_live_answers_come_near_refitted_ones(data_root, model):
    """After 5 % more clicks and triples, whatever stays as fitted until a refresh."""
    found = grown(load_dataset("last-fm", data_root), model, 0.05)
    live, stale, redrawn = (
        distance(each, found.refitted) for each in (found.live, found.stale, found.redrawn)
    )
    assert live.lists > 0.82 and live.order > 0.95 and live.logits < 0.3 * live.spread
    assert live.lists > stale.lists + 0.02 and live.logits < stale.logits
    # No answer can come nearer than a refresh with other drawn items does.
    assert redrawn.lists > live.lists and redrawn.logits < live.logits

"""Rules of the wide part's options."""

from __future__ import annotations

from ekpnet_fast.models.rules import DataFacts, Rules, by_measure, if_dense, if_triples
from ekpnet_fast.models.wide.signals import SignalOptions
from ekpnet_fast.models.wide.users import NEAR_USERS

__all__ = ["rules_of"]

# Users and items, of either so many, from which on lists gain from a finer projection.
LARGE = 1 << 14
FINE_RANK = 512


def rules_of(model: str) -> Rules:
    """Rules of the options of a model with a wide part: by what is measured, and by the graph.

    Without triples signals by clicks and graph together are those by clicks once more.
    """
    usual = SignalOptions()
    return {
        f"{model}.objective": by_measure("click", "list"),
        f"{model}.graph_regression": if_triples(by_measure(usual.graph_regression, 0), 0),
        f"{model}.joint_ridge": if_triples(by_measure(0.0, 10.0), 0.0),
        f"{model}.p3alpha": by_measure(False, True),
        f"{model}.user_knn": by_measure(0, NEAR_USERS),
        f"{model}.kg_click_kg": if_triples(usual.kg_click_kg, False),
        f"{model}.joint_spectral": if_triples(usual.joint_spectral, ()),
        f"{model}.relations": if_triples(usual.relations, 0),
        f"{model}.low_pass": _ranks,
    }


def _ranks(facts: DataFacts) -> tuple[int, ...]:
    """Ranks of the projections of clicks.

    A fine one takes time by its rank and the items, whatever there is to project: it needs users
    that are not all told apart by it, and clicks from which so many directions follow.
    """
    usual = SignalOptions().low_pass
    large = facts.lists and min(facts.items, facts.users) >= LARGE
    fine: tuple[int, ...] = if_dense(usual, (*usual, FINE_RANK))(facts)
    return fine if large else usual

"""Ripple sets the way RippleNet's published code draws them: a Python loop over users.

The graph is a dict from head to a list of (tail, relation); a hop lists every candidate triple and
`np.random.choice` picks from the list, with replacement only where the list is shorter than the
memory. A hop without candidates copies the hop before (Wang et al., RippleNet, CIKM 2018). Ids are
NumPy scalars throughout, because the published code takes them from rows of NumPy tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Graph = defaultdict[np.int32, list[tuple[np.int32, np.int32]]]
Hop = tuple[list[np.int32], list[np.int32], list[np.int32]]  # heads, relations, tails [M]
RippleSet = list[Hop]


def graph_of(triples: NDArray[np.int32]) -> Graph:
    """Graph: head -> [(tail, relation), ...] of triples [T, 3] (head, relation, tail)."""
    graph: Graph = defaultdict(list)
    for head, relation, tail in triples:
        graph[head].append((tail, relation))
    return graph


def histories_of(
    users: NDArray[np.int32],  # [n]
    items: NDArray[np.int32],  # [n]
) -> dict[np.int32, list[np.int32]]:
    """Histories: user -> clicked items."""
    histories: dict[np.int32, list[np.int32]] = {}
    for user, item in zip(users, items, strict=True):
        histories.setdefault(user, []).append(item)
    return histories


def sample_ripple_sets(
    graph: Graph,
    histories: Mapping[np.int32, Sequence[np.int32]],
    users: Iterable[np.int32],
    hops: int,
    slots: int,
) -> dict[np.int32, RippleSet]:
    """Ripple sets: user -> ripple set; users whose first hop is empty are left out."""
    sets: dict[np.int32, RippleSet] = {}
    for user in users:
        ripple_set: RippleSet = []
        for hop in range(hops):
            heads: list[np.int32] = []
            relations: list[np.int32] = []
            tails: list[np.int32] = []
            for entity in histories[user] if hop == 0 else ripple_set[-1][2]:
                for tail, relation in graph[entity]:
                    heads.append(entity)
                    relations.append(relation)
                    tails.append(tail)
            if heads:
                picked = np.random.choice(len(heads), size=slots, replace=len(heads) < slots)
                ripple_set.append(
                    (
                        [heads[i] for i in picked],
                        [relations[i] for i in picked],
                        [tails[i] for i in picked],
                    )
                )
            elif hop > 0:
                ripple_set.append(ripple_set[-1])
            else:
                break
        if ripple_set:
            sets[user] = ripple_set
    return sets

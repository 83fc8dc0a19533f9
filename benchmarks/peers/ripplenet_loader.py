"""Loading the way RippleNet's published code does: numpy.loadtxt, then Python dicts.

Examples are split 6:2:2 by `np.random.choice` over sets of indices, positives of the training part
become a dict of histories one by one, examples of users without one are dropped, and the graph is
a dict from head to a list of (tail, relation).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.ripplenet_loop import Graph, graph_of

Loaded = tuple[list[NDArray[Any]], dict[Any, list[Any]], Graph]


def load(folder: Path) -> Loaded:
    """Load train, validation and test examples, histories, and the graph, from final text."""
    rows = np.loadtxt(folder / "ratings_final.txt", dtype=np.int32)
    triples = np.loadtxt(folder / "kg_final.txt", dtype=np.int32)
    every = set(range(len(rows)))
    held_out = len(rows) // 5
    valid = np.random.choice(list(every), size=held_out, replace=False)
    left = every - set(valid)
    test = np.random.choice(list(left), size=held_out, replace=False)
    train = list(left - set(test))
    histories: dict[Any, list[Any]] = {}
    for i in train:
        user, item, label = rows[i]
        if label == 1:
            histories.setdefault(user, []).append(item)
    parts = [
        rows[[i for i in indices if rows[i][0] in histories]] for indices in (train, valid, test)
    ]
    return parts, histories, graph_of(triples)

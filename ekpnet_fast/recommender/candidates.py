"""Candidates of a list: the items of a large catalogue that are worth an exact score.

1. All representatives of the index get exact scores. A plane is fitted to them, as a function of
   the vectors, and at each of the best blocks a slope, to its neighbours.
2. In those blocks every item's score is estimated: by its representative's, and by the slope for
   the way from there to the item. The best get exact scores.
3. A plane fitted to the best of these finds the last quarter.

Nothing is drawn, and sums have a fixed order, so that an answer does not depend on threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.tables import Int32
from ekpnet_fast.recommender.item_index import ItemIndex

SPREAD = 2.0  # standard deviations of a block's estimates that it is put forward by
POOL = 10  # items whose score is estimated, for one that is scored
REFITTED = 4  # one in so many candidates is chosen by the second plane
BEST = 500  # items that the second plane is fitted to
PRIOR = 30.0  # weight of the first plane where the second is fitted

Float = NDArray[np.float32]
Score = Callable[[Int32], Float]
"""Exact scores [n] of items [n]."""


@dataclass(frozen=True, eq=False)
class Scored:
    """Best of the items that were scored, and their exact scores.

    Attributes:
        items: [n] int32, rising.
        scores: [n] float32.
        count: items that were scored.
    """

    items: Int32
    scores: Float
    count: int


def best_candidates(
    index: ItemIndex, num_items: int, candidates: int, best: int, score: Score
) -> Scored:
    """Score the representatives, all items behind the index's, and so many candidates.

    Args:
        index: of the first items.
        num_items: I of the catalogue.
        candidates: N.
        best: number of the highest scores that are wanted; all that are as high as the last of
            them come too.
        score: gives exact scores; it is called three times at most.
    """
    later = np.arange(len(index), num_items, dtype=np.int32)
    first = np.concatenate([index.representatives, later])
    found = [(first, score(first))]
    heights = _finite(found[0][1][: len(index.items)])
    plane = np.einsum("fk,k->f", index.plane, heights)
    steep = np.sqrt(np.einsum("kf,f->k", index.spreads, np.square(plane[:-1])))
    blocks = _best(heights + SPREAD * steep, -(-POOL * candidates // index.items.shape[1]) + 1)
    vectors, items = index.vectors[blocks], index.items[blocks]
    left_out = items < 0
    left_out[:, 0] = True

    def take(estimates: Float, count: int) -> NDArray[np.int64]:
        estimates[left_out] = -np.inf
        chosen = _best(estimates.ravel(), min(count, left_out.size - int(left_out.sum())))
        left_out.ravel()[chosen] = True
        found.append((items.ravel()[chosen], score(items.ravel()[chosen])))
        return chosen

    last = candidates // REFITTED
    slopes = _slopes(index, heights, plane, blocks)
    estimates = np.einsum("kfl,kf->kl", vectors, slopes)
    estimates += (heights[blocks] - np.einsum("kf,kf->k", index.centres[blocks], slopes))[:, None]
    taken = take(estimates, candidates - last)
    if last and len(taken):
        scores = _finite(found[-1][1])
        top = _best(scores, BEST)
        block, place = np.divmod(taken[top], items.shape[1])
        second = _refitted(plane, vectors[block, :, place], scores[top])
        take(np.einsum("kfl,f->kl", vectors, second[:-1]), last)
    every, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    ranked = np.where(np.isnan(scores), -np.inf, scores)
    kept = np.arange(len(ranked))
    if best < len(ranked):
        kept = np.flatnonzero(ranked >= np.partition(ranked, len(ranked) - best)[-best])
    kept = kept[np.argsort(every[kept])]
    return Scored(every[kept], scores[kept], len(every))


def _slopes(
    index: ItemIndex,
    heights: Float,  # [K]
    plane: Float,  # [F + 1]
    blocks: NDArray[np.int64],  # [k]
) -> Float:
    """Slopes [k, F] at some blocks, by the heights of their neighbours."""
    over = heights - np.einsum("kf,f->k", index.centres, plane[:-1])
    away = over[index.neighbours[blocks]] - over[blocks, None]
    found: Float = plane[:-1] + np.einsum("kn,knf->kf", away, index.slopes[blocks])
    return found


def _finite(scores: Float) -> Float:
    """Scores to fit planes to: where one is no finite number, the lowest that is."""
    good = np.isfinite(scores)
    if good.all():
        return scores
    return np.where(good, scores, scores[good].min() if good.any() else np.float32(0))


def _best(scores: Float, count: int) -> NDArray[np.int64]:
    """Places of the highest scores, in any order."""
    if count >= len(scores):
        return np.arange(len(scores))
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    cut = len(scores) - count
    found: NDArray[np.int64] = np.argpartition(scores, cut)[cut:]
    return found


def _refitted(plane: Float, vectors: Float, scores: Float) -> Float:
    """Plane [F + 1] near another one that fits some scores better."""
    x = np.concatenate([vectors, np.ones((len(vectors), 1), np.float32)], axis=1)
    left = scores - np.einsum("nf,f->n", x, plane)
    squares = np.einsum("nf,ng->fg", x, x, dtype=np.float64) + PRIOR * np.eye(x.shape[1])
    change = np.linalg.solve(squares, np.einsum("nf,n->f", x, left, dtype=np.float64))
    found: Float = (plane + change).astype(np.float32)
    return found

"""What EKPNet+'s options draw: clicked items, what was clicked with them, triples of the items."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.graph import Graph
from ekpnet_fast.histories import Histories
from ekpnet_fast.sampling import RippleSets, localize

__all__ = ["ItemSets", "clicked", "clicked_with", "views"]

VIEWED = 256  # items of a mini-batch that the contrastive term compares


def clicked(
    histories: Histories, ids: Tensor, slots: int, seed: int, epoch: int
) -> tuple[Tensor, Tensor]:
    """Clicked items [G, M] and how many [G], of histories `ids` [G]."""
    relations = torch.zeros(len(histories.items), dtype=torch.uint8)
    _, items, counts = ops.sample_neighbors(
        histories.indptr, relations, histories.items, ids.int(), slots, seed=seed, epoch=epoch
    )
    return items, counts


def clicked_with(
    graphs: Sequence[Graph],  # [F] by fold, or one
    histories: Histories,
    ids: Tensor,  # [G]
    slots: int,
    seed: int,
    epoch: int,
) -> RippleSets:
    """Triples (clicked item, clicked with, item) of histories `ids`, one hop, by their folds."""
    G, F = len(ids), len(graphs)
    heads, tails = torch.zeros(2, G, 1, slots, dtype=torch.int32)
    counts = torch.zeros(G, 1, dtype=torch.int32)
    for fold, graph in enumerate(graphs):
        at = torch.nonzero(ids % F == fold).squeeze(1)
        own = histories.of(ids[at])
        found = RippleSets.sample(
            graph,
            own.indptr,
            own.items,
            hops=1,
            slots=slots,
            seed=seed,
            epoch=epoch,
            users=ids[at].int(),
        )
        heads[at], tails[at], counts[at] = found.heads, found.tails, found.counts
    return RippleSets(heads, torch.zeros_like(heads), tails, counts)


class ItemSets:
    """Ripple sets of one hop that start from the items, drawn once an epoch for all of them."""

    def __init__(self, graph: Graph, num_items: int, slots: int, seed: int) -> None:
        self.graph, self.num_items, self.slots, self.seed = graph, num_items, slots, seed
        self._drawn: tuple[int, RippleSets] | None = None

    def of(self, items: Tensor, epoch: int) -> dict[str, Tensor]:
        """item_heads, item_relations, item_tails [n, 1, S], item_counts [n, 1]; item_of [B] in n.

        The n are the distinct ones among the items [B].
        """
        drawn = self._drawn
        if drawn is None or drawn[0] != epoch:
            every = torch.arange(self.num_items, dtype=torch.int32)
            sets = RippleSets.sample(
                self.graph,
                torch.arange(self.num_items + 1),
                every,
                hops=1,
                slots=self.slots,
                seed=self.seed,
                epoch=epoch,
            )
            drawn = self._drawn = epoch, sets
        distinct, at = localize(items)
        found = vars(drawn[1].of_users(distinct.long()))
        return {**{f"item_{name}": x for name, x in found.items()}, "item_of": at.long()}


def views(
    graph: Graph, together: Graph, items: Tensor, slots: int, seed: int, epoch: int
) -> dict[str, Tensor]:
    """near, with [n, S] and their counts [n]: neighbours of n items by the graph and by clicks."""
    distinct, _ = localize(items)
    found = {}
    for name, by in (("near", graph), ("with", together)):
        _, found[name], found[f"{name}_counts"] = ops.sample_neighbors(
            by.indptr, by.relations, by.tails, distinct[:VIEWED], slots, seed=seed, epoch=epoch
        )
    return found

"""What EKPNet+'s options draw: clicked items, what was clicked with them, triples of the items."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.sampling.batches import localize
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.ripple_sets import RippleSets

__all__ = ["ItemSets", "clicked", "clicked_with", "views"]

VIEWED = 256  # items of a mini-batch that the contrastive term compares


def clicked(
    histories: Histories, ids: Tensor, other: Tensor, slots: int, seed: int, epoch: int
) -> tuple[Tensor, Tensor]:
    """Clicked items [G, M] and how many [G], of histories `ids` [G]; masked slots are `other`."""
    relations = torch.zeros(len(histories.items), dtype=torch.uint8)
    _, items, counts = ops.sample_neighbors(
        histories.indptr, relations, histories.items, ids.int(), slots, seed=seed, epoch=epoch
    )
    return _filled(items, counts, other), counts


def clicked_with(
    graphs: Sequence[Graph],  # [F] by fold, or one
    histories: Histories,
    ids: Tensor,  # [G]
    other: Tensor,  # [G] int32, in masked slots
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
    heads, tails = _filled(heads, counts, other), _filled(tails, counts, other)
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
        sets = drawn[1].of_users(distinct.long())
        return {
            "item_heads": _filled(sets.heads, sets.counts, distinct),
            "item_relations": sets.relations,
            "item_tails": _filled(sets.tails, sets.counts, distinct),
            "item_counts": sets.counts,
            "item_of": at.long(),
        }


def views(
    graph: Graph, together: Graph, items: Tensor, slots: int, seed: int, epoch: int
) -> dict[str, Tensor]:
    """view_near, view_with [n, S], view_*_counts [n]: neighbours of n items by graph and clicks."""
    distinct = localize(items)[0][:VIEWED]
    found: dict[str, Tensor] = {}
    for name, by in (("view_near", graph), ("view_with", together)):
        _, ids, counts = ops.sample_neighbors(
            by.indptr, by.relations, by.tails, distinct, slots, seed=seed, epoch=epoch
        )
        found |= {name: _filled(ids, counts, distinct), f"{name}_counts": counts}
    return found


def _filled(ids: Tensor, counts: Tensor, other: Tensor) -> Tensor:
    """Ids [n, ..., M] with `other` [n] in the masked slots, so that they touch no row besides."""
    valid = torch.arange(ids.shape[-1]) < counts.unsqueeze(-1)
    return torch.where(valid, ids, other.view(-1, *[1] * (ids.dim() - 1)).to(ids.dtype))

"""Operation and byte counts of the ops, from the equations: the least that must be done.

Operations are products, sums and exponentials. Bytes are the fewest that must move: every row that
a batch names once, every id, input and output once. What the backward pass of the propagation
recomputes of the forward pass counts, because its results are not stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ekpnet_fast.ops import Propagation


@dataclass(frozen=True, slots=True)
class Work:
    """Least operations and bytes of a call."""

    operations: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def seconds(self, operations_per_s: float, bytes_per_s: float) -> float:
        """Floor of the time, by the ceiling that binds."""
        return max(self.operations / operations_per_s, self.bytes / bytes_per_s)


def attention_work(propagation: Propagation) -> dict[str, Work]:
    """Work of `ops.ripple_attention`, forward and backward."""
    entity, relation, W_e, _, heads, _, tails, counts, group_indptr, items = propagation
    B, H, D, size = items.numel(), heads.shape[1], W_e.shape[0], entity.element_size()
    slots = int(counts.sum())  # valid slots of all groups
    pair_slots = int((counts.sum(1) * group_indptr.diff()).sum())  # slots that a pair attends to
    tile = slots * 2 * (2 * D + D + D / 2)  # two projections, one sum per slot
    # Per slot: eq. 9, 10, 11; per pair and hop: eq. 14, 12; per pair: eq. 15.
    forward = tile + pair_slots * (4 * D + 5) + B * H * (2 * D + 2 * D * D) + B * 2 * D
    undo = pair_slots * (8 * D + 4) + B * H * (4 * D * D + 4 * D)
    backward = forward + tile + undo + slots * 14 * D
    named = [x.unique().numel() for x in (heads, tails, items)]
    rows = _distinct(heads, tails, items)
    read = rows * 2 * D * size + sum(x.nbytes for x in propagation[1:])
    z = B * ((H + 1) * D + 1) * size
    gradients = (max(rows, *named) * 2 * D + relation.numel() + D * D + D) * size
    return {"forward": Work(forward, read + z), "backward": Work(backward, read + z + gradients)}


def score_work(z: Tensor, weights: Tensor) -> dict[str, Work]:
    """Work of `ops.deep_score` (eq. 17, 18), forward and backward.

    The backward pass makes two products for each one of the forward pass. Its hidden values may be
    kept or computed again; neither is counted.
    """
    (B, K), layers = z.shape, weights.shape[0]
    forward = B * (layers * (2 * K * K + 2 * K) + 2 * K)
    backward = B * (layers * (4 * K * K + 4 * K) + 4 * K)
    parameters = (weights.numel() + layers * K + K + 1) * z.element_size()
    moved = z.nbytes + parameters + B * z.element_size()
    return {"forward": Work(forward, moved), "backward": Work(backward, 2 * moved)}


def row_adam_work(grad: Tensor) -> Work:
    """Work of `ops.row_adam_` on a gradient's rows: three tables read and written, the gradient."""
    return Work(14 * grad.numel(), 7 * grad.nbytes + 4 * len(grad))


def top_items_work(scores: Tensor, seen: Tensor, k: int) -> Work:
    """Work of `ops.top_items`: every score is compared once."""
    return Work(scores.numel(), scores.nbytes + seen.nbytes + 4 * k * len(scores))


def ripple_bytes(counts: Tensor, seeds: Tensor) -> int:
    """Least bytes that drawing ripple sets moves: per valid slot a triple read, three ids written.

    Every seed and every tail that a later hop starts from is read with its two row pointers.
    """
    slots = int(counts.sum())
    later = int(counts[:, :-1].sum())
    return slots * (5 + 12) + (seeds.numel() + later) * (4 + 16) + counts.nbytes


def _distinct(*ids: Tensor) -> int:
    limit = max(int(x.max()) for x in ids) + 1
    named = ids[0].new_zeros(limit)
    for x in ids:
        named[x.flatten().long()] = 1
    return int(named.sum())

"""Graph as CSR, and samplers over it."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, library

from ekpnet_fast.ops.torch_library import ekpnet

_SOUND: dict[tuple[int, int, bool], tuple[Any, ...]] = {}
_MOST_SOUND = 64  # graphs that are remembered


def _check_graph(indptr: Tensor, tails: Tensor, *, walked: bool = True) -> None:
    """Refuse row pointers that fall and, where they are walked on from, tails that are no entities.

    The samplers check what they read of a graph; here all of it is, but once, because that takes
    longer than to draw from it. What is no plain CPU tensor is left to them, as are wrong types.
    """
    key = id(indptr), id(tails), walked
    known = _SOUND.get(key)
    if (
        known is not None
        and (known[0]() is indptr and known[1]() is tails)
        and known[2] == (indptr._version, tails._version)
    ):
        return
    plain = all(
        type(x) is Tensor and x.device.type == "cpu" and x.dim() == 1 for x in (indptr, tails)
    )
    fits = plain and indptr.dtype == torch.int64 and tails.dtype == torch.int32 and len(indptr) > 0
    if not fits or indptr.is_inference() or tails.is_inference():
        return
    falls = indptr[1:] < indptr[:-1]
    if bool(falls.any()):
        at = int(falls.nonzero()[0])
        raise RuntimeError(
            f"indptr falls from {int(indptr[at])} to {int(indptr[at + 1])} at position {at + 1}"
        )
    num_entities = len(indptr) - 1
    if walked and len(tails) and not 0 <= int(tails.min()) <= int(tails.max()) < num_entities:
        at = int(((tails < 0) | (tails >= num_entities)).nonzero()[0])
        raise RuntimeError(
            f"tails holds id {int(tails[at])} at position {at}, expected 0 <= id < {num_entities}"
            " (entities)"
        )
    _remember(indptr, tails, walked)


def _remember(indptr: Tensor, tails: Tensor, walked: bool) -> None:
    if len(_SOUND) >= _MOST_SOUND:
        _SOUND.clear()
    known = weakref.ref(indptr), weakref.ref(tails), (indptr._version, tails._version)
    _SOUND[id(indptr), id(tails), walked] = known


def leave_checks_to_samplers(indptr: Tensor, tails: Tensor) -> None:
    """Do not look through this graph before it is sampled from, as one that is a large file.

    Samplers refuse what they meet of it that is wrong; the rest nobody sees.
    """
    for walked in (True, False):
        _remember(indptr, tails, walked)


def build_csr(
    heads: Tensor,  # [T] int32
    relations: Tensor,  # [T] int32
    tails: Tensor,  # [T] int32
    num_entities: int,
    num_relations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Triples grouped by head: indptr [E + 1] int64, relations [T], tails [T] int32.

    Relations come in the smallest of uint8, int16, int32 that holds R. Within a head triples keep
    their order.
    """
    return tuple(ekpnet.build_csr.default(heads, relations, tails, num_entities, num_relations))


@library.register_fake("ekpnet::build_csr")
def _(
    heads: Tensor, relations: Tensor, tails: Tensor, num_entities: int, num_relations: int
) -> Any:
    dtype = torch.int32
    if num_relations <= 1 << 15:
        dtype = torch.uint8 if num_relations <= 1 << 8 else torch.int16
    return (
        heads.new_empty(num_entities + 1, dtype=torch.int64),
        torch.empty_like(relations, dtype=dtype),
        torch.empty_like(tails),
    )


def sample_ripple_sets(
    indptr: Tensor,  # [E + 1] int64
    relations: Tensor,  # [T] uint8, int16 or int32
    tails: Tensor,  # [T] int32
    seed_indptr: Tensor,  # [U + 1] int64
    seeds: Tensor,  # [history] int32, entity ids
    *,
    hops: int,
    slots: int,
    seed: int,
    epoch: int = 0,
    users: Tensor | None = None,  # [U] int32, ids that key the draw; 0 .. U - 1 if None
    repeat: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ripple sets of U histories (eq. 3-5): heads, relations, tails [U, H, M], counts [U, H].

    At each hop M triples are drawn uniformly without replacement from those whose head is in the
    set before; with fewer, each is kept once and `counts` says how many slots are valid (masked
    slots hold 0). An entity stays in the set where it first appeared; the next hop starts from the
    drawn tails. `repeat=True` follows RippleNet's code instead: heads with multiplicity, short
    hops filled by drawing with replacement, an empty hop copies the one before.

    A draw is a hash of (seed, epoch, user, hop, slot): the same at any number of threads and in
    any order of users. H 1..64, M 1..65,536.
    """
    _check_graph(indptr, tails)
    return tuple(
        ekpnet.sample_ripple_sets.default(
            indptr, relations, tails, seed_indptr, seeds, users, hops, slots, seed, epoch, repeat
        )
    )


@library.register_fake("ekpnet::sample_ripple_sets")
def _(
    indptr: Tensor,
    relations: Tensor,
    tails: Tensor,
    seed_indptr: Tensor,
    seeds: Tensor,
    users: Tensor | None,
    hops: int,
    slots: int,
    seed: int,
    epoch: int,
    repeat: bool,
) -> Any:
    num_users = seed_indptr.size(0) - 1
    sets = [tails.new_empty(num_users, hops, slots) for _ in range(3)]
    return (*sets, tails.new_empty(num_users, hops))


def sample_fold_ripple_sets(
    indptr: Tensor,  # [E + 1] int64
    relations: Tensor,  # [T] uint8, int16 or int32
    tails: Tensor,  # [T] int32
    seed_indptr: Tensor,  # [U + 1] int64
    seeds: Tensor,  # [history] int32, entity ids
    seed_folds: Tensor,  # [history] int32, fold of each
    *,
    folds: int,
    hops: int,
    slots: int,
    seed: int,
    epoch: int = 0,
    users: Tensor | None = None,  # [U] int32, ids that key the draw; 0 .. U - 1 if None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Ripple sets of U histories for F = `folds` folds: as `sample_ripple_sets`, and slot_folds.

    Fold k sees the slots whose bit k is set in slot_folds [U, H, M] int64: at each hop, of the M
    triples that are drawn from all that any fold reaches, those that it reaches without the
    history's entities of fold k. Given their number they are a uniform draw from what it would draw
    from alone. F 1..64.
    """
    return tuple(
        ekpnet.sample_fold_ripple_sets.default(
            indptr,
            relations,
            tails,
            seed_indptr,
            seeds,
            seed_folds,
            users,
            folds,
            hops,
            slots,
            seed,
            epoch,
        )
    )


@library.register_fake("ekpnet::sample_fold_ripple_sets")
def _(
    indptr: Tensor,
    relations: Tensor,
    tails: Tensor,
    seed_indptr: Tensor,
    seeds: Tensor,
    seed_folds: Tensor,
    users: Tensor | None,
    folds: int,
    hops: int,
    slots: int,
    seed: int,
    epoch: int,
) -> Any:
    num_users = seed_indptr.size(0) - 1
    sets = [tails.new_empty(num_users, hops, slots) for _ in range(3)]
    slot_folds = seed_indptr.new_empty(num_users, hops, slots)
    return (*sets, tails.new_empty(num_users, hops), slot_folds)


def sample_neighbors(
    indptr: Tensor,  # [E + 1] int64
    relations: Tensor,  # [T] uint8, int16 or int32
    tails: Tensor,  # [T] int32
    nodes: Tensor,  # [n] int32, entity ids
    count: int,
    *,
    seed: int,
    epoch: int = 0,
    repeat: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbours, `count` = K of each node's triples: relations, tails [n, K], counts [n], int32.

    K are drawn uniformly without replacement where the node has as many. With fewer each is kept
    once and `counts` says how many slots are valid (masked slots hold 0); `repeat=True` draws K
    with replacement instead, as KGCN does. A node without triples has count 0 in either case.
    K 1..1024.

    A draw is a hash of (seed, epoch, node, slot): equal nodes get equal neighbours within an epoch,
    at any number of threads.
    """
    _check_graph(indptr, tails, walked=False)  # tails may be ids of another kind, such as items
    return tuple(
        ekpnet.sample_neighbors.default(indptr, relations, tails, nodes, count, seed, epoch, repeat)
    )


@library.register_fake("ekpnet::sample_neighbors")
def _(
    indptr: Tensor,
    relations: Tensor,
    tails: Tensor,
    nodes: Tensor,
    count: int,
    seed: int,
    epoch: int,
    repeat: bool,
) -> Any:
    n = nodes.size(0)
    return tails.new_empty(n, count), tails.new_empty(n, count), tails.new_empty(n)


def sample_triples(
    indptr: Tensor,  # [E + 1] int64
    relations: Tensor,  # [T] uint8, int16 or int32
    tails: Tensor,  # [T] int32
    count: int,
    *,
    seed: int,
    step: int,
    first: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Triples, `count` true, then as many corrupted: heads, relations, tails [2 count] int32.

    True triples are uniform with replacement; a corrupted one has its head or its tail, by even
    chance, replaced by a uniform entity. Draw k is a hash of (seed, step, first + k).
    `count` and `first` 0..2^30.
    """
    _check_graph(indptr, tails)
    return tuple(ekpnet.sample_triples.default(indptr, relations, tails, count, first, seed, step))


@library.register_fake("ekpnet::sample_triples")
def _(
    indptr: Tensor, relations: Tensor, tails: Tensor, count: int, first: int, seed: int, step: int
) -> Any:
    return tuple(tails.new_empty(2 * count) for _ in range(3))

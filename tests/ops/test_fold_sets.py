"""Ripple sets that the folds of a user share: how they are drawn, and how a batch takes them."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import library

from ekpnet_fast import ops
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.ripple_sets import FoldRippleSets, LazyFoldRippleSets, RippleSets
from support.graphs import assert_frequencies, csr, cycle, numbered, path, star


def ids(*values):
    return torch.tensor(values, dtype=torch.int32)


def sample(graph, histories, folds, *, count, hops=1, slots=1, seed=0, epoch=0):
    """Shared sets; `histories` and `folds` are lists by user."""
    indptr, items = csr(histories)
    of_items = torch.tensor([fold for given in folds for fold in given], dtype=torch.int32)
    drawn = ops.sample_fold_ripple_sets(
        *(graph.indptr, graph.relations, graph.tails, indptr, items, of_items),
        folds=count,
        hops=hops,
        slots=slots,
        seed=seed,
        epoch=epoch,
    )
    return FoldRippleSets(RippleSets(*drawn[:4]), drawn[4])


def triples_of(sets, user, hop):
    """Triples of a hop of plain sets, in order."""
    valid = slice(int(sets.counts[user, hop]))
    columns = (sets.heads, sets.relations, sets.tails)
    return list(zip(*(x[user, hop, valid].tolist() for x in columns), strict=True))


def seen_by(shared, user, fold):
    """Triples that a fold sees, by hop."""
    apart = shared.of(torch.tensor([user]), torch.tensor([fold]))
    return [triples_of(apart, 0, hop) for hop in range(apart.counts.shape[1])]


def random_users(seed, num_users, num_entities, count, longest=6):
    """Histories and the folds of their entities; some entities are repeated, in other folds."""
    stream = np.random.default_rng(seed)
    sizes = stream.integers(0, longest + 1, num_users)
    histories = [stream.integers(0, num_entities, size).tolist() for size in sizes]
    return histories, [stream.integers(0, count, size).tolist() for size in sizes]


# ---- sample_fold_ripple_sets -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("triples", "inverse", "history", "folds", "count", "expected"),
    [
        # Fold 1, of whose history 0 is left, reaches 1 by it; fold 0 sees what follows 1 alone.
        (path(4), False, [0, 1], [0, 1], 2, [
            {(0, 0, 1): {1}, (1, 0, 2): {0}},
            {(1, 0, 2): {1}, (2, 0, 3): {0}},
            {(2, 0, 3): {1}},
        ]),
        # Both in one fold: that fold has no history, and the other has all of it.
        (path(4), False, [0, 1], [1, 1], 2, [
            {(0, 0, 1): {0}, (1, 0, 2): {0}}, {(2, 0, 3): {0}}, {},
        ]),
        # Three folds, one of them without a click.
        (path(4), False, [0, 2], [0, 1], 3, [
            {(0, 0, 1): {1, 2}, (2, 0, 3): {0, 2}}, {(1, 0, 2): {1, 2}}, {(2, 0, 3): {1}},
        ]),
        # 1 and 2 reach the hub, which leads to both; its slots are seen by whoever reached it.
        (star(3), True, [1, 2], [0, 1], 2, [
            {(1, 2, 0): {1}, (2, 3, 0): {0}},
            {(0, 0, 1): {0, 1}, (0, 1, 2): {0, 1}},
            {(1, 2, 0): {0}, (2, 3, 0): {1}},
        ]),
        (cycle(1), False, [0], [0], 2, [{(0, 0, 0): {1}}, {}, {}]),
        (path(3), False, [], [], 2, [{}, {}, {}]),
    ],
)  # fmt: skip
def test_by_hand(triples, inverse, history, folds, count, expected):
    graph = Graph.from_triples(*triples, inverse=inverse)
    shared = sample(graph, [history], [folds], count=count, hops=3, slots=5)
    for hop, by_triple in enumerate(expected):
        bits = shared.slot_folds[0, hop].tolist()
        drawn = triples_of(shared.sets, 0, hop)
        found = {t: {k for k in range(64) if bits[m] >> k & 1} for m, t in enumerate(drawn)}
        assert found == by_triple and len(drawn) == len(by_triple)
        for column in (shared.sets.heads, shared.sets.tails, shared.slot_folds):
            assert not column[0, hop, len(drawn) :].any()


@pytest.mark.parametrize("count", [1, 2, 5, 64])
@pytest.mark.parametrize(("num_entities", "num_triples"), [(6, 9), (25, 60), (100, 90)])
def test_a_fold_sees_the_set_of_its_own_history(num_entities, num_triples, count):
    # All triples fit, so that nothing is left to chance.
    graph = Graph.from_triples(*numbered(count, num_entities, num_triples))
    histories, folds = random_users(num_triples, 40, num_entities, count)
    shared = sample(graph, histories, folds, count=count, hops=4, slots=num_triples)
    for k in range(count):
        own = [
            [item for item, fold in zip(history, of, strict=True) if fold != k]
            for history, of in zip(histories, folds, strict=True)
        ]
        alone = RippleSets.sample(graph, *csr(own), hops=4, slots=num_triples, seed=1)
        for user in range(len(histories)):
            expected = [sorted(triples_of(alone, user, hop)) for hop in range(4)]
            assert list(map(sorted, seen_by(shared, user, k))) == expected


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_slots_follow_the_definition(slots):
    heads, relations, tails, *_ = triples = numbered(slots, 25, 400)
    by_head = {}
    for triple in zip(heads.tolist(), relations.tolist(), tails.tolist(), strict=True):
        by_head.setdefault(triple[0], []).append(triple)
    histories, folds = random_users(slots, 60, 25, 3)
    shared = sample(Graph.from_triples(*triples), histories, folds, count=3, hops=4, slots=slots)
    for user in range(60):
        seen = [set() for _ in range(3)]
        reached = [
            {i for i, fold in zip(histories[user], folds[user], strict=True) if fold != k}
            for k in range(3)
        ]
        by_fold = [seen_by(shared, user, k) for k in range(3)]
        for hop in range(4):
            candidates = []
            for k in range(3):
                fresh = reached[k] - seen[k]
                seen[k] |= fresh
                candidates.append({t for entity in fresh for t in by_head.get(entity, [])})
                drawn = by_fold[k][hop]
                assert len(set(drawn)) == len(drawn) and set(drawn) <= candidates[k]
                reached[k] = {tail for _, _, tail in drawn}
            every = triples_of(shared.sets, user, hop)
            assert len(set(every)) == len(every) == min(slots, len(set.union(*candidates)))
            for k in range(3):
                assert set(by_fold[k][hop]) == set(every) & candidates[k]


@pytest.mark.parametrize("hop", [0, 1])
def test_what_a_fold_sees_is_a_uniform_draw_whatever_its_own_clicks_reach(hop):
    # Fold 0's click is entity 1; 0 leads to five triples that fold 0 may see, 1 to three others.
    # From 2 and 3 the same is reached one hop later.
    heads = np.int32([0] * 5 + [1] * 3 + [2, 3])
    tails = np.int32([9] * 8 + [0, 1])
    graph = Graph.from_triples(heads, np.arange(10), tails, 10, 10)
    history = [[0, 1], [2, 3]][hop]
    users = 20000
    shared = sample(graph, [history] * users, [[1, 0]] * users, count=2, hops=2, slots=4)
    apart = shared.of(torch.arange(users), torch.zeros(users, dtype=torch.int32))
    counts, relations = apart.counts[:, hop], apart.relations[:, hop]
    assert set(counts.tolist()) == {1, 2, 3, 4}
    for size in (1, 2, 3, 4):
        drawn = relations[counts == size, :size].sort(1).values
        found = Counter(map(tuple, drawn.tolist()))
        subsets = list(combinations(range(5), size))
        assert set(found) <= set(subsets)
        assert_frequencies([found[subset] for subset in subsets])


def test_same_for_any_number_of_threads(threads):
    graph = Graph.from_triples(*numbered(7, 200, 2000))
    histories, folds = random_users(8, 2300, 200, 5)
    threads(1)
    expected = sample(graph, histories, folds, count=5, hops=3, slots=9)
    for count in (2, 8):
        threads(count)
        found = sample(graph, histories, folds, count=5, hops=3, slots=9)
        assert torch.equal(found.slot_folds, expected.slot_folds)
        for a, b in zip(vars(found.sets).values(), vars(expected.sets).values(), strict=True):
            assert torch.equal(a, b)


def test_a_draw_depends_on_seed_epoch_and_user():
    graph = Graph.from_triples(*numbered(1, 10, 1000))
    history, folds = [list(range(10))] * 2, [[0, 1] * 5] * 2
    drawn = [
        sample(graph, history, folds, count=2, slots=16, seed=s, epoch=e).sets.relations
        for s, e in [(0, 0), (0, 1), (1, 0), (1, 2)]
    ]
    assert len({tuple(x) for relations in drawn for x in relations[:, 0].tolist()}) == 8


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({5: ids(0, 3, 1)}, "seed_folds holds id 3 at position 1.*< 3"),
        ({5: ids(0, -1, 1)}, "seed_folds holds id -1 at position 1"),
        ({5: ids(0, 1)}, r"seed_folds has shape \[2\], expected \[3\]"),
        ({5: torch.tensor([0, 1, 2])}, "seed_folds is int64, expected int32"),
        ({6: ids(0, 1)}, r"users has shape \[2\], expected \[1\]"),
        ({7: 0}, "folds F is 0, expected 1 to 64"),
        ({7: 65}, "folds F is 65, expected 1 to 64"),
        ({4: ids(0, 3, 1)}, "seeds holds id 3 at position 1"),
        ({3: torch.tensor([0, 2])}, "seed_indptr ends with 2, expected 3"),
        ({8: 0}, "hops is 0, expected 1 to 64"),
        ({9: 0}, "slots is 0, expected 1 to 65536"),
    ],
)
def test_sample_refuses(changed, message):
    graph = Graph.from_triples(*path(3))
    arguments = [
        *(graph.indptr, graph.relations, graph.tails, torch.tensor([0, 3]), ids(0, 1, 2)),
        *(ids(0, 1, 2), None, 3, 1, 4, 0, 0),
    ]
    for position, value in changed.items():
        arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.ekpnet.sample_fold_ripple_sets.default(*arguments)


def test_sample_opcheck():
    graph = Graph.from_triples(*path(3))
    library.opcheck(
        torch.ops.ekpnet.sample_fold_ripple_sets.default,
        (
            *(graph.indptr, graph.relations, graph.tails, *csr([[0, 1], []]), ids(0, 1)),
            *(ids(5, 3), 2, 2, 3, 0, 0),
        ),
    )


def test_a_users_sets_do_not_depend_on_the_others():
    graph = Graph.from_triples(*numbered(1, 60, 900))
    histories, folds = random_users(2, 40, 60, 4)
    every = sample(graph, histories, folds, count=4, hops=3, slots=5, seed=9, epoch=1)
    indptr, items = csr(histories)
    of_items = csr(folds)[1]
    how = {"hops": 3, "slots": 5, "seed": 9, "epoch": 1}
    lazy = LazyFoldRippleSets(graph, Histories(indptr, items), of_items, 4, **how)
    for some in ([7], [39, 0, 7, 7], list(range(40)), []):
        users = torch.tensor(some, dtype=torch.int64)
        found = lazy.of_users(users)
        assert torch.equal(found.slot_folds, every.slot_folds[users])
        for name in ("heads", "relations", "tails", "counts"):
            assert torch.equal(getattr(found.sets, name), getattr(every.sets, name)[users])


# ---- sets apart --------------------------------------------------------------------------------


def test_sets_apart_by_hand():
    heads = ids(1, 2, 3, 4, 5, 6).view(1, 2, 3)
    shared = FoldRippleSets(
        RippleSets(heads, heads + 10, heads + 20, ids(3, 2).view(1, 2)),
        torch.tensor([[[0b01, 0b10, 0b11], [0b10, 0b10, 0b11]]]),
    )
    found = shared.of(torch.tensor([0, 0, 0]), ids(1, 0, 1))
    by_fold = [[[1, 3, 0], [0, 0, 0]], [[2, 3, 0], [4, 5, 0]]]
    expected = torch.tensor([by_fold[1], by_fold[0], by_fold[1]], dtype=torch.int32)
    assert torch.equal(found.heads, expected)
    assert torch.equal(found.relations, torch.where(expected > 0, expected + 10, 0))
    assert torch.equal(found.tails, torch.where(expected > 0, expected + 20, 0))
    assert found.counts.tolist() == [[2, 2], [2, 0], [2, 2]]
    assert found.counts.dtype == found.heads.dtype == torch.int32


# ---- localize_fold_batch -----------------------------------------------------------------------


def random_batch(seed, *, users=6, groups=9, pairs=20, folds=3, hops=2, slots=7, entities=50):
    """Arguments of `localize_fold_batch`; masked slots hold garbage."""
    stream = np.random.default_rng(seed)
    shape = (users, hops, slots)

    def drawn(limit, size):
        return torch.from_numpy(stream.integers(0, limit, size, dtype=np.int32))

    sets = [drawn(entities, shape), drawn(9, shape), drawn(entities, shape)]
    sets += [drawn(slots + 1, shape[:2]), drawn(1 << folds, shape).long()]
    inner = np.sort(stream.integers(0, pairs + 1, groups - 1))
    indptr = torch.from_numpy(np.concatenate([[0], inner, [pairs]]))
    return [
        *(*sets, drawn(users, groups), indptr),
        *(drawn(entities, pairs), drawn(folds, pairs), drawn(entities, 4)),
    ]


@pytest.mark.parametrize("slots", [1, 7, 33])
def test_localize_leaves_out_what_no_pair_sees(slots):
    batch = random_batch(slots, slots=slots)
    *sets, slot_folds, users, indptr, items, folds, extra = batch
    rows, *found, out_folds, out_items, out_extra = ops.localize_fold_batch(*batch)
    appearance = []
    for group, user in enumerate(users.tolist()):
        present = set(folds[indptr[group] : indptr[group + 1]].tolist())
        for hop in range(2):
            kept = [
                m
                for m in range(int(sets[3][user, hop]))
                if any(slot_folds[user, hop, m] >> k & 1 for k in present)
            ]
            n = len(kept)
            assert found[3][group, hop] == n
            for local, whole in ((found[0], sets[0]), (found[2], sets[2])):
                named = rows[local[group, hop, :n].long()]
                assert torch.equal(named, whole[user, hop, kept])
            assert torch.equal(found[1][group, hop, :n], sets[1][user, hop, kept])
            assert torch.equal(out_folds[group, hop, :n], slot_folds[user, hop, kept])
            for column in (*found[:3], out_folds):
                assert not column[group, hop, n:].any()
            for m in kept:
                appearance += [int(sets[0][user, hop, m]), int(sets[2][user, hop, m])]
    appearance += items.tolist() + extra.tolist()
    assert rows.tolist() == list(dict.fromkeys(appearance))
    assert torch.equal(rows[out_items.long()], items)
    assert torch.equal(rows[out_extra.long()], extra)


def test_localize_same_for_any_number_of_threads(threads):
    batch = random_batch(1, users=300, groups=700, pairs=4000, slots=32, entities=20000)
    threads(1)
    expected = ops.localize_fold_batch(*batch)
    for count in (2, 8):
        threads(count)
        for a, b in zip(ops.localize_fold_batch(*batch), expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("position", "change", "message"),
    [
        (4, lambda x: x[1:], r"slot_folds has shape \[5, 2, 7\], expected \[6, 2, 7\]"),
        (4, lambda x: x.int(), "slot_folds is int32, expected int64"),
        (6, lambda x: x[1:], r"group_indptr has shape \[9\], expected \[10\]"),
        (6, lambda x: x + 1, "group_indptr starts with 1, expected 0"),
        (7, lambda x: x[1:], "group_indptr ends with 20, expected 19"),
        (8, lambda x: x[1:], r"pair_folds has shape \[19\], expected \[20\]"),
        (8, lambda x: x + 62, "pair_folds holds id 64"),
        (8, lambda x: x - 3, "pair_folds holds id -1 at position 0"),
    ],
)
def test_localize_refuses(position, change, message):
    batch = random_batch(0)
    batch[8][0] = 2
    batch[8][1] = 0
    batch[position] = change(batch[position])
    with pytest.raises(RuntimeError, match=message):
        ops.localize_fold_batch(*batch)


def test_localize_opcheck():
    library.opcheck(torch.ops.ekpnet.localize_fold_batch.default, tuple(random_batch(0)))

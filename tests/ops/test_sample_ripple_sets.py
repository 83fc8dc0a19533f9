"""Ripple sets: hand-made graphs, the definition written as loops, uniformity, reproducibility."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import library

from ekpnet_fast import ops
from ekpnet_fast.sampling.graph import Graph
from support.graphs import assert_frequencies, csr, cycle, isolated, numbered, path, star


def sample(graph, histories, *, hops=1, slots=1, seed=0, **options):
    """Ripple sets as numpy arrays: heads, relations, tails [U, H, M], counts [U, H]."""
    sets = ops.sample_ripple_sets(
        graph.indptr,
        graph.relations,
        graph.tails,
        *csr(histories),
        hops=hops,
        slots=slots,
        seed=seed,
        **options,
    )
    return [x.numpy() for x in sets]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a, b)


def triples_of(sets, user, hop):
    """The valid triples of a hop, as tuples."""
    heads, relations, tails, counts = sets
    valid = slice(counts[user, hop])
    return list(
        zip(
            heads[user, hop, valid].tolist(),
            relations[user, hop, valid].tolist(),
            tails[user, hop, valid].tolist(),
            strict=True,
        )
    )


def triples_by_head(triples):
    heads, relations, tails, num_entities, _ = triples
    found = [[] for _ in range(num_entities)]
    for triple in zip(heads.tolist(), relations.tolist(), tails.tolist(), strict=True):
        found[triple[0]].append(triple)
    return found


def random_histories(seed, num_users, num_entities, longest=6):
    """From no entity to `longest`, some of them repeated."""
    stream = np.random.default_rng(seed)
    sizes = stream.integers(0, longest + 1, num_users)
    return [stream.integers(0, num_entities, size).tolist() for size in sizes]


# ---- by hand -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("triples", "inverse", "history", "expected"),
    [
        (path(5), False, [0], [{(0, 0, 1)}, {(1, 0, 2)}, {(2, 0, 3)}, {(3, 0, 4)}]),
        # 1 is a tail of the first hop, but stays in the history, where it appeared first.
        (path(5), False, [0, 1], [{(0, 0, 1), (1, 0, 2)}, {(2, 0, 3)}, {(3, 0, 4)}, set()]),
        (path(5), False, [1, 0, 1, 0], [{(0, 0, 1), (1, 0, 2)}, {(2, 0, 3)}, {(3, 0, 4)}, set()]),
        (path(5), False, [4], [set(), set(), set(), set()]),
        (path(5), False, [], [set(), set(), set(), set()]),
        # Back at the history there is nothing new.
        (cycle(3), False, [0], [{(0, 0, 1)}, {(1, 0, 2)}, {(2, 0, 0)}, set()]),
        (cycle(1), False, [0], [{(0, 0, 0)}, set(), set(), set()]),
        (cycle(4), False, [0, 2], [{(0, 0, 1), (2, 0, 3)}, {(1, 0, 2), (3, 0, 0)}, set(), set()]),
        (star(4), False, [0], [{(0, 0, 1), (0, 1, 2), (0, 2, 3)}, set(), set(), set()]),
        (star(4), False, [1, 2, 3], [set(), set(), set(), set()]),
        # From a leaf to the hub, to both leaves, and back from the other leaf only.
        (star(3), True, [1], [{(1, 2, 0)}, {(0, 0, 1), (0, 1, 2)}, {(2, 3, 0)}, set()]),
        (isolated(3), False, [0, 1, 2], [set(), set(), set(), set()]),
        (isolated(3), True, [0, 1, 2], [set(), set(), set(), set()]),
    ],
)
def test_by_hand(triples, inverse, history, expected):
    graph = Graph.from_triples(*triples, inverse=inverse)
    sets = sample(graph, [history], hops=4, slots=5)
    for p, triples_at_hop in enumerate(expected):
        found = triples_of(sets, 0, p)
        assert len(found) == len(triples_at_hop)
        assert set(found) == triples_at_hop
        for column in sets[:3]:
            assert not column[0, p, len(found) :].any()


@pytest.mark.parametrize(
    ("triples", "history", "expected"),
    [
        # The frontier keeps no memory: the cycle is walked round and round.
        (cycle(3), [0], [(0, 0, 1), (1, 0, 2), (2, 0, 0), (0, 0, 1)]),
        # 2 leads nowhere: the hop is copied, and again, as the copy's tails are 2 too.
        (path(3), [0], [(0, 0, 1), (1, 0, 2), (1, 0, 2), (1, 0, 2)]),
        (path(2), [0, 0, 1], [(0, 0, 1)] * 4),
        (path(2), [1], [None] * 4),
        (path(2), [], [None] * 4),
        (isolated(2), [0, 1], [None] * 4),
    ],
)
@pytest.mark.parametrize("slots", [1, 2, 5])
def test_repeat_by_hand(triples, history, expected, slots):
    graph = Graph.from_triples(*triples)
    sets = sample(graph, [history], hops=4, slots=slots, repeat=True)
    for p, triple in enumerate(expected):
        assert triples_of(sets, 0, p) == ([] if triple is None else [triple] * slots)
        if triple is None:
            assert not any(column[0, p].any() for column in sets[:3])


# ---- the definition ----------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 7, 32, 33])
@pytest.mark.parametrize(("num_entities", "num_triples"), [(6, 9), (25, 60), (25, 400), (300, 900)])
def test_sets_follow_the_definition(num_entities, num_triples, slots):
    triples = numbered(slots, num_entities, num_triples)
    by_head = triples_by_head(triples)
    histories = random_histories(num_triples, 60, num_entities)
    sets = sample(Graph.from_triples(*triples), histories, hops=4, slots=slots, seed=3)
    assert all(x.dtype == np.int32 for x in sets)
    assert sets[0].shape == (60, 4, slots)
    assert sets[3].shape == (60, 4)
    for user, history in enumerate(histories):
        seen, entities = set(), history
        for p in range(4):
            frontier = set(entities) - seen
            seen |= frontier
            candidates = {triple for entity in frontier for triple in by_head[entity]}
            drawn = triples_of(sets, user, p)
            assert len(drawn) == min(slots, len(candidates))
            # Relations number the triples, so this also says that none is drawn twice.
            assert len(set(drawn)) == len(drawn)
            assert set(drawn) <= candidates
            for column in sets[:3]:
                assert not column[user, p, len(drawn) :].any()
            entities = [tail for _, _, tail in drawn]


@pytest.mark.parametrize("slots", [1, 3, 16])
@pytest.mark.parametrize(("num_entities", "num_triples"), [(6, 9), (25, 60), (300, 900)])
def test_repeat_follows_ripplenet(num_entities, num_triples, slots):
    triples = numbered(slots, num_entities, num_triples)
    by_head = triples_by_head(triples)
    histories = random_histories(num_triples, 60, num_entities)
    graph = Graph.from_triples(*triples)
    sets = sample(graph, histories, hops=4, slots=slots, seed=5, repeat=True)
    for user, history in enumerate(histories):
        entities, before = history, []
        for p in range(4):
            memories = [triple for entity in entities for triple in by_head[entity]]
            drawn = triples_of(sets, user, p)
            if not memories:
                assert drawn == before
            else:
                assert len(drawn) == slots
                assert set(drawn) <= set(memories)
            if len(memories) >= slots:  # without replacement, a memory at most once
                assert not Counter(drawn) - Counter(memories)
            entities, before = [tail for _, _, tail in drawn], drawn


# Both sides of the switch from a bitmap of drawn positions to a hash table, and nearly all drawn.
@pytest.mark.parametrize("candidates", [4095, 4096, 4097, 5000])
@pytest.mark.parametrize("missing", [0, 1, 2000, 4090])
def test_no_triple_twice_among_many(candidates, missing):
    heads = np.sort(np.random.default_rng(candidates).integers(0, 40, candidates)).astype(np.int32)
    relations = np.arange(candidates, dtype=np.int32)
    graph = Graph.from_triples(heads, relations, heads, 40, candidates)
    slots = candidates - missing
    sets = sample(graph, [list(range(40))] * 3, slots=slots)
    assert (sets[3] == slots).all()
    for drawn_heads, drawn in zip(sets[0][:, 0], sets[1][:, 0], strict=True):
        assert len(np.unique(drawn)) == slots
        assert np.array_equal(drawn_heads, heads[drawn])


def test_triples_that_occur_twice_are_two_candidates():
    graph = Graph.from_triples(np.zeros(3, int), np.int32([0, 1, 0]), np.int32([1, 1, 1]), 2, 2)
    sets = sample(graph, [[0]], slots=4)
    assert sorted(triples_of(sets, 0, 0)) == [(0, 0, 1), (0, 0, 1), (0, 1, 1)]


@pytest.mark.parametrize(
    ("num_relations", "dtype"), [(200, torch.uint8), (257, torch.int16), (40000, torch.int32)]
)
@pytest.mark.parametrize("repeat", [False, True])
def test_relation_dtypes_give_the_same_sets(num_relations, dtype, repeat):
    # The highest id of the smallest dtype is among the relations: it must not turn negative.
    triples = numbered(1, 30, 200)
    expected = sample(
        Graph.from_triples(*triples), random_histories(2, 50, 30), hops=2, slots=8, repeat=repeat
    )
    graph = Graph.from_triples(*triples[:4], num_relations)
    assert graph.relations.dtype == dtype
    found = sample(graph, random_histories(2, 50, 30), hops=2, slots=8, repeat=repeat)
    assert found[1].max() > 127
    assert_same(found, expected)


@pytest.mark.parametrize("num_relations", [256, 1 << 15, 1 << 20])
def test_highest_relation(num_relations):
    triple = np.array([[0], [num_relations - 1], [1]], dtype=np.int32)
    graph = Graph.from_triples(*triple, 2, num_relations)
    assert triples_of(sample(graph, [[0]]), 0, 0) == [(0, num_relations - 1, 1)]


def test_no_users():
    sets = sample(Graph.from_triples(*path(3)), [], hops=2, slots=3)
    assert [x.shape for x in sets] == [(0, 2, 3)] * 3 + [(0, 2)]


# ---- reproducibility ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd():
    """More users than eight threads take at a time, on a graph where hops overlap."""
    return Graph.from_triples(*numbered(7, 200, 2000)), random_histories(8, 2300, 200)


@pytest.mark.parametrize("repeat", [False, True])
def test_same_for_any_number_of_threads(threads, crowd, repeat):
    threads(1)
    expected = sample(*crowd, hops=3, slots=9, repeat=repeat)
    for count in (1, 2, 8):
        threads(count)
        assert_same(sample(*crowd, hops=3, slots=9, repeat=repeat), expected)


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("chosen", ["all", "reversed", "shuffled", "some", "one"])
def test_same_for_any_order_and_subset_of_users(crowd, repeat, chosen):
    graph, histories = crowd
    stream = np.random.default_rng(9)
    users = {
        "all": np.arange(2300),
        "reversed": np.arange(2300)[::-1],
        "shuffled": stream.permutation(2300),
        "some": stream.permutation(2300)[:700],
        "one": np.array([1234]),
    }[chosen]
    expected = sample(graph, histories, hops=3, slots=9, repeat=repeat)
    found = sample(
        graph,
        [histories[u] for u in users],
        hops=3,
        slots=9,
        repeat=repeat,
        users=torch.from_numpy(users.astype(np.int32)),
    )
    assert_same(found, [x[users] for x in expected])


def test_a_draw_depends_on_seed_epoch_and_user():
    graph = Graph.from_triples(*numbered(1, 10, 1000))
    histories = [list(range(10))] * 2
    keys = [(0, 0), (0, 1), (1, 0), (1, 2), (2, 1), (-1, 0), (0, -1), (1 << 40, 0), (0, 1 << 40)]
    drawn = [sample(graph, histories, slots=16, seed=s, epoch=e)[1] for s, e in keys]
    lists = [tuple(row) for relations in drawn for row in relations[:, 0].tolist()]
    assert len(set(lists)) == 2 * len(keys)


# ---- uniformity --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uneven():
    """Six triples numbered 0..5, of heads with degree 1, 2 and 3; entity 3 leads to those heads."""
    heads, tails = np.int32([0, 1, 1, 2, 2, 2, 3, 3, 3]), np.int32([4, 4, 4, 4, 4, 4, 0, 1, 2])
    return Graph.from_triples(heads, np.arange(9), tails, 5, 9)


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("varied", ["user", "seed", "epoch"])
def test_single_triples_are_equally_likely(uneven, varied, repeat):
    if varied == "user":
        drawn = sample(uneven, [[0, 1, 2]] * 20000, seed=4, repeat=repeat)[1]
    else:
        drawn = [sample(uneven, [[2, 0, 1]], **{varied: i}, repeat=repeat)[1] for i in range(2000)]
    assert_frequencies(np.bincount(np.ravel(drawn), minlength=6))


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("slots", [2, 3, 4, 5])
def test_subsets_are_equally_likely(uneven, slots, repeat):
    drawn = sample(uneven, [[0, 1, 2]] * 20000, slots=slots, seed=slots, repeat=repeat)[1]
    found = Counter(map(tuple, np.sort(drawn[:, 0], axis=1).tolist()))
    subsets = list(combinations(range(6), slots))
    assert set(found) <= set(subsets)
    assert_frequencies([found[subset] for subset in subsets])


def test_subsets_of_a_later_hop_are_equally_likely(uneven):
    # Hop 1 takes all three triples of entity 3, in four slots; hop 2 four of six.
    drawn = sample(uneven, [[3]] * 20000, hops=2, slots=4)[1]
    found = Counter(map(tuple, np.sort(drawn[:, 1], axis=1).tolist()))
    subsets = list(combinations(range(6), 4))
    assert set(found) <= set(subsets)
    assert_frequencies([found[subset] for subset in subsets])


def test_hops_and_users_are_independent():
    # 0 -> 1 -> 2, each by any of the relations 0..5.
    heads = np.repeat(np.int32([0, 1]), 6)
    graph = Graph.from_triples(heads, np.tile(np.arange(6), 2), heads + 1, 3, 6)
    drawn = sample(graph, [[0]] * 20000, hops=2)[1][:, :, 0]
    assert_frequencies(np.bincount(drawn[:, 0] * 6 + drawn[:, 1], minlength=36))
    assert_frequencies(np.bincount(drawn[:-1, 0] * 6 + drawn[1:, 0], minlength=36))


@pytest.mark.parametrize("slots", [1, 8])
def test_many_candidates_are_equally_likely(slots):
    # 6000 candidates: the positions drawn are kept in a hash table. Buckets hold 100 each.
    heads = np.repeat(np.int32([0, 1, 2]), [1000, 3000, 2000])
    graph = Graph.from_triples(heads, np.arange(6000), heads, 3, 6000)
    drawn = sample(graph, [[0, 1, 2]] * (24000 // slots), slots=slots)[1]
    assert_frequencies(np.bincount(drawn.ravel() // 100, minlength=60))


def test_left_out_of_many_candidates_is_uniform():
    # All but one of 4200 are drawn, so that most draws collide with an earlier one.
    graph = Graph.from_triples(np.zeros(4200, int), np.arange(4200), np.zeros(4200, int), 1, 4200)
    drawn = sample(graph, [[0]] * 400, slots=4199)[1]
    left_out = 4200 * 4199 // 2 - drawn[:, 0].astype(np.int64).sum(axis=1)
    assert_frequencies(np.bincount(left_out // 420, minlength=10))


# ---- RippleNet's rule, frequencies -------------------------------------------------------------


def test_repeat_fills_a_short_hop_with_replacement(uneven):
    # Head 0 twice and head 1 once: the memories are 0, 0, 1, 2, in eight independent slots.
    drawn = sample(uneven, [[0, 1, 0]] * 5000, slots=8, repeat=True)[1][:, 0]
    assert set(np.unique(drawn)) == {0, 1, 2}
    weights = np.array([2, 1, 1])
    for m in range(8):
        assert_frequencies(np.bincount(drawn[:, m], minlength=3), weights)
    for m in range(7):
        cells = drawn[:, m] * 3 + drawn[:, m + 1]
        assert_frequencies(np.bincount(cells, minlength=9), np.outer(weights, weights).ravel())


def test_repeat_counts_heads_with_multiplicity(uneven):
    # Head 1 twice and head 0 once: two of the memories 1, 2, 1, 2, 0 without replacement.
    memories = [1, 2, 1, 2, 0]
    drawn = sample(uneven, [[1, 0, 1]] * 20000, slots=2, repeat=True)[1][:, 0]
    found = Counter(map(tuple, np.sort(drawn, axis=1).tolist()))
    weights = Counter(tuple(sorted(pair)) for pair in combinations(memories, 2))
    assert set(found) <= set(weights)
    assert_frequencies([found[pair] for pair in weights], list(weights.values()))


def test_repeat_carries_multiplicity_to_the_next_hop():
    # Entity 0 leads to 1 by two triples and to 2 by one; 1 and 2 have a triple each. All three
    # triples of 0 are drawn, so the second hop starts from 1, 1, 2 and needs all its memories.
    columns = np.array([[0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [1, 1, 2, 3, 3]], dtype=np.int32)
    graph = Graph.from_triples(*columns, 4, 5)
    drawn = sample(graph, [[0]] * 50, hops=2, slots=3, repeat=True)[1]
    assert (np.sort(drawn[:, 0], axis=1) == [0, 1, 2]).all()
    assert (np.sort(drawn[:, 1], axis=1) == [3, 3, 4]).all()


# ---- contract ----------------------------------------------------------------------------------


def arguments(**changed):
    graph = Graph.from_triples(*path(5))
    values = {
        "indptr": graph.indptr,
        "relations": graph.relations,
        "tails": graph.tails,
        "seed_indptr": torch.tensor([0, 1, 3]),
        "seeds": torch.tensor([0, 1, 4], dtype=torch.int32),
        "hops": 2,
        "slots": 3,
        "seed": 0,
    }
    return values | changed


def ids(*values):
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": ids(0, 5, 1)}, "seeds holds id 5 at position 1, expected 0 <= id < 5"),
        ({"seeds": ids(0, 1, -1)}, "seeds holds id -1 at position 2"),
        ({"seeds": torch.tensor([0, 1, 4])}, "seeds is int64, expected int32"),
        ({"seed_indptr": torch.tensor([0, 1, 2])}, "seed_indptr ends with 2, expected 3"),
        ({"seed_indptr": torch.tensor([1, 1, 3])}, "seed_indptr starts with 1, expected 0"),
        ({"seed_indptr": torch.tensor([0, 4, 3])}, "seed_indptr falls from 4 to 3 at position 2"),
        ({"seed_indptr": ids(0, 1, 3)}, "seed_indptr is int32, expected int64"),
        ({"seed_indptr": torch.zeros(0, dtype=torch.int64)}, "seed_indptr is empty"),
        ({"users": ids(0)}, r"users has shape \[1\], expected \[2\]"),
        ({"users": torch.tensor([0, 1])}, "users is int64, expected int32"),
        ({"hops": 0}, "hops is 0, expected 1 to 64"),
        ({"slots": 0}, "slots is 0, expected 1 to 65536"),
        ({"slots": -3}, "slots is -3, expected 1 to 65536"),
        ({"indptr": torch.tensor([0, 1, 2, 3, 3, 3])}, "indptr runs from 0 to 3, expected 0 to 4"),
        ({"indptr": torch.tensor([1, 1, 2, 3, 4, 4])}, "indptr runs from 1 to 4, expected 0 to 4"),
        ({"indptr": torch.zeros(0, dtype=torch.int64)}, "indptr is empty"),
        ({"relations": torch.zeros(3, dtype=torch.uint8)}, r"relations has shape \[3\]"),
        ({"relations": torch.zeros(4)}, "relations is float32, expected uint8, int16 or int32"),
        ({"tails": torch.zeros(8, dtype=torch.int32)[::2]}, "tails is not contiguous"),
    ],
)
def test_errors_say_what_was_found(changed, message):
    with pytest.raises(RuntimeError, match=message):
        ops.sample_ripple_sets(**arguments(**changed))


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("keyed", [False, True])
def test_opcheck(repeat, keyed):
    tensors = list(arguments().values())[:5]
    call = (*tensors, ids(7, 3) if keyed else None, 2, 3, 0, 1, repeat)
    library.opcheck(torch.ops.ekpnet.sample_ripple_sets.default, call)

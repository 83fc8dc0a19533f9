"""From labelled rows to mini-batches: the ops one by one, then `UserExamples` and `BatchStream`."""

from __future__ import annotations

import threading
from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from torch import library

from ekpnet_fast import ops
from ekpnet_fast.data.tables import Examples
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.examples import UserExamples
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.ripple_sets import RippleSets
from support.graphs import assert_frequencies, csr, isolated, numbered, path


def ids(*values):
    return torch.tensor(values, dtype=torch.int32)


def indptr_of(sizes):
    return torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


# ---- build_csr ---------------------------------------------------------------------------------

RELATION_DTYPES = [
    (1, torch.uint8),
    (256, torch.uint8),
    (257, torch.int16),
    (1 << 15, torch.int16),
    ((1 << 15) + 1, torch.int32),
]


@pytest.mark.parametrize(("num_relations", "dtype"), RELATION_DTYPES)
@pytest.mark.parametrize(("num_entities", "num_triples"), [(1, 5), (7, 0), (50, 400), (400, 50)])
def test_build_csr_is_a_stable_sort_by_head(num_entities, num_triples, num_relations, dtype):
    stream = np.random.default_rng(num_triples)
    heads, relations, tails = (
        stream.integers(0, limit, num_triples, dtype=np.int32)
        for limit in (num_entities, num_relations, num_entities)
    )
    indptr, out_relations, out_tails = ops.build_csr(
        *map(torch.from_numpy, (heads, relations, tails)), num_entities, num_relations
    )
    order = np.argsort(heads, kind="stable")
    degrees = np.bincount(heads, minlength=num_entities)
    assert torch.equal(indptr, indptr_of(degrees))
    assert out_relations.dtype == dtype
    assert np.array_equal(out_relations.numpy(), relations[order])
    assert out_tails.dtype == torch.int32
    assert np.array_equal(out_tails.numpy(), tails[order])


def test_build_csr_keeps_the_highest_relation():
    for num_relations, _ in RELATION_DTYPES:
        top = num_relations - 1
        assert ops.build_csr(ids(0), ids(top), ids(0), 1, num_relations)[1].tolist() == [top]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ids(0, 3), ids(0, 0), ids(1, 2), 3, 1), "heads holds id 3 at position 1.*< 3"),
        ((ids(0, 1), ids(0, 0), ids(-1, 2), 3, 1), "tails holds id -1 at position 0"),
        ((ids(0, 1), ids(0, 1), ids(1, 2), 3, 1), "relations holds id 1 at position 1.*< 1"),
        ((ids(0, 1), ids(0), ids(1, 2), 3, 1), r"relations has shape \[1\], expected \[2\]"),
        ((ids(0, 1), ids(0, 0), ids(1), 3, 1), r"tails has shape \[1\], expected \[2\]"),
        ((torch.tensor([0]), ids(0), ids(1), 3, 1), "heads is int64, expected int32"),
        ((ids(0), ids(0), ids(1), -1, 1), "num_entities is -1"),
        ((ids(0), ids(0), ids(1), 1 << 31, 1), "num_entities is 2147483648"),
        ((ids(0), ids(0), ids(1), 2, -1), "num_relations is -1"),
    ],
)
def test_build_csr_errors(arguments, message):
    with pytest.raises(RuntimeError, match=message):
        ops.build_csr(*arguments)


@pytest.mark.parametrize(("num_relations", "dtype"), RELATION_DTYPES)
def test_build_csr_opcheck(num_relations, dtype):
    call = (ids(1, 0, 1), ids(0, 0, 0), ids(2, 1, 0), 3, num_relations)
    library.opcheck(torch.ops.ekpnet.build_csr.default, call)


# ---- sample_triples ----------------------------------------------------------------------------


def draw(graph, count, *, seed=0, step=0, first=0):
    """True and corrupted triples, as two numpy arrays [count, 3]."""
    drawn = ops.sample_triples(
        graph.indptr, graph.relations, graph.tails, count, seed=seed, step=step, first=first
    )
    assert all(x.dtype == torch.int32 and x.shape == (2 * count,) for x in drawn)
    table = torch.stack(drawn, dim=1).numpy()
    return table[:count], table[count:]


@pytest.mark.parametrize("num_relations", [250, 300, 40000])
@pytest.mark.parametrize("num_entities", [3, 40])
def test_true_and_corrupted_triples(num_entities, num_relations):
    triples = numbered(2, num_entities, 250, num_relations)
    table = np.stack(triples[:3], axis=1)
    true, corrupted = draw(Graph.from_triples(*triples), 3000, seed=1)
    assert np.array_equal(true, table[true[:, 1]])
    assert np.array_equal(corrupted[:, 1], true[:, 1])
    assert ((corrupted == true)[:, [0, 2]]).any(axis=1).all()
    assert corrupted.min() >= 0
    assert corrupted[:, [0, 2]].max() < num_entities


def test_triples_are_drawn_evenly():
    # Few heads with many triples, many with none: a draw by head would show.
    num_entities, num_triples, count = 20, 60, 60000
    heads = np.minimum(np.arange(num_triples) // 2, 9).astype(np.int32)
    graph = Graph.from_triples(
        heads, np.arange(num_triples), heads[::-1] + 10, num_entities, num_triples
    )
    true, corrupted = draw(graph, count, seed=3)
    assert_frequencies(np.bincount(true[:, 1], minlength=num_triples))
    assert_frequencies(np.bincount(true[:-1, 1] % 6 * 6 + true[1:, 1] % 6, minlength=36))
    # The replacement is uniform over all entities, the one it replaces among them.
    new_head, new_tail = corrupted[:, 0] != true[:, 0], corrupted[:, 2] != true[:, 2]
    counts = [new_head.sum(), new_tail.sum(), (~new_head & ~new_tail).sum()]
    assert_frequencies(counts, [(num_entities - 1) / 2, (num_entities - 1) / 2, 1])
    for changed, column in ((new_head, 0), (new_tail, 2)):
        shift = (corrupted[changed, column] - true[changed, column]) % num_entities
        assert_frequencies(np.bincount(shift, minlength=num_entities)[1:])


def test_triples_depend_on_seed_and_step_only(threads):
    graph = Graph.from_triples(*numbered(5, 40, 300))
    expected = draw(graph, 50, seed=1, step=2)
    threads(2)
    assert np.array_equal(draw(graph, 50, seed=1, step=2), expected)
    # A draw is keyed by its position: a longer one begins with the shorter.
    longer = draw(graph, 80, seed=1, step=2)
    assert np.array_equal([part[:50] for part in longer], expected)
    later = draw(graph, 30, seed=1, step=2, first=50)
    assert np.array_equal([part[50:] for part in longer], later)
    keys = [(1, 2), (2, 1), (1, 3), (2, 2), (1, 1 << 32), (-1, 2)]
    drawn = {draw(graph, 50, seed=seed, step=step)[0].tobytes() for seed, step in keys}
    assert len(drawn) == len(keys)


def test_no_triples_are_asked_for():
    assert draw(Graph.from_triples(*isolated(3)), 0)[0].shape == (0, 3)


def test_sample_triples_errors():
    graph = Graph.from_triples(*path(4))
    csr_arrays = graph.indptr, graph.relations, graph.tails
    with pytest.raises(RuntimeError, match="count is -1, expected 0 to 1073741824"):
        ops.sample_triples(*csr_arrays, -1, seed=0, step=0)
    with pytest.raises(RuntimeError, match="indptr runs from 0 to 2, expected 0 to 3"):
        ops.sample_triples(graph.indptr.clamp(max=2), *csr_arrays[1:], 1, seed=0, step=0)
    with pytest.raises(RuntimeError, match="expected uint8, int16 or int32"):
        ops.sample_triples(graph.indptr, graph.relations.long(), graph.tails, 1, seed=0, step=0)
    with pytest.raises(RuntimeError, match="the graph has no triple to draw from"):
        draw(Graph.from_triples(*isolated(3)), 1)


def test_sample_triples_opcheck():
    graph = Graph.from_triples(*path(4))
    call = (graph.indptr, graph.relations, graph.tails, 5, 2, 0, 1)
    library.opcheck(torch.ops.ekpnet.sample_triples.default, call)


# ---- group_pairs -------------------------------------------------------------------------------


@pytest.mark.parametrize("group_size", [1, 2, 3, 64])
@pytest.mark.parametrize("sizes", [[], [0], [5], [0, 3, 0, 1, 8, 0], [2] * 300 + [70, 0, 129]])
def test_groups_cover_all_pairs_once(sizes, group_size):
    indptr = indptr_of(sizes)
    order, group_indptr, users = ops.group_pairs(indptr, group_size, seed=1, epoch=2)
    assert (order.dtype, group_indptr.dtype, users.dtype) == (
        torch.int64,
        torch.int64,
        torch.int32,
    )
    assert torch.equal(order.sort().values, torch.arange(sum(sizes)))
    widths = group_indptr.diff()
    assert group_indptr[0] == 0
    assert group_indptr[-1] == sum(sizes)
    assert ((widths >= 1) & (widths <= group_size)).all()
    # Every user has as few groups as possible.
    needed = [-(-size // group_size) for size in sizes]
    assert torch.bincount(users, minlength=len(sizes)).tolist() == needed
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.long))
    assert torch.equal(owner[order], torch.repeat_interleave(users.long(), widths))


def test_groups_same_for_any_number_of_threads(threads):
    # More users than eight threads take at a time.
    indptr = indptr_of(np.random.default_rng(0).integers(0, 6, 2300))
    threads(1)
    expected = ops.group_pairs(indptr, 2, seed=3, epoch=4)
    for count in (1, 2, 8):
        threads(count)
        assert_same(ops.group_pairs(indptr, 2, seed=3, epoch=4), expected)


def test_groups_differ_by_seed_and_epoch():
    keys = [(0, 0), (0, 1), (1, 0), (1, 2), (2, 1), (-1, 0)]
    orders = {
        tuple(ops.group_pairs(indptr_of([9] * 9), 4, seed=s, epoch=e)[0].tolist()) for s, e in keys
    }
    assert len(orders) == len(keys)


@pytest.mark.parametrize("varied", ["user", "epoch", "seed"])
def test_pairs_of_a_user_come_in_any_order(varied):
    if varied == "user":
        num_users = 6000
        order, _, users = ops.group_pairs(indptr_of([3] * num_users), 3, seed=1, epoch=0)
        orders = order.reshape(-1, 3) - 3 * users[:, None]
    else:
        keys = {"seed": 0, "epoch": 0}
        orders = torch.stack(
            [
                ops.group_pairs(indptr_of([3]), 3, **(keys | {varied: i}))[0].sort().indices
                for i in range(1200)
            ]
        )
    found = Counter(map(tuple, orders.tolist()))
    assert_frequencies([found[order] for order in permutations(range(3))])


def test_groups_come_in_any_order():
    found = Counter(
        tuple(ops.group_pairs(indptr_of([1] * 4), 4, seed=0, epoch=epoch)[2].tolist())
        for epoch in range(2400)
    )
    assert_frequencies([found[order] for order in permutations(range(4))])


@pytest.mark.parametrize(
    ("indptr", "group_size", "message"),
    [
        ([0, 2], 0, "group_size is 0, expected at least 1"),
        ([], 1, "user_indptr is empty"),
        ([1, 2], 1, "user_indptr starts with 1, expected 0"),
        ([0, 3, 2], 1, "user_indptr falls from 3 to 2 at position 2"),
        ([0, -1], 1, "user_indptr falls from 0 to -1 at position 1"),
    ],
)
def test_group_pairs_errors(indptr, group_size, message):
    with pytest.raises(RuntimeError, match=message):
        ops.group_pairs(torch.tensor(indptr, dtype=torch.int64), group_size, seed=0, epoch=0)
    with pytest.raises(RuntimeError, match="user_indptr is int32, expected int64"):
        ops.group_pairs(ids(0, 1), 1, seed=0, epoch=0)


def test_group_pairs_opcheck():
    # The numbers of pairs and groups depend on the values, so the fake has symbolic sizes.
    library.opcheck(torch.ops.ekpnet.group_pairs.default, (indptr_of([3, 0, 2]), 2, 0, 1))


# ---- localize_batch ----------------------------------------------------------------------------


def random_sets(seed, num_users, hops, slots, num_entities):
    """Ripple sets with every count from 0 to `slots`, and garbage in masked slots."""
    stream = np.random.default_rng(seed)
    shape = (num_users, hops, slots)
    heads, tails = (stream.integers(0, num_entities, shape, dtype=np.int32) for _ in range(2))
    relations = stream.integers(0, 9, shape, dtype=np.int32)
    counts = stream.integers(0, slots + 1, shape[:2], dtype=np.int32)
    return [torch.from_numpy(x) for x in (heads, relations, tails, counts)]


@pytest.mark.parametrize("num_entities", [5, 100000])
@pytest.mark.parametrize("slots", [1, 7, 32, 33])
@pytest.mark.parametrize(("groups", "pairs", "extras"), [(0, 0, 0), (1, 1, 0), (9, 20, 30)])
def test_localize_batch(num_entities, slots, groups, pairs, extras):
    stream = np.random.default_rng(slots)
    sets = random_sets(1, 6, 2, slots, num_entities)
    heads, relations, tails, counts = sets
    users = torch.from_numpy(stream.integers(0, 6, groups, dtype=np.int32))
    items, extra = (
        torch.from_numpy(stream.integers(0, num_entities, n, dtype=np.int32))
        for n in (pairs, extras)
    )
    rows, *found = ops.localize_batch(*sets, users, items, extra)
    assert all(x.dtype == torch.int32 for x in (rows, *found))
    chosen = users.long()
    valid = torch.arange(slots) < counts[chosen][..., None]

    # Head before tail within a slot, then the items, then the extra ids.
    slot_ids = torch.stack([heads[chosen], tails[chosen]], dim=-1)[valid].ravel()
    appearance = torch.cat([slot_ids, items, extra]).tolist()
    assert rows.tolist() == list(dict.fromkeys(appearance))

    for local, whole in ((found[0], heads[chosen]), (found[2], tails[chosen])):
        assert torch.equal(rows[local[valid].long()], whole[valid])
        assert not local[~valid].any()
    assert torch.equal(found[1], relations[chosen] * valid)
    assert torch.equal(found[3], counts[chosen])
    assert torch.equal(rows[found[4].long()], items)
    assert torch.equal(rows[found[5].long()], extra)


def test_localize_batch_by_hand():
    sets = [ids(*x).reshape(1, 1, 3) for x in ([8, 8, 4], [1, 2, 3], [5, 8, 4])]
    found = ops.localize_batch(*sets, ids(2).reshape(1, 1), ids(0), ids(5, 9), ids(9, 7))
    expected = [[8, 5, 9, 7], [[[0, 0, 0]]], [[[1, 2, 0]]], [[[1, 0, 0]]], [[2]], [1, 2], [2, 3]]
    assert [x.tolist() for x in found] == expected


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({4: ids(0, 2)}, "group_users holds id 2 at position 1"),
        ({4: ids(-1)}, "group_users holds id -1 at position 0"),
        ({3: ids(1, 4).reshape(2, 1)}, "counts holds id 4"),
        ({3: ids(1, -1).reshape(2, 1)}, "counts holds id -1"),
        ({3: ids(1, 1)}, r"counts has shape \[2\], expected \[2, 1\]"),
        ({5: ids(0, -7)}, "items holds id -7 at position 1"),
        ({6: ids(-1)}, "extra holds id -1 at position 0"),
        ({0: torch.full((2, 1, 3), -2, dtype=torch.int32)}, "heads or tails holds id -2"),
        ({2: torch.zeros(2, 1, 2, dtype=torch.int32)}, r"tails has shape \[2, 1, 2\]"),
        ({1: torch.zeros(2, 1, 3, dtype=torch.uint8)}, "relations is uint8, expected int32"),
    ],
)
def test_localize_batch_errors(changed, message):
    sets = [torch.zeros(2, 1, 3, dtype=torch.int32) for _ in range(3)]
    arguments = [*sets, ids(3, 3).reshape(2, 1), ids(0, 1), ids(0, 1), ids(2)]
    for position, value in changed.items():
        arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        ops.localize_batch(*arguments)


@pytest.mark.parametrize("extra", [(), (3, 4)])
def test_localize_batch_opcheck(extra):
    call = (*random_sets(1, 3, 2, 4, 9), ids(2, 0), ids(0, 1, 5), ids(*extra))
    library.opcheck(torch.ops.ekpnet.localize_batch.default, call)


# ---- UserExamples --------------------------------------------------------------------------------


def test_user_rows_by_hand():
    rows = Examples(np.int32([2, 0, 2, 0, 3]), np.int32([7, 6, 5, 4, 3]), np.int8([1, 0, 0, 1, 1]))
    grouped = UserExamples.from_examples(rows, 5)
    assert_same(
        (grouped.indptr, grouped.items, grouped.labels, grouped.order),
        (
            torch.tensor([0, 2, 2, 4, 5, 5]),
            ids(6, 4, 7, 5, 3),
            torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]),
            torch.tensor([1, 3, 0, 2, 4]),
        ),
    )


def test_user_rows_without_rows():
    grouped = UserExamples.from_examples(Examples(np.int32([]), np.int32([]), np.int8([])), 3)
    assert grouped.indptr.tolist() == [0, 0, 0, 0]
    assert grouped.items.numel() == 0


# ---- BatchStream -------------------------------------------------------------------------------

SIZES = [0, 3, 17, 1, 0, 8, 40, 2]
NUM_ENTITIES, NUM_ITEMS = 100, 30


def stream_of(*, batch_size=16, group_size=4, triples=5, seed=0, graph=None):
    """Labels number the rows, so that a label tells which row a pair is."""
    num_rows = sum(SIZES)
    items = np.random.default_rng(0).integers(0, NUM_ITEMS, num_rows, dtype=np.int32)
    rows = UserExamples(
        indptr_of(SIZES),
        torch.from_numpy(items),
        torch.arange(num_rows, dtype=torch.float32),
        torch.arange(num_rows),
    )
    graph = graph or Graph.from_triples(*numbered(1, NUM_ENTITIES, 200))
    return BatchStream(
        graph, rows, batch_size=batch_size, group_size=group_size, triples=triples, seed=seed
    )


def ripple_of(graph):
    """Ripple sets in which the first head of user u is NUM_ITEMS + u, which tells the user."""
    histories = [[NUM_ITEMS + u, u] for u in range(len(SIZES))]
    sets = RippleSets.sample(graph, *csr(histories), hops=2, slots=4, seed=0)
    sets.counts[:, 0].clamp_(min=1)
    sets.heads[:, 0, 0] = NUM_ITEMS + torch.arange(len(SIZES))
    return sets


def epoch_of(stream, epoch=0):
    return list(stream.epoch(epoch, ripple_of(stream.graph)))


@pytest.mark.parametrize("group_size", [1, 4, 100])
@pytest.mark.parametrize("batch_size", [1, 7, 16, 64, 1000])
def test_every_pair_once_and_aligned(batch_size, group_size):
    stream = stream_of(batch_size=batch_size, group_size=group_size)
    owner = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    batches = epoch_of(stream)
    for batch in batches:
        pairs = batch.labels.long()
        assert 1 <= batch.num_pairs <= batch_size
        assert batch.group_indptr[0] == 0
        assert batch.group_indptr[-1] == batch.num_pairs
        widths = batch.group_indptr.diff()
        assert ((widths >= 1) & (widths <= min(group_size, batch_size))).all()
        assert torch.equal(batch.rows[batch.items.long()], stream.rows.items[pairs])
        users = batch.rows[batch.heads[:, 0, 0].long()] - NUM_ITEMS
        assert torch.equal(torch.repeat_interleave(users.long(), widths), owner[pairs])
    # A batch ends only where the first group of the next one would not fit any more.
    for batch, following in pairwise(batches):
        assert batch.num_pairs + following.group_indptr[1] > batch_size
    labels = torch.cat([batch.labels for batch in batches])
    assert torch.equal(labels.sort().values, torch.arange(sum(SIZES), dtype=torch.float32))


def test_ripple_sets_and_triples_of_a_batch():
    stream = stream_of(triples=6)
    ripple = ripple_of(stream.graph)
    heads, _, tails, *_ = numbered(1, NUM_ENTITIES, 200)
    for batch in stream.epoch(3, ripple):
        rows = batch.rows
        assert len(rows.unique()) == len(rows)
        users = (rows[batch.heads[:, 0, 0].long()] - NUM_ITEMS).long()
        expected = ripple.of_users(users)
        valid = torch.arange(4) < expected.counts[..., None]
        assert torch.equal(batch.counts, expected.counts)
        assert torch.equal(batch.relations, expected.relations)
        assert torch.equal(rows[batch.heads.long()][valid], expected.heads[valid])
        assert torch.equal(rows[batch.tails.long()][valid], expected.tails[valid])

        assert batch.triple_labels.tolist() == [1] * 6 + [0] * 6
        named = batch.triple_relations[:6].numpy()
        assert np.array_equal(rows[batch.triple_heads[:6].long()].numpy(), heads[named])
        assert np.array_equal(rows[batch.triple_tails[:6].long()].numpy(), tails[named])
        assert torch.equal(batch.triple_relations[:6], batch.triple_relations[6:])
        touched = set(batch.relations[valid].tolist()) | set(batch.triple_relations.tolist())
        assert set(batch.relation_touched.nonzero().ravel().tolist()) == touched
        assert set(batch.relation_touched.tolist()) <= {0.0, 1.0}
        assert batch.to(torch.device("cpu")) is batch
        # Found before it is moved, as it takes a wait there.
        known = batch.knowing(["relation_touched"]).to(torch.device("meta"))
        assert known.relation_touched.shape == batch.relation_touched.shape


def test_no_triples():
    for batch in epoch_of(stream_of(triples=0)):
        assert batch.triple_heads.numel() == batch.triple_labels.numel() == 0


def test_same_batches_for_the_same_seed():
    first, again = epoch_of(stream_of(seed=5), 2), epoch_of(stream_of(seed=5), 2)
    assert len(first) == len(again)
    for a, b in zip(first, again, strict=True):
        assert a.real is b.real is None
        tensors = [
            [x for x in vars(batch).values() if isinstance(x, torch.Tensor)] for batch in (a, b)
        ]
        assert_same(*tensors)


def test_batches_differ_by_seed_and_epoch():
    def order(seed, epoch):
        return torch.cat([batch.labels for batch in epoch_of(stream_of(seed=seed), epoch)]).tolist()

    orders = [order(0, 0), order(0, 1), order(1, 0), order(1, 2), order(2, 1)]
    assert len({tuple(x) for x in orders}) == 5


def test_triples_differ_from_batch_to_batch():
    stream = stream_of(triples=20)
    batches = [batch for epoch in range(3) for batch in epoch_of(stream, epoch)]
    assert len({tuple(batch.triple_relations.tolist()) for batch in batches}) == len(batches)


def test_an_error_while_preparing_surfaces():
    stream = stream_of(graph=Graph.from_triples(*isolated(NUM_ENTITIES)), triples=1)
    with pytest.raises(RuntimeError, match="the graph has no triple to draw from"):
        epoch_of(stream)


@pytest.mark.parametrize("ahead", [False, True])
def test_an_error_in_a_later_batch_comes_after_the_batches_before(ahead):
    stream = stream_of(batch_size=4)
    whole = epoch_of(stream)
    users = [batch.rows[batch.heads[:, 0, 0].long()] - NUM_ITEMS for batch in whole]
    broken = ripple_of(stream.graph)
    # User 3 has one row, so only the batch with this row cannot be prepared.
    broken.counts[3, 1] = 5
    position = next(i for i, found in enumerate(users) if 3 in found)
    batches, arrived = stream.epoch(0, broken, ahead=ahead), []
    assert position not in (0, 1, 3, 7)  # the first of those that are prepared together
    with pytest.raises(RuntimeError, match="counts holds id 5"):
        for batch in batches:
            arrived.append(batch)
    assert len(arrived) == position  # also where it is prepared together with those before


def test_preparing_ahead_changes_nothing():
    stream = stream_of(batch_size=4)
    here = epoch_of(stream)
    ahead = list(stream.epoch(0, ripple_of(stream.graph), ahead=True))
    assert len(here) == len(ahead) > 2
    for one, other in zip(here, ahead, strict=True):
        for name in ("rows", "items", "heads", "labels", "triple_heads"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_an_epoch_left_early_ends_its_thread():
    before = threading.active_count()
    batches = stream_of(batch_size=4).epoch(0, ripple_of(stream_of().graph), ahead=True)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_no_rows_no_batches():
    stream = stream_of()
    stream.rows = UserExamples.from_examples(
        Examples(np.int32([]), np.int32([]), np.int8([])), len(SIZES)
    )
    assert epoch_of(stream) == []

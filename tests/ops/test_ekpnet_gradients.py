"""The whole loss and its gradients in one pass, against autograd over its parts."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import library

from ekpnet_fast import ops
from ekpnet_fast.ops import RippleBatch, reference
from ekpnet_fast.sampling.ripple_sets import FoldRippleSets, RippleSets
from support.contracts import (
    ISAS,
    assert_accurate,
    assert_same_bits,
    assert_same_bits_for_any_thread_count,
)
from support.devices import on_gpus, under_isa, under_other_order
from support.loss_problems import (
    NAMES,
    SIZES,
    WEIGHTS,
    found_by,
    in_float64,
    loss_problem,
    with_folds,
)
from support.places import PACKAGE, ROOT, SUPPORT

sizes = pytest.mark.parametrize("size", [pytest.param(s, id=name) for name, s in SIZES.items()])
channels = pytest.mark.parametrize("channels", [1, 2])
hidden = pytest.mark.parametrize("hidden", [None, 0, 2], ids=["match", "no-hidden", "deep"])


def pair_by_pair(problem):
    """A problem with folds, as one in which every pair is a group with the slots it sees."""
    *model, batch = problem
    groups = torch.repeat_interleave(batch.group_indptr.diff())
    shared = RippleSets(batch.heads, batch.relations, batch.tails, batch.counts)
    sets = FoldRippleSets(shared, batch.slot_folds).of(groups, batch.pair_folds)
    apart = batch._replace(
        **vars(sets),
        group_indptr=torch.arange(len(batch.items) + 1),
        slot_folds=None,
        pair_folds=None,
    )
    return [*model, apart]


def on_device(device, problem, **options):
    """`found_by` of the ops on a device."""
    return device.gradients(problem, **{**WEIGHTS, **options})


def padded(problem):
    """The same pairs among others that do not count, and rows that are none."""
    *model, batch = problem
    B, dtype = len(batch.items), batch.labels.dtype
    real = (torch.arange(2 * B) % 2 == 0).to(dtype)
    n, none = len(batch.rows), torch.tensor([-1, -1], dtype=torch.int32)
    return [
        *model,
        batch._replace(
            rows=torch.cat([batch.rows, none]),
            group_indptr=2 * batch.group_indptr,
            items=torch.stack([batch.items, batch.items.roll(1)], 1).flatten(),
            labels=batch.labels.repeat_interleave(2),
            offset=torch.linspace(-1, 1, B, dtype=dtype).repeat_interleave(2),
            real=real,
            real_pairs=real.sum(),
        ),
    ], n


def with_references(problem):
    """The same with its sorted references."""
    *model, batch = problem
    n, R, (_, _, M) = len(batch.rows), len(model[1]), batch.heads.shape
    masked = torch.arange(M) >= batch.counts.unsqueeze(-1)
    masked |= (batch.group_indptr.diff() == 0)[:, None, None]
    parts = [batch.heads.masked_fill(masked, n), batch.tails.masked_fill(masked, n)]
    parts += [batch.items, batch.triple_heads, batch.triple_tails]
    relations = [batch.relations.masked_fill(masked, R), batch.triple_relations]
    sorted_parts = [
        torch.sort(torch.cat([x.flatten() for x in of]), stable=True) for of in (parts, relations)
    ]
    flat = [x.int() for pair in sorted_parts for x in pair]
    names = ("entity_keys", "entity_references", "relation_keys", "relation_references")
    return [*model, batch._replace(**dict(zip(names, flat, strict=True)))]


# ---- values ------------------------------------------------------------------------------------


@sizes
@channels
@hidden
def test_float64_equals_the_specification(size, channels, hidden):
    problem = loss_problem(**size, channels=channels, hidden=hidden, dtype=torch.float64)
    found, expected = found_by(ops, problem), found_by(reference, problem)
    for name, x, y in zip(NAMES, found, expected, strict=False):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
    assert len(found) == len(expected) == (5 if hidden is None else 9)


@sizes
@hidden
def test_float32_is_as_accurate_as_eager(size, hidden):
    problem = loss_problem(**size, hidden=hidden)
    exact = found_by(reference, in_float64(problem))
    native, eager = found_by(ops, problem), found_by(reference, problem)
    torch.testing.assert_close(native[0], exact[0], rtol=1e-5, atol=0)
    assert_accurate(native[1:], eager[1:], exact[1:], factor=3)


@on_gpus
@sizes
@pytest.mark.parametrize(("channels", "hidden"), [(2, None), (2, 2), (1, 0)])
def test_float64_on_a_gpu_equals_the_specification(device, size, channels, hidden):
    problem = loss_problem(**size, channels=channels, hidden=hidden, dtype=torch.float64)
    expected = found_by(reference, problem)
    for given in (problem, with_references(problem)):
        for name, x, y in zip(NAMES, on_device(device, given), expected, strict=False):
            torch.testing.assert_close(
                x, y, rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}"
            )


@on_gpus
@sizes
@pytest.mark.parametrize(("channels", "hidden"), [(2, None), (2, 2), (1, 0)])
def test_folds_on_a_gpu_equal_the_specification(device, size, channels, hidden):
    plain = loss_problem(**size, channels=channels, hidden=hidden, dtype=torch.float64)
    problem = with_folds(plain)
    expected = found_by(reference, problem)
    for name, x, y in zip(NAMES, on_device(device, problem), expected, strict=False):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
    assert len(plain[5].items) == 1 or expected[0][0] != found_by(reference, plain)[0][0]


@on_gpus
@hidden
def test_float32_on_a_gpu_is_as_accurate_as_eager(device, hidden):
    problem = loss_problem(**SIZES["usual"], hidden=hidden)
    exact = found_by(reference, in_float64(problem))
    native, eager = on_device(device, problem), found_by(reference, problem)
    torch.testing.assert_close(native[0], exact[0], rtol=1e-5, atol=0)
    assert_accurate(native[1:], eager[1:], exact[1:], factor=3)


@pytest.mark.parametrize(
    ("device", "triples", "rows"),
    [
        *(("emulated", *size) for size in ((1, 1), (700, 255), (700, 256))),
        *(
            pytest.param("cuda", triples, rows, marks=pytest.mark.cuda)
            for triples in (1, 2_000, 12_000, 500_000)
            for rows in (1, 255, 256, 1 << 20)
        ),
    ],
    indirect=["device"],
)
def test_references_are_sorted_stably(device, triples, rows):
    """On a GPU by CUB, which nothing stands for: as torch sorts them, or sums had other bits."""
    size = dict(pairs=8, groups=3, hops=1, slots=4, width=4, relations=rows)
    problem = loss_problem(**size, rows=rows, triples=triples)
    sorted_here, given = (on_device(device, x) for x in (problem, with_references(problem)))
    assert_same_bits(sorted_here, given)


WRONG_ID = """
import sys, ekpnet_fast
sys.path[:0] = sys.argv[3:]
from support.devices import EmulatedGpu
from support.places import module_of
tests = module_of(sys.argv[2])
problem = tests.with_references(tests.loss_problem(**tests.SIZES["odd"]))
for field in FIELDS:
    getattr(problem[5], field)[1] = VALUE
tests.on_device(EmulatedGpu(sys.argv[1]), problem, lambda1=0.0)
"""


IDS = ["triple_heads", "triple_relations", "triple_tails"]


@pytest.mark.parametrize("fields", [*([x] for x in IDS), IDS], ids="-".join)
@pytest.mark.parametrize("value", [-1, 10**6])
def test_ids_of_triples_are_checked_without_their_loss(emulated, fields, value):
    code = WRONG_ID.replace("FIELDS", str(fields)).replace("VALUE", str(value))
    done = subprocess.run(
        [sys.executable, "-c", code, str(emulated.path), __file__, str(SUPPORT.parent), str(ROOT)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode < 0  # aborted
    assert "an id outside of its table" in done.stderr, done.stderr


@sizes
def test_bfloat16_table_is_that_of_its_numbers_in_float32(device, size):
    table, *rest = loss_problem(**size)
    small = table.bfloat16()
    found, wide = (on_device(device, [x, *rest]) for x in (small, small.float()))
    assert_same_bits(found[1:], wide[1:])
    for terms in (wide[0], found_by(reference, [small, *rest])[0]):
        torch.testing.assert_close(found[0], terms, rtol=1e-5, atol=0)


def test_bfloat16_is_for_the_table_alone():
    table, relation, *rest = loss_problem(**SIZES["usual"])
    with pytest.raises(RuntimeError, match="relation is bfloat16, expected float32 or float64"):
        found_by(ops, [table, relation.bfloat16(), *rest])
    double = loss_problem(**SIZES["usual"], dtype=torch.float64)
    with pytest.raises(RuntimeError, match="table is bfloat16, expected float64"):
        found_by(ops, [double[0].bfloat16(), *double[1:]])


@pytest.mark.parametrize("hidden", [None, 2])
def test_padding_does_not_count(device, hidden):
    plain = loss_problem(**SIZES["odd"], hidden=hidden, dtype=torch.float64)
    problem, n = padded(plain)
    found, specified = on_device(device, problem), found_by(reference, problem)
    offset = problem[5].offset[::2].contiguous()
    without = found_by(ops, [*plain[:5], plain[5]._replace(offset=offset)])
    assert (found[1][n:] == 0).all()
    found[1], specified[1] = found[1][:n], specified[1][:n]
    for name, x, y, z in zip(NAMES, found, specified, without, strict=False):
        for other in (y, z):
            torch.testing.assert_close(
                x, other, rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
def test_activations(activation):
    problem = loss_problem(**SIZES["usual"], dtype=torch.float64)
    found = found_by(ops, problem, activation=activation)
    for x, y in zip(found, found_by(reference, problem, activation=activation), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-11)


@sizes
@hidden
def test_offset(size, hidden):
    problem = loss_problem(**size, hidden=hidden, dtype=torch.float64)
    without = found_by(ops, problem)
    offset = torch.randn(len(problem[5].labels), dtype=torch.float64) * 3
    problem[5] = problem[5]._replace(offset=offset)
    found, expected = found_by(ops, problem), found_by(reference, problem)
    for name, x, y in zip(NAMES, found, expected, strict=False):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
    assert found[0][0] != without[0][0]


@sizes
@channels
@hidden
def test_folds_equal_the_specification_and_sets_apart(size, channels, hidden):
    plain = loss_problem(**size, channels=channels, hidden=hidden, dtype=torch.float64)
    problem = with_folds(plain)
    # Relations that only slots without a pair name decay here, and not there.
    weights = dict(WEIGHTS, lambda3=0.0)
    found, specified = found_by(ops, problem, **weights), found_by(reference, problem, **weights)
    apart = found_by(ops, pair_by_pair(problem), **weights)
    for name, x, y, z in zip(NAMES, found, specified, apart, strict=False):
        for other in (y, z):
            torch.testing.assert_close(
                x, other, rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}"
            )
    if len(plain[5].items) > 1:
        assert found[0][0] != found_by(ops, plain, **weights)[0][0]


@sizes
@hidden
def test_folds_in_float32_are_as_accurate_as_eager(size, hidden):
    problem = with_folds(loss_problem(**size, hidden=hidden))
    exact = found_by(reference, in_float64(problem))
    native, eager = found_by(ops, problem), found_by(reference, problem)
    torch.testing.assert_close(native[0], exact[0], rtol=1e-5, atol=0)
    assert_accurate(native[1:], eager[1:], exact[1:], factor=3)


def test_slots_that_all_see_are_as_without_folds():
    problem = loss_problem(**SIZES["usual"])
    batch = problem[5]
    every = torch.full(batch.heads.shape, -(1 << 63) | 1)
    folds = torch.arange(len(batch.items), dtype=torch.int32) % 2 * 63
    seen = [*problem[:5], batch._replace(slot_folds=every, pair_folds=folds)]
    for x, y in zip(found_by(ops, seen), found_by(ops, problem), strict=True):
        assert torch.equal(x, y)


def test_terms_by_hand():
    # v_o and gamma are 1; psi(v_t) = 1 * (1 * 1), so xi . v_o = 1 whatever the weights are.
    one = torch.ones(1, 2, 1)
    zero, empty = torch.zeros(1, 1, 1, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
    batch = RippleBatch(
        *(zero.view(1), zero, zero, zero, torch.ones(1, 1, dtype=torch.int32)),
        *(torch.tensor([0, 2]), torch.zeros(2, dtype=torch.int32), torch.tensor([1.0, 0.0]), None),
        *(empty, empty, empty, empty.to(torch.int8)),
    )
    problem = [one, one, torch.full((1, 1), 2.0), torch.full((1,), 3.0), None, batch]
    for module in (ops, reference):
        terms = module.ekpnet_gradients(*problem, lambda1=1.0, lambda2=0.5, lambda3=0.1)[0]
        bce = (math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2
        expected = [bce, 0.0, 0.5 / 2 * (4 + 9) / 2, 0.1 / 2 * (2 + 2) / 2]
        assert terms.tolist() == pytest.approx(expected, rel=1e-6)


def test_extreme_logits():
    problem = loss_problem(**SIZES["usual"])
    problem[4][2].mul_(1000)
    exact = found_by(reference, in_float64(problem))
    found = found_by(ops, problem)
    assert exact[0][0] > 50
    torch.testing.assert_close(found[0], exact[0], rtol=1e-5, atol=0)
    assert all(x.isfinite().all() for x in found)


def test_without_triples_or_weights():
    problem = loss_problem(**SIZES["odd"], dtype=torch.float64)
    options = dict(lambda1=0.0, lambda2=0.0, lambda3=0.0)
    found, expected = found_by(ops, problem, **options), found_by(reference, problem, **options)
    assert (found[0][1:] == 0).all()
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-11)


def test_relations_that_the_batch_does_not_name_do_not_decay():
    problem = loss_problem(**SIZES["usual"], triples=0, relations=9)
    problem[5].relations.clamp_(max=4)  # of the slots
    drelation = found_by(ops, problem)[2]
    assert (drelation[5:] == 0).all() and (drelation[:5] != 0).any(-1).all()


@pytest.mark.parametrize("folds", [False, True])
def test_nan_does_not_vanish(folds):
    problem = loss_problem(**SIZES["usual"])
    problem = with_folds(problem) if folds else problem
    table, batch = problem[0], problem[5]
    table[batch.rows[batch.items[0].long()].long()] = math.nan
    assert found_by(ops, problem)[0][0].isnan()


# ---- contract ----------------------------------------------------------------------------------


@hidden
@pytest.mark.parametrize("folds", [False, True])
def test_same_bits_for_any_thread_count(hidden, folds):
    problem = loss_problem(
        pairs=3000, groups=150, hops=2, slots=16, width=8, rows=2000, triples=400, hidden=hidden
    )
    problem = with_folds(problem) if folds else problem
    assert_same_bits_for_any_thread_count(lambda: found_by(ops, problem))


def results_of_all(device, problems):
    return [found_by(ops, problem) for problem in problems]


@pytest.mark.parametrize("isa", ISAS)
def test_instruction_sets(isa, tmp_path):
    problems = [loss_problem(**size) for size in SIZES.values()]
    problems += [with_folds(problem) for problem in problems]
    plain = [[*model, tuple(batch)] for *model, batch in problems]  # as torch.load allows
    found = under_isa(isa, tmp_path, results_of_all, plain)
    for problem, native in zip(problems, found, strict=True):
        eager, exact = found_by(reference, problem), found_by(reference, in_float64(problem))
        torch.testing.assert_close(native[0], exact[0], rtol=1e-5, atol=0)
        assert_accurate(native[1:], eager[1:], exact[1:], factor=3)


@hidden
def test_opcheck(hidden):
    *tables, layers, batch = loss_problem(**SIZES["smallest"], hidden=hidden)
    model = (*tables, *(layers or [None] * 4))
    folds = with_folds([batch])[0]
    for given in (batch, batch._replace(offset=torch.ones(1)), folds):
        arguments = (*model, *given, 0, 0, *WEIGHTS.values())
        library.opcheck(torch.ops.ekpnet.ekpnet_gradients.default, arguments)


def results_on_device(device, problems):
    return [on_device(device, [*model, RippleBatch(*batch)]) for *model, batch in problems]


def test_no_race(emulated, tmp_path):
    size = dict(pairs=90, groups=4, hops=2, slots=32, width=16, rows=60, triples=9)
    plain = [loss_problem(**size, hidden=hidden) for hidden in (None, 2)]
    problems = [
        [*model, tuple(batch)] for *model, batch in [*plain, *(with_folds(x) for x in plain)]
    ]
    found = results_on_device(emulated, problems)
    others = under_other_order(emulated.path, tmp_path, results_on_device, problems)
    for x, y in zip(found, others, strict=True):
        assert_same_bits(x, y)


@pytest.mark.parametrize("hidden", [None, 2])
def test_launches_are_those_of_the_table(emulated, hidden):
    """Of a captured step, where the references of a batch come sorted."""
    table = json.loads((ROOT / "tests" / "training" / "gpu_counts.json").read_text())
    problem = with_references(loss_problem(**SIZES["usual"], hidden=hidden))
    before = emulated.launches
    on_device(emulated, problem)
    assert emulated.launches - before == table["kernels"]["ekpnet_gradients"]


@pytest.mark.parametrize(("hidden", "count"), [(None, 12), (2, 14)])
def test_launches_of_lists(emulated, hidden, count):
    """Two more with layers: a list's pairs are in several blocks, so that all logits come first."""
    problem = with_references(loss_problem(**SIZES["usual"], hidden=hidden))
    before = emulated.launches
    on_device(emulated, problem, loss="bpr")
    assert emulated.launches - before == count


@on_gpus
def test_refuses_half_of_what_belongs_together(device):
    problem = with_references(loss_problem(pairs=20, groups=4, hops=2, slots=5, width=4))
    for change, message in (
        (dict(relation_keys=None), "must be given together"),
        (dict(real=torch.ones(20)), "real and real_pairs must be given together"),
        (
            dict(pair_folds=torch.zeros(20).int()),
            "slot_folds and pair_folds must be given together",
        ),
    ):
        changes = [*problem[:5], problem[5]._replace(**change)]
        with pytest.raises(RuntimeError, match=message):
            on_device(device, changes)


def changed(x, value):
    x = x.clone()
    x.view(-1)[-1] = value
    return x


REFUSED = {
    "rows": ("rows", lambda x: changed(x, 120), "rows holds id 120 at position 39, expected below"),
    "heads": ("heads", lambda x: torch.full_like(x, 40), "heads holds id 40"),
    "items": ("items", lambda x: changed(x, -1), "items holds id -1"),
    "no pairs": ("items", lambda x: x[:0], "group_indptr ends with 20, expected 0"),
    "labels": ("labels", lambda x: x[1:], r"labels has shape \[19\], expected \[20\]"),
    "triples": ("triple_heads", lambda x: changed(x, 40), "heads holds id 40"),
    "triple labels": ("triple_labels", lambda x: x.int(), "labels is int32, expected int8"),
    "layers": (4, lambda x: (x[0], x[1], x[2], x[3].double()), "b_out is float64"),
    "table": (0, lambda x: x[:, :, 0], "expected [n, C, D]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    problem = loss_problem(pairs=20, groups=4, hops=2, slots=5, width=4)
    place, change, message = REFUSED[name]
    if isinstance(place, str):
        batch = problem[5]
        problem[5] = batch._replace(**{place: change(getattr(batch, place))})
    else:
        problem[place] = change(problem[place])
    with pytest.raises(RuntimeError, match=message.replace("[n, C, D]", r"\[n, C, D\]")):
        found_by(ops, problem)


def test_refuses_an_offset_of_another_shape():
    problem = loss_problem(pairs=20, groups=4, hops=2, slots=5, width=4)
    problem[5] = problem[5]._replace(offset=torch.zeros(19))
    with pytest.raises(RuntimeError, match=r"offset has shape \[19\], expected \[20\]"):
        found_by(ops, problem)


FOLDS_REFUSED = {
    "alone": (lambda slots, pairs: (slots, None), "must be given together"),
    "slots": (
        lambda slots, pairs: (slots[1:], pairs),
        r"slot_folds has shape \[3, 2, 5\], expected \[4, 2, 5\]",
    ),
    "dtype": (lambda slots, pairs: (slots.int(), pairs), "slot_folds is int32, expected int64"),
    "pairs": (
        lambda slots, pairs: (slots, pairs[1:]),
        r"pair_folds has shape \[19\], expected \[20\]",
    ),
    "fold": (
        lambda slots, pairs: (slots, changed(pairs, 64)),
        "pair_folds holds id 64 at position 19, expected 0 <= id < 64",
    ),
}


@pytest.mark.parametrize("name", FOLDS_REFUSED)
def test_refuses_folds(name):
    change, message = FOLDS_REFUSED[name]
    problem = with_folds(loss_problem(pairs=20, groups=4, hops=2, slots=5, width=4))
    slot_folds, pair_folds = change(problem[5].slot_folds, problem[5].pair_folds)
    problem[5] = problem[5]._replace(slot_folds=slot_folds, pair_folds=pair_folds)
    with pytest.raises(RuntimeError, match=message):
        found_by(ops, problem)


def test_refuses_no_pairs_and_an_unknown_activation():
    problem = loss_problem(pairs=0, groups=4, hops=2, slots=5, width=4)
    with pytest.raises(RuntimeError, match="items is empty"):
        found_by(ops, problem)
    with pytest.raises(RuntimeError, match="activation is 'gelu'"):
        found_by(ops, problem, activation="gelu")

"""The fused propagation against its specification, and what its contract promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import library

from ekpnet_fast import ops
from ekpnet_fast.ops import Propagation, reference
from support.contracts import (
    ISAS,
    assert_bfloat16_matches_reference,
    assert_close64,
    assert_matches_reference,
    assert_no_race,
    assert_right_under_isa,
    assert_same_bits,
    assert_same_bits_for_any_thread_count,
    outputs_and_gradients,
)
from support.devices import Cpu, on_gpus, sized
from support.problems import attention_problem, differentiable, flat, to_float64, valid_slots

# Sizes beside, at and between the vector widths (4, 8, 16 lanes) and the blocks of 16 pairs.
SIZES = {
    "smallest": dict(pairs=1, groups=1, hops=1, slots=1, width=1, channels=1),
    "smallest-semantic": dict(pairs=1, groups=1, hops=4, slots=1, width=1, channels=2),
    "one-pair": dict(pairs=1, groups=3, hops=2, slots=7, width=4, channels=2),
    "narrow": dict(pairs=3, groups=5, hops=2, slots=64, width=4, channels=1),
    "four-hops": dict(pairs=3, groups=2, hops=4, slots=7, width=17, channels=2),
    "odd-slots": dict(pairs=3, groups=4, hops=1, slots=33, width=16, channels=1),
    "usual": dict(pairs=64, groups=9, hops=2, slots=32, width=16, channels=2),
    "usual-plain": dict(pairs=64, groups=9, hops=2, slots=32, width=16, channels=1),
    "odd-everything": dict(pairs=64, groups=7, hops=3, slots=33, width=17, channels=2),
    "wide": dict(pairs=64, groups=5, hops=2, slots=32, width=64, channels=2),
    "widest": dict(pairs=64, groups=4, hops=4, slots=64, width=128, channels=2),
    "widest-plain": dict(pairs=64, groups=4, hops=1, slots=33, width=128, channels=1),
    "one-column": dict(pairs=64, groups=30, hops=3, slots=7, width=1, channels=2),
    "one-large-group": dict(pairs=64, groups=1, hops=2, slots=7, width=16, channels=2),
    # Scores of about +-10: the softmax is close to a choice.
    "sharp": dict(pairs=64, groups=9, hops=2, slots=32, width=16, channels=1, scale=1.0),
}
LARGER = {
    # Every width that is compiled apart for a GPU; groups from one pair to all, in one piece and in
    # several; tiles of all hops, of one, and one for keys and values where memory is short.
    "width-8": dict(pairs=64, groups=9, hops=2, slots=32, width=8, channels=2),
    "width-32": dict(pairs=64, groups=9, hops=2, slots=17, width=32, channels=2),
    "pairs-of-a-user": dict(pairs=90, groups=25, hops=3, slots=32, width=4, channels=2),
    "single-pairs": dict(pairs=40, groups=60, hops=2, slots=32, width=16, channels=2),
    "all-items": dict(pairs=400, groups=2, hops=2, slots=32, width=16, channels=2),
    "two-tiles": dict(pairs=60, groups=2, hops=4, slots=32, width=32, channels=2),
    "all-items-wide": dict(pairs=150, groups=1, hops=4, slots=64, width=64, channels=1),
    "widest-four-hops": dict(pairs=20, groups=2, hops=4, slots=64, width=128, channels=1),
}
ALL_SIZES = {**SIZES, **LARGER}
sizes = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
channels = pytest.mark.parametrize("channels", [1, 2])
# More than two tasks of pairs for the forward pass, and more groups than chunks of the backward.
SPLIT = dict(pairs=700, groups=90, hops=2, slots=9, width=17)
SMALL = dict(pairs=5, groups=4, hops=2, slots=4, width=3, rows=6, relations=2)
CPU = Cpu()
SPECIFIED = flat(reference.ripple_attention)


def call(device):
    return lambda *problem: device.call("ripple_attention", *problem)


def results(device, problem):
    return outputs_and_gradients(call(device), problem)


def results_of_all(device, problems):
    return [results(device, problem) for problem in problems]


def specified(problem):
    return outputs_and_gradients(SPECIFIED, problem)


# ---- values ------------------------------------------------------------------------------------

# What the emulated GPU gets in every run of the tests.
SAMPLE = ["smallest-semantic", "narrow", "odd-slots", "width-8"]


@sized(ALL_SIZES, sample=SAMPLE)
def test_float32_is_as_accurate_as_eager(device, size):
    problem = attention_problem(**size)
    assert_matches_reference(results(device, problem), SPECIFIED, problem)


@sized(ALL_SIZES, sample=SAMPLE[:2])
def test_the_item_replaced(device, size):
    """With `replace`, where u = rho instead of o + rho unless the hop is empty."""
    problem = [*attention_problem(**size), True]
    assert_matches_reference(results(device, problem), SPECIFIED, problem)


@sizes
def test_the_item_replaced_in_float64(size):
    problem = [*attention_problem(**size, dtype=torch.float64), True]
    assert_close64(results(CPU, problem), specified(problem))


def test_the_item_replaced_by_hand():
    problem = attention_problem(**SMALL, channels=1, dtype=torch.float64)._replace(
        group_indptr=torch.tensor([0, 2, 5, 5, 5]),
        counts=torch.tensor([[2, 3], [0, 3], [4, 4], [1, 1]], dtype=torch.int32),
    )
    z, _ = ops.ripple_attention(problem, replace=True)
    xi_1, xi_2, o = z.view(5, 3, 3).unbind(1)
    assert torch.allclose(o, (xi_2 - xi_1) @ problem.W_e + problem.b_e)
    # An empty first hop leaves the item to be transformed, which the second then looks at.
    plain = ops.ripple_attention(problem)[0].view(5, 3, 3)
    assert torch.equal(xi_2[2:], plain[2:, 1]) and not torch.allclose(xi_2[:2], plain[:2, 1])


@sized(
    ALL_SIZES,
    sample=["smallest"],
    # The widest do not fit into a GPU's shared memory in float64.
    on_gpus=["smallest", "usual", "odd-everything", "one-column"],
)
def test_float64_equals_the_specification(device, size):
    problem = attention_problem(**size, dtype=torch.float64)
    assert_close64(results(device, problem), specified(problem))


@on_gpus
@pytest.mark.parametrize("size", ["usual", "usual-plain", "odd-everything", "pairs-of-a-user"])
def test_bfloat16_is_as_accurate_as_eager(device, size):
    problem = attention_problem(**ALL_SIZES[size], dtype=torch.bfloat16)
    assert_bfloat16_matches_reference(results(device, problem), SPECIFIED, problem)


@channels
def test_gradcheck(device, channels):
    problem = attention_problem(**SMALL, channels=channels, dtype=torch.float64)
    torch.autograd.gradcheck(call(device), differentiable(problem))


@sized(ALL_SIZES, sample=SAMPLE)
def test_weights(device, size):
    problem = attention_problem(**size)
    alpha = device.call("ripple_attention_weights", *problem)
    valid = valid_slots(problem)
    exact = reference.ripple_attention_weights(to_float64(problem))
    assert (alpha[~valid] == 0).all()
    # On a GPU, what no normal float32 holds may become 0.
    least = 0 if device.name == "cpu" else torch.finfo(torch.float32).tiny
    assert (alpha[valid & (exact > least)] > 0).all()
    torch.testing.assert_close(alpha.sum(-1), valid.any(-1).float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(alpha, exact.float(), rtol=1e-4, atol=1e-6)


@sizes
def test_weights_in_float64(size):
    problem = attention_problem(**size, dtype=torch.float64)
    alpha = ops.ripple_attention_weights(problem)
    exact = reference.ripple_attention_weights(problem)
    torch.testing.assert_close(alpha, exact, rtol=1e-10, atol=1e-10)


def by_hand(dtype):
    """Two hops of one pair (item row 0) with weights 1/2, 1/2 and then 3/4, 1/4.

    Hop 1: keys (1, 1) and (1, 0) score 1 against o = (1, 0); values (0, 0) and (2, 0), so
    rho = (1, 0), o = (2, 0) W_e + b_e = (1, 1). Hop 2: keys (ln 3, 0) and (0, 0) score ln 3 and 0;
    values (0, 0) and (4, 0), so rho = (1, 0), xi = (2, 0), o = (2, 1) W_e + b_e = (2, 1).
    """

    def ids(values):
        return torch.tensor(values, dtype=torch.int32)

    problem = Propagation(
        entity=torch.tensor(
            [[[1, 0], [1, 1]], [[1, 2], [1, 0]], [[0, 1], [2, 1]]],
            dtype=dtype,
        ),
        relation=torch.tensor(
            [
                [[0, 1], [1, 0]],
                [[-1, -1], [0, 1]],
                [[math.log(3), 0], [0, 0]],
                [[0, 0], [4, 0]],
            ],
            dtype=dtype,
        ),
        W_e=torch.tensor([[0.5, 1], [1, 0]], dtype=dtype),
        b_e=torch.tensor([0, -1], dtype=dtype),
        heads=ids([[[1, 2, 0], [1, 2, 0]]]),
        relations=ids([[[0, 1, 0], [2, 3, 0]]]),
        tails=ids([[[2, 1, 0], [1, 1, 0]]]),
        counts=ids([[2, 2]]),
        group_indptr=torch.tensor([0, 1]),
        items=ids([0]),
    )
    z = torch.tensor([[1, 0, 2, 0, 2, 1]], dtype=dtype)
    match = torch.tensor([2], dtype=dtype)
    alpha = torch.tensor([[[0.5, 0.5, 0], [0.75, 0.25, 0]]], dtype=dtype)
    return problem, z, match, alpha


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_example_by_hand(device, dtype):
    problem, z, match, alpha = by_hand(dtype)
    torch.testing.assert_close(tuple(call(device)(*problem)), (z, match))
    torch.testing.assert_close(device.call("ripple_attention_weights", *problem), alpha)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_example_by_hand_as_specified(dtype):
    problem, z, match, alpha = by_hand(dtype)
    torch.testing.assert_close(reference.ripple_attention(problem), (z, match))
    torch.testing.assert_close(reference.ripple_attention_weights(problem), alpha)


# ---- the same bits -----------------------------------------------------------------------------


@channels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_bits_for_any_thread_count(channels, dtype):
    problem = attention_problem(**SPLIT, channels=channels, dtype=dtype)

    def found():
        outputs, gradients = results(CPU, problem)
        return [*outputs, *gradients, ops.ripple_attention_weights(problem)]

    assert_same_bits_for_any_thread_count(found)


@on_gpus
@pytest.mark.parametrize("size", ["usual", "pairs-of-a-user"])
def test_same_bits_twice(device, size):
    problem = attention_problem(**ALL_SIZES[size])
    one, other = results(device, problem), results(device, problem)
    assert_same_bits([*one[0], *one[1]], [*other[0], *other[1]])


@pytest.mark.slow
@on_gpus
def test_large_batches_on_a_gpu(device):
    """From 16,384 pairs on pieces of groups are of 32 pairs, and threads own four rows of them."""
    problem = attention_problem(pairs=16_384, groups=512, hops=1, slots=64, rows=200)
    assert_matches_reference(results(device, problem), SPECIFIED, problem)


@pytest.mark.parametrize("isa", ISAS)
def test_instruction_sets(isa, tmp_path):
    problems = [list(attention_problem(**size)) for size in SIZES.values()]
    exact = [to_float64(problem) for problem in problems[:-3]]
    assert_right_under_isa(isa, tmp_path, results_of_all, SPECIFIED, problems, exact)


@pytest.mark.slow
def test_threads_of_a_gpu_do_not_race(emulated, tmp_path):
    problems = [list(attention_problem(**size)) for size in ALL_SIZES.values()]
    assert_no_race(emulated, tmp_path, results_of_all, problems)


# ---- edges -------------------------------------------------------------------------------------


@channels
@pytest.mark.parametrize("groups", [0, 3])
def test_no_pairs(device, channels, groups):
    problem = attention_problem(pairs=0, groups=groups, channels=channels)
    (z, match), gradients = results(device, problem)
    assert z.shape == (0, 3 * 16) and match.shape == (0,)
    assert all((x == 0).all() for x in gradients)
    assert device.call("ripple_attention_weights", *problem).shape == (0, 2, 32)


@channels
def test_a_group_without_pairs_changes_nothing(channels):
    problem = attention_problem(channels=channels)
    sizes = problem.group_indptr.diff()
    kept = sizes > 0
    assert not kept.all()
    fewer = problem._replace(
        **{name: getattr(problem, name)[kept] for name in ("heads", "relations", "tails")},
        counts=problem.counts[kept],
        group_indptr=torch.cat([torch.zeros(1, dtype=torch.int64), sizes[kept].cumsum(0)]),
    )
    (outputs, gradients), (others, other_gradients) = results_of_all(CPU, [problem, fewer])
    assert_same_bits(outputs, others)
    # Chunks of groups are cut elsewhere, so sums over groups may round differently.
    for x, y in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


@channels
def test_history_without_triples(device, channels):
    problem = attention_problem(hops=3, channels=channels)
    problem.counts.zero_()
    (z, match), gradients = results(device, problem)
    assert (z[:, : 3 * 16] == 0).all() and (match == 0).all()
    o = problem.entity[problem.items.long(), 0]
    for _ in range(3):
        o = o @ problem.W_e + problem.b_e
    torch.testing.assert_close(z[:, 3 * 16 :], o)
    assert (device.call("ripple_attention_weights", *problem) == 0).all()
    assert_matches_reference(([z, match], gradients), SPECIFIED, problem)
    assert (gradients[1] == 0).all()


def test_empty_tables_without_triples():
    problem = attention_problem(pairs=0, groups=2)
    problem.counts.zero_()
    for ids in (problem.heads, problem.relations, problem.tails):
        ids.zero_()
    problem = problem._replace(entity=problem.entity[:0], relation=problem.relation[:0])
    (z, match), gradients = results(CPU, problem)
    assert z.shape == (0, 3 * 16) and match.shape == (0,)
    assert [x.shape for x in gradients] == [x.shape for x in problem[:4]]


def test_masked_slots_are_not_looked_at():
    problem = attention_problem()
    masked = torch.arange(problem.heads.shape[2]) >= problem.counts.unsqueeze(-1)
    blank = problem._replace(
        **{
            name: getattr(problem, name).masked_fill(masked, 0)
            for name in ("heads", "relations", "tails")
        }
    )
    one, other = results_of_all(CPU, [problem, blank])
    assert_same_bits([*one[0], *one[1]], [*other[0], *other[1]])


def test_rows_that_no_slot_names_have_no_gradient():
    problem = attention_problem(rows=200)
    named = [problem.items]
    masked = torch.arange(problem.heads.shape[2]) >= problem.counts.unsqueeze(-1)
    named += [problem.heads[~masked], problem.tails[~masked]]
    away = torch.ones(200, dtype=torch.bool)
    away[torch.cat(named).long()] = False
    assert away.any()
    assert (results(CPU, problem)[1][0][away] == 0).all()


@channels
def test_one_row_everywhere(device, channels):
    # Head, tail and item are the same entity in every slot: all gradients add up in one row.
    problem = attention_problem(rows=1, relations=1, channels=channels)
    assert_matches_reference(results(device, problem), SPECIFIED, problem)
    alpha = device.call("ripple_attention_weights", *problem)
    valid = valid_slots(problem)
    share = valid / valid.sum(-1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(alpha, share)


@channels
@pytest.mark.parametrize("relations", [1, 1000])
def test_many_relations_and_one(device, channels, relations):
    problem = attention_problem(relations=relations, channels=channels)
    assert_matches_reference(results(device, problem), SPECIFIED, problem)


def test_large_scores_do_not_overflow(device):
    problem = attention_problem(channels=1, scale=30.0)
    outputs, gradients = results(device, problem)
    assert all(x.isfinite().all() for x in [*outputs, *gradients])


def test_weights_of_large_scores():
    problem = attention_problem(channels=1, scale=30.0)
    exact = reference.ripple_attention_weights(to_float64(problem))
    assert (exact.max(-1).values > 1 - 1e-12).any()
    first = ops.ripple_attention_weights(problem)[:, 0]
    # Scores of about 1e4 carry an error of about 1e-3 in float32; later hops amplify it.
    torch.testing.assert_close(first, exact[:, 0].float(), rtol=0.02, atol=1e-6)


def test_nan_does_not_vanish(device):
    problem = attention_problem()
    problem.entity[problem.items[0]] = torch.nan
    z, match = call(device)(*problem)
    assert z[0].isnan().any() and match[0].isnan()


def test_gradient_of_one_output_alone():
    problem = attention_problem(dtype=torch.float64)
    for k in (0, 1):
        one = outputs_and_gradients(lambda *x, k=k: call(CPU)(*x)[k], problem)
        other = outputs_and_gradients(lambda *x, k=k: SPECIFIED(*x)[k], problem)
        assert_close64(one, other)


# ---- torch's contracts -------------------------------------------------------------------------


@channels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(channels, dtype):
    problem = attention_problem(**SMALL, channels=channels, dtype=dtype)
    named = torch.ops.ekpnet
    library.opcheck(named.ripple_attention.default, tuple(differentiable(problem)))
    library.opcheck(named.ripple_attention_weights.default, tuple(problem))
    z, match = ops.ripple_attention(problem)
    library.opcheck(
        named.ripple_attention_backward.default,
        (torch.randn_like(z), torch.randn_like(match), *problem),
    )


class Attention(torch.nn.Module):
    """The op with its parameters inside and something before and behind."""

    def __init__(self, problem):
        super().__init__()
        self.W_e = torch.nn.Parameter(problem.W_e)
        self.b_e = torch.nn.Parameter(problem.b_e)

    def forward(self, entity, relation, *batch):
        z, match = ops.ripple_attention(
            Propagation(2 * entity, relation, self.W_e, self.b_e, *batch)
        )
        return z.tanh(), torch.sigmoid(match)


def module_results(module, problem):
    entity, relation = (x.clone().requires_grad_() for x in problem[:2])
    z, score = module(entity, relation, *problem[4:])
    leaves = [entity, relation, *module.parameters()]
    return [z, score, *torch.autograd.grad(z.sum() + score.sum(), leaves)]


def test_compiled_equals_eager():
    problem = attention_problem()
    module = Attention(problem)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for x, y in zip(
        module_results(module, problem), module_results(compiled, problem), strict=True
    ):
        torch.testing.assert_close(x, y)
    torch.compiler.reset()


def test_exported_module_runs():
    problem = attention_problem()
    module = Attention(problem)
    inputs = (*problem[:2], *problem[4:])
    program = torch.export.export(module, inputs)
    targets = [str(node.target) for node in program.graph.nodes]
    assert "ekpnet.ripple_attention.default" in targets
    assert_same_bits(program.module()(*inputs), module(*inputs))


# ---- what is refused ---------------------------------------------------------------------------


def _replaced(name, change):
    def apply(problem):
        return problem._replace(**{name: change(getattr(problem, name).clone())})

    return apply


def _set(name, position, value):
    def change(x):
        x.view(-1)[position] = value
        return x

    return _replaced(name, change)


def _other_size(**size):
    return lambda problem: attention_problem(**{**SMALL, **size})


REFUSED = {
    "items beyond": (_set("items", 2, 6), r"items holds id 6 at position 2, expected 0 <= id < 6"),
    "items negative": (_set("items", 2, -1), r"items holds id -1 at position 2"),
    "heads beyond": (_set("heads", 9, 6), r"heads holds id 6 at position 9.*rows of entity"),
    "tails beyond": (_set("tails", 9, 6), r"tails holds id 6 at position 9.*rows of entity"),
    "relations beyond": (_set("relations", 9, 2), r"relations holds id 2 .*rows of relation"),
    "counts beyond": (_set("counts", 1, 5), r"counts holds id 5 at position 1, .* < 5 \(slots\)"),
    "counts negative": (_set("counts", 1, -1), r"counts holds id -1 at position 1"),
    "half": (_replaced("entity", torch.Tensor.half), r"entity is float16, expected float32"),
    "mixed": (_replaced("W_e", torch.Tensor.double), r"W_e is float64, expected float32"),
    "int64 items": (_replaced("items", torch.Tensor.long), r"items is int64, expected int32"),
    "int64 heads": (_replaced("heads", torch.Tensor.long), r"heads is int64, expected int32"),
    "int32 indptr": (
        _replaced("group_indptr", torch.Tensor.int),
        r"group_indptr is int32, expected int64",
    ),
    "three channels": (
        _replaced("entity", lambda x: x[:, [0, 1, 1]]),
        r"entity has shape \[6, 3, 3\], expected .* C = 1",
    ),
    "flat entity": (_replaced("entity", lambda x: x[:, 0]), r"entity has shape \[6, 3\]"),
    "relation channels": (
        _replaced("relation", lambda x: x[:, :1].contiguous()),
        r"relation has shape \[2, 1, 3\], expected \[\?, 2, 3\]",
    ),
    "W_e shape": (
        _replaced("W_e", lambda x: x[:2]),
        r"W_e has shape \[2, 3\], expected \[3, 3\]",
    ),
    "b_e shape": (_replaced("b_e", lambda x: x[:2]), r"b_e has shape \[2\], expected \[3\]"),
    "tails shape": (
        _replaced("tails", lambda x: x[:, :1].contiguous()),
        r"tails has shape \[4, 1, 4\], expected \[4, 2, 4\]",
    ),
    "counts shape": (_replaced("counts", lambda x: x[:3]), r"counts has shape \[3, 2\]"),
    "indptr shape": (
        _replaced("group_indptr", lambda x: x[:4]),
        r"group_indptr has shape \[4\], expected \[5\]",
    ),
    "indptr start": (_set("group_indptr", 0, 1), r"group_indptr starts with 1, expected 0"),
    "indptr falls": (
        _set("group_indptr", 2, 6),
        r"group_indptr falls from 6 to 5 at position 3",
    ),
    "indptr end": (_set("group_indptr", -1, 6), r"group_indptr ends with 6, expected 5"),
    "strided": (
        _replaced("W_e", lambda x: x.t()),
        r"W_e is not contiguous; call .contiguous\(\) first",
    ),
    "strided ids": (
        _replaced("items", lambda x: torch.stack([x, x], 1)[:, 0]),
        r"items is not contiguous",
    ),
    "too wide": (_other_size(width=129), r"width D is 129, expected 1 to 128"),
    "too many slots": (_other_size(slots=65), r"slots M is 65, expected 1 to 64"),
    "no slots": (_other_size(slots=0), r"slots M is 0, expected 1 to 64"),
    "too many hops": (_other_size(hops=5), r"hops H is 5, expected 1 to 4"),
}


@pytest.mark.parametrize("op", [ops.ripple_attention, ops.ripple_attention_weights])
@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(op, change, message):
    problem = change(attention_problem(**SMALL))
    with pytest.raises(RuntimeError, match=message):
        op(problem)


# What the kernels cannot say without waiting for the GPU stops the launch instead.
BY_VALUE = ("beyond", "negative", "indptr start", "indptr falls", "indptr end", "half")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(*case, id=name)
        for name, case in REFUSED.items()
        if not any(word in name for word in BY_VALUE)
    ],
)
@on_gpus
def test_refused_on_a_gpu(device, change, message):
    problem = change(attention_problem(**SMALL))
    with pytest.raises(RuntimeError, match=message):
        call(device)(*problem)


@on_gpus
def test_float16_is_refused_on_a_gpu(device):
    problem = attention_problem(**SMALL)._replace(entity=torch.zeros(6, 2, 3).half())
    with pytest.raises(
        RuntimeError, match="entity is float16, expected float32, bfloat16 or float64"
    ):
        call(device)(*problem)


@on_gpus
def test_shapes_beyond_shared_memory_are_refused(device):
    problem = attention_problem(pairs=4, groups=1, hops=4, slots=64, width=128, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="bytes of shared memory in float64, expected at most"):
        results(device, problem)


def test_rows_that_start_between_two_reads_are_refused(emulated):
    # On a real GPU the copy of a tensor starts where it should.
    problem = attention_problem(**SIZES["usual"])
    flat = torch.cat([torch.zeros(1), problem.entity.flatten()])
    shifted = problem._replace(entity=flat[1:].view_as(problem.entity))
    with pytest.raises(RuntimeError, match=r"entity starts at an address .* 16; call .clone"):
        call(emulated)(*shifted)


def _without_rows(table):
    """No pairs, and a table without rows; ids are 0, as in masked slots."""
    problem = attention_problem(**{**SMALL, "pairs": 0})
    ids = {name: getattr(problem, name) * 0 for name in ("heads", "relations", "tails")}
    return problem._replace(**ids, **{table: getattr(problem, table)[:0].contiguous()})


@pytest.mark.parametrize("table", ["entity", "relation"])
def test_a_table_without_rows(table):
    # Nothing but the counts tells an id that is masked from one that would be read.
    problem = _without_rows(table)
    upstream = torch.zeros(0, 9), torch.zeros(0)
    message = f"counts holds 4 at position 0, expected 0 because {table} has no rows"
    with pytest.raises(RuntimeError, match=message):
        ops.ripple_attention(problem)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.ekpnet.ripple_attention_backward(*upstream, *problem)
    masked = problem._replace(counts=problem.counts * 0)
    gradients = torch.ops.ekpnet.ripple_attention_backward(*upstream, *masked)
    assert_same_bits(gradients, [torch.zeros_like(x) for x in problem[:4]])


def test_backward_refuses_other_upstream():
    problem = attention_problem(**SMALL)
    z, match = ops.ripple_attention(problem)
    backward = torch.ops.ekpnet.ripple_attention_backward
    with pytest.raises(RuntimeError, match=r"dz has shape \[5, 8\], expected \[5, 9\]"):
        backward(z[:, 1:].contiguous(), match, *problem)
    with pytest.raises(RuntimeError, match="dmatch is float64, expected float32"):
        backward(z, match.double(), *problem)


# ---- a real GPU --------------------------------------------------------------------------------


@pytest.mark.cuda
def test_tensors_on_two_devices_are_refused():
    problem = [x.cuda() for x in attention_problem(**SMALL)]
    with pytest.raises(RuntimeError, match=r"entity is not on a GPU, but other arguments are"):
        call(CPU)(problem[0].cpu(), *problem[1:])
    problem[9] = problem[9].cpu()
    with pytest.raises(RuntimeError, match=r"items is on .*, expected cuda:0 as entity; move it"):
        ops.ripple_attention(problem)


@pytest.mark.cuda
def test_current_stream_is_used():
    problem = [x.cuda() for x in attention_problem()]
    expected = ops.ripple_attention(problem)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        problem[0].mul_(2)
        other = ops.ripple_attention(problem)
    torch.cuda.current_stream().wait_stream(stream)
    assert not torch.equal(other[0], expected[0])


@pytest.mark.cuda
def test_graph_replay_equals_launch():
    problem = [x.cuda() for x in attention_problem()]
    backward = torch.ops.ekpnet.ripple_attention_backward

    def both():
        z, match = ops.ripple_attention(problem)
        return z, match, *backward(z, match, *problem)

    expected = both()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    graph.replay()
    assert_same_bits(captured, expected)

"""Losses of lists: plain torch against loops, and the fused pass against plain torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import library

from ekpnet_fast import ops
from ekpnet_fast.ops import reference
from ekpnet_fast.ops.list_losses import LIST_PAIRS, LOSSES, list_loss, pair_lists
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

losses = pytest.mark.parametrize("loss", ["bpr", "softmax"])
hidden = pytest.mark.parametrize("hidden", [None, 2], ids=["match", "deep"])


def test_groups_are_cut_evenly():
    indptr = torch.tensor([0, 0, 1, 17, 34, 34, 81])
    lists = pair_lists(indptr)
    assert lists.diff().tolist() == [1, 16, 8, 9, 15, 16, 16]
    assert lists[0] == 0 and lists[-1] == 81 and lists.diff().max() <= LIST_PAIRS
    assert pair_lists(torch.tensor([0])).tolist() == [0]


def by_loops(logits, labels, lists, loss):
    total = 0.0
    for begin, end in zip(lists[:-1].tolist(), lists[1:].tolist(), strict=True):
        mine = list(zip(logits.tolist()[begin:end], labels.tolist()[begin:end], strict=True))
        negatives = [x for x, label in mine if label == 0]
        for positive in [x for x, label in mine if label == 1] if negatives else []:
            if loss == "bpr":
                each = [math.log1p(math.exp(negative - positive)) for negative in negatives]
                total += sum(each) / len(negatives)
            else:
                rest = sum(math.exp(negative) for negative in negatives) / len(negatives)
                total += math.log(math.exp(positive) + rest) - positive
    return total


@losses
def test_list_loss_is_what_it_says(loss):
    draw = torch.Generator().manual_seed(0)
    lists = pair_lists(torch.tensor([0, 1, 3, 40, 56, 60]))
    logits = 3 * torch.randn(60, generator=draw, dtype=torch.float64)
    labels = torch.randint(2, (60,), generator=draw).double()
    labels[56:] = 1  # a list without a negative
    found = list_loss(logits, labels, lists, loss)
    assert float(found) == pytest.approx(by_loops(logits, labels, lists, loss), rel=1e-12)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: list_loss(x, labels, lists, loss), logits)
    list_loss(logits, labels, lists, loss).backward()
    assert (logits.grad[56:] == 0).all()
    assert float(list_loss(logits.detach()[:3], torch.ones(3), torch.tensor([0, 3]), loss)) == 0


# ---- the op, of logits that are given -----------------------------------------------------------


def list_problem(groups, dtype=torch.float32, scale=3.0):
    """Logits, labels and lists of groups of pairs; lists of every size, some of one label alone."""
    draw = torch.Generator().manual_seed(groups)
    sizes = torch.arange(groups) % 40
    lists = pair_lists(torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]))
    B = int(sizes.sum())
    logits = scale * torch.randn(B, generator=draw, dtype=torch.float64)
    labels = torch.randint(2, (B,), generator=draw)
    labels[:60] = labels[:60].clamp(max=0)
    return logits.to(dtype), labels.to(dtype), lists


def of_op(module, problem, loss):
    logits, labels, lists = problem
    logits = logits.clone().requires_grad_()
    total = module.list_loss(logits, labels, lists, loss)
    total.backward()
    return [total.detach(), logits.grad]


@losses
@pytest.mark.parametrize("groups", [1, 2, 15, 120])
def test_native_list_loss_equals_the_specification(groups, loss):
    problem = list_problem(groups, torch.float64)
    found, expected = (of_op(module, problem, loss) for module in (ops, reference))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    assert groups < 15 or expected[0] > 0
    leaf = problem[0].clone().requires_grad_()
    (ops.list_loss(leaf, *problem[1:], loss) / 4).backward()
    torch.testing.assert_close(leaf.grad, expected[1] / 4, rtol=1e-11, atol=1e-12)


@losses
def test_gradient_of_lists_without_autograd(loss):
    logits, labels, lists = list_problem(120, torch.float64)
    total, dlogits = ops.list_loss_gradient(logits.requires_grad_(), labels, lists, loss)
    expected = of_op(reference, (logits.detach(), labels, lists), loss)
    assert not total.requires_grad and not dlogits.requires_grad
    torch.testing.assert_close([total, dlogits * len(logits)], expected, rtol=1e-11, atol=1e-12)


@losses
@pytest.mark.parametrize("scale", [3.0, 300.0])
def test_native_list_loss_in_float32_is_as_accurate_as_eager(scale, loss):
    problem = list_problem(120, scale=scale)
    exact = of_op(reference, (*(x.double() for x in problem[:2]), problem[2]), loss)
    assert_accurate(of_op(ops, problem, loss), of_op(reference, problem, loss), exact, factor=3)


@losses
@on_gpus
def test_list_loss_on_gpus(device, loss):
    for groups in (1, 120):
        problem = list_problem(groups, torch.float64)
        found = device.call("list_loss", *problem, LOSSES.index(loss))
        total, gradient = of_op(ops, problem, loss)
        torch.testing.assert_close(found[0], total, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(found[1] * max(len(problem[0]), 1), gradient)


@losses
def test_list_loss_keeps_torchs_rules(loss):
    logits, labels, lists = list_problem(15, torch.float64)
    given = logits.requires_grad_(), labels, lists, LOSSES.index(loss)
    library.opcheck(torch.ops.ekpnet.list_loss.default, given)


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        (torch.tensor([0, 17]), "lists has 17 pairs in list 0, expected at most 16"),
        (torch.tensor([0, 9]), "lists"),
        (torch.tensor([0, 12, 9, 17]), "lists"),
        (torch.zeros(0, dtype=torch.int64), "lists is empty"),
    ],
)
def test_list_loss_refuses(lists, said):
    with pytest.raises(RuntimeError, match=said):
        ops.list_loss(torch.randn(17), torch.ones(17), lists, "bpr")
    with pytest.raises(RuntimeError, match="labels"):
        ops.list_loss(torch.randn(17), torch.ones(16), torch.tensor([0, 9, 17]), "bpr")


# ---- the fused pass ------------------------------------------------------------------------------


@losses
@hidden
@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_float64_equals_the_specification(size, hidden, folds, loss):
    problem = loss_problem(**SIZES[size], hidden=hidden, dtype=torch.float64)
    problem[5] = problem[5]._replace(offset=torch.randn_like(problem[5].labels))
    problem = with_folds(problem) if folds else problem
    found, expected = (found_by(m, problem, loss=loss) for m in (ops, reference))
    for name, x, y in zip(NAMES, found, expected, strict=False):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
    if size != "smallest":
        assert found[0][0] > 0


def assert_close64(found, expected):
    for name, x, y in zip(NAMES, found, expected, strict=False):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


@on_gpus
@losses
@hidden
@pytest.mark.parametrize("size", SIZES)
def test_float64_on_a_gpu_equals_the_specification(device, size, hidden, loss):
    problem = loss_problem(**SIZES[size], hidden=hidden, dtype=torch.float64)
    problem[5] = problem[5]._replace(offset=torch.randn_like(problem[5].labels))
    for given in (problem, with_folds(problem)):
        found = device.gradients(given, **WEIGHTS, loss=loss)
        assert_close64(found, found_by(reference, given, loss=loss))


@on_gpus
@losses
@hidden
def test_float32_on_a_gpu_is_as_accurate_as_eager(device, hidden, loss):
    problem = loss_problem(**SIZES["usual"], hidden=hidden)
    found = device.gradients(problem, **WEIGHTS, loss=loss)
    exact = found_by(reference, in_float64(problem), loss=loss)
    torch.testing.assert_close(found[0], exact[0], rtol=1e-5, atol=0)
    assert_accurate(found[1:], found_by(reference, problem, loss=loss)[1:], exact[1:], factor=3)


@losses
@hidden
def test_padding_is_in_no_list(device, hidden, loss):
    *model, batch = loss_problem(**SIZES["usual"], hidden=hidden, dtype=torch.float64)
    B = len(batch.items)
    real = (torch.arange(B) % 5 != 2).double()
    problem = [*model, batch._replace(real=real, real_pairs=real.sum())]
    found = device.gradients(problem, **WEIGHTS, loss=loss)
    assert_close64(found, found_by(reference, problem, loss=loss))
    # Groups of padding, whatever its labels, as if they were not there.
    indptr = torch.cat([batch.group_indptr, batch.group_indptr[-1:] + 20])
    longer = batch._replace(
        **{
            name: torch.cat([x, x[:1]])
            for name in ("heads", "relations", "tails", "counts")
            for x in [getattr(batch, name)]
        },
        group_indptr=indptr,
        items=torch.cat([batch.items, batch.items[:20]]),
        labels=torch.cat([batch.labels, torch.arange(20).double() % 2]),
        real=(torch.arange(B + 20) < B).double(),
        real_pairs=torch.tensor(B, dtype=torch.float64),
    )
    found = device.gradients([*model, longer], **WEIGHTS, loss=loss)
    assert_close64(found, found_by(reference, [*model, batch], loss=loss))


def results_on_device(device, problems):
    return [
        device.gradients([*model, ops.RippleBatch(*batch)], **WEIGHTS, loss=loss)
        for *model, batch in problems
        for loss in ("bpr", "softmax")
    ]


def test_no_race(emulated, tmp_path):
    size = dict(pairs=90, groups=4, hops=1, slots=8, width=4, rows=60, triples=3)
    problems = [
        [*model, tuple(batch)]
        for hidden in (None, 1)
        for *model, batch in [loss_problem(**size, hidden=hidden)]
    ]
    found = results_on_device(emulated, problems)
    others = under_other_order(emulated.path, tmp_path, results_on_device, problems)
    for x, y in zip(found, others, strict=True):
        assert_same_bits(x, y)


def results_of_all(device, problems):
    return [
        found_by(ops, problem, loss=loss) for problem in problems for loss in ("bpr", "softmax")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
def test_float32_is_as_accurate_as_eager_with_every_instruction_set(isa, tmp_path):
    problems = [loss_problem(**size) for size in SIZES.values()]
    plain = [[*model, tuple(batch)] for *model, batch in problems]  # as torch.load allows
    found = iter(under_isa(isa, tmp_path, results_of_all, plain))
    for problem in problems:
        for loss in ("bpr", "softmax"):
            native, eager = next(found), found_by(reference, problem, loss=loss)
            exact = found_by(reference, in_float64(problem), loss=loss)
            torch.testing.assert_close(native[0], exact[0], rtol=1e-5, atol=0)
            assert_accurate(native[1:], eager[1:], exact[1:], factor=3)


@losses
def test_same_bits_for_any_thread_count(loss):
    problem = loss_problem(
        pairs=3000, groups=150, hops=2, slots=16, width=8, rows=2000, triples=400, hidden=2
    )
    assert_same_bits_for_any_thread_count(lambda: found_by(ops, problem, loss=loss))


@losses
def test_extreme_logits(loss):
    problem = loss_problem(**SIZES["usual"])
    problem[4][2].mul_(1000)
    exact = found_by(reference, in_float64(problem), loss=loss)
    found = found_by(ops, problem, loss=loss)
    assert exact[0][0] > 20
    torch.testing.assert_close(found[0], exact[0], rtol=1e-5, atol=0)
    assert all(x.isfinite().all() for x in found)


def test_refuses_another_loss():
    with pytest.raises(RuntimeError, match=r"loss is 'hinge', expected one of \('bce', 'bpr'"):
        found_by(ops, loss_problem(**SIZES["smallest"]), loss="hinge")

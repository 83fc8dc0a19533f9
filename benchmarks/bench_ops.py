"""Single ops on one batch: the native ones beside eager torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.compare import alternate, time_rounds
from benchmarks.stepping import Training
from benchmarks.workloads import Setting
from ekpnet_fast import ops, ranking, reference
from ekpnet_fast.sampling import Batch, RippleSets, history_tensors

Call = Callable[[], object]

RANKED_USERS, TOP = 256, 100


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One batch of a setting, and the tensors that ops are called with."""

    setting: Setting
    batch: Batch
    attention: tuple[Tensor, ...]  # arguments of ripple_attention
    layers: tuple[Tensor, ...]  # arguments of deep_score


@cache
def problem_of(setting: Setting) -> Problem:
    """The first batch of training; inputs require gradients."""
    training = Training.of(setting)
    training()
    batch, model = training.batch, training.trainer.model
    tables = (model.entity[batch.rows.long()], model.relation, model.W_e, model.b_e)
    sets = (batch.heads, batch.relations, batch.tails, batch.counts)
    attention = tuple(x.detach().clone().requires_grad_() for x in tables)
    attention += (*sets, batch.group_indptr, batch.items)
    z, _ = ops.ripple_attention(*attention)
    dense = (z, model.weights, model.biases, model.w_out, model.b_out)
    return Problem(
        setting, batch, attention, tuple(x.detach().clone().requires_grad_() for x in dense)
    )


def _without_grad(function: Callable[..., object], arguments: tuple[Tensor, ...]) -> Call:
    inputs = [x.detach() for x in arguments]
    return lambda: function(*inputs)


def _backward(outputs: tuple[Tensor, ...], arguments: tuple[Tensor, ...]) -> Call:
    inputs = [x for x in arguments if x.requires_grad]
    grads = [torch.randn_like(x) for x in outputs]
    return lambda: torch.autograd.grad(outputs, inputs, grads, retain_graph=True)


def attention_forward(problem: Problem, backend: ModuleType) -> tuple[Call, int]:
    return _without_grad(backend.ripple_attention, problem.attention), problem.batch.num_pairs


def attention_backward(problem: Problem, backend: ModuleType) -> tuple[Call, int]:
    outputs = backend.ripple_attention(*problem.attention)
    return _backward(outputs, problem.attention), problem.batch.num_pairs


def score_forward(problem: Problem, backend: ModuleType) -> tuple[Call, int]:
    return _without_grad(backend.deep_score, problem.layers), problem.batch.num_pairs


def score_backward(problem: Problem, backend: ModuleType) -> tuple[Call, int]:
    outputs = (backend.deep_score(*problem.layers),)
    return _backward(outputs, problem.layers), problem.batch.num_pairs


def row_adam(problem: Problem, backend: ModuleType) -> tuple[Call, int]:
    """On the batch's rows of the whole table."""
    rows = problem.batch.rows
    shape = (problem.setting.graph.num_entities, *problem.attention[0].shape[1:])
    table, m, v = torch.randn(shape), torch.zeros(shape), torch.zeros(shape)
    grad = torch.randn(len(rows), *shape[1:])

    def call() -> None:
        backend.row_adam_(table, m, v, rows, grad, step=1, lr=1e-3, l2=1e-7)

    return call, problem.batch.num_pairs


def top_items(problem: Problem, backend: ModuleType) -> tuple[Call, int]:
    """Of all items for some users; samples are user-item pairs."""
    prepared = problem.setting.prepared
    task = ranking.ranking_task(prepared)
    indptr = torch.from_numpy(task.seen_indptr[: RANKED_USERS + 1])
    seen = torch.from_numpy(task.seen_items[: indptr[-1]])
    scores = torch.randn(RANKED_USERS, prepared.dataset.num_items)
    function = ops.top_items if backend is ops else eager_top_items
    return lambda: function(scores, indptr, seen, TOP), scores.numel()


def eager_top_items(scores: Tensor, seen_indptr: Tensor, seen: Tensor, k: int) -> Tensor:
    """Seen items fall to the end; ties in no order."""
    users = torch.repeat_interleave(torch.arange(len(scores)), seen_indptr.diff())
    masked = scores.index_put((users, seen.long()), scores.new_tensor(-torch.inf))
    return masked.topk(k).indices.int()


def localize_batch(problem: Problem, backend: ModuleType) -> tuple[Call, int]:
    setting, batch = problem.setting, problem.batch
    shape = setting.shape
    sets = RippleSets.sample(
        setting.graph,
        *history_tensors(setting.prepared),
        hops=shape.hops,
        slots=shape.slots,
        seed=0,
    )
    draw = torch.Generator().manual_seed(0)
    owners = setting.histories.indptr.diff().nonzero().flatten()
    picked = torch.randint(len(owners), (len(batch.counts),), generator=draw)
    arguments = (
        sets.heads,
        sets.relations,
        sets.tails,
        sets.counts,
        owners[picked].int(),
        batch.rows[batch.items.long()],
        batch.rows[torch.cat([batch.triple_heads, batch.triple_tails]).long()],
    )
    function: Callable[..., object] = ops.localize_batch if backend is ops else eager_localize
    return lambda: function(*arguments), batch.num_pairs


def eager_localize(
    heads: Tensor,
    relations: Tensor,
    tails: Tensor,
    counts: Tensor,
    users: Tensor,
    items: Tensor,
    extra: Tensor,
) -> tuple[Tensor, ...]:
    """Rows by rising id."""
    at = users.long()
    parts = [heads[at], tails[at], items, extra]
    ids = torch.cat([part.flatten() for part in parts])
    rows, places = torch.unique(ids, return_inverse=True)
    local = places.int().split([part.numel() for part in parts])
    shaped = [x.view_as(part) for x, part in zip(local, parts, strict=True)]
    return (rows, shaped[0], relations[at], shaped[1], counts[at], *shaped[2:])


OPS: dict[str, Callable[[Problem, ModuleType], tuple[Call, int]]] = {
    "ripple_attention": attention_forward,
    "ripple_attention_backward": attention_backward,
    "deep_score": score_forward,
    "deep_score_backward": score_backward,
    "row_adam_": row_adam,
    "top_items": top_items,
    "localize_batch": localize_batch,
}


@pytest.fixture(params=[1, 2])
def op_threads(request: pytest.FixtureRequest, threads: int) -> Iterator[int]:
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(threads)


@pytest.mark.data
@pytest.mark.benchmark(group="ops")
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("data", ["movielens", "book_crossing"])
def test_op(
    benchmark: BenchmarkFixture,
    request: pytest.FixtureRequest,
    data: str,
    op: str,
    op_threads: int,
) -> None:
    """The native op, and how many times faster it is than eager torch."""
    problem = problem_of(request.getfixturevalue(data))
    call, samples = OPS[op](problem, ops)
    seconds = time_rounds(benchmark, call, rounds=20, warmup=5)
    benchmark.extra_info["threads"] = op_threads
    benchmark.extra_info["samples_per_s"] = samples / seconds
    eager, _ = OPS[op](problem, reference)
    comparison = alternate(call, eager, rounds=7, calls=(5, 2))
    benchmark.extra_info["eager_samples_per_s"] = samples / comparison.second
    benchmark.extra_info.update(comparison.extra_info("native_faster"))

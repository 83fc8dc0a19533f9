"""Op calls on one batch of training, native or from another module, with their counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor

from benchmarks.harness.datasets import Setting
from benchmarks.harness.operation_counts import (
    Work,
    attention_work,
    row_adam_work,
    score_work,
    top_items_work,
)
from benchmarks.harness.shapes import flat
from benchmarks.programs.training_steps import Training
from ekpnet_fast import ops
from ekpnet_fast.evaluation import ranking
from ekpnet_fast.ops import Propagation
from ekpnet_fast.sampling.pairs import Batch, history_tensors
from ekpnet_fast.sampling.ripple_sets import RippleSets

Call = Callable[[], object]
Backend = ModuleType | SimpleNamespace

RANKED_USERS, TOP = 256, 100


@dataclass(frozen=True, slots=True)
class Amount:
    """Amount of work of a call: its samples, and its least work where that is counted."""

    samples: float
    work: Work | None = None


Made = tuple[Call, Amount]


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Problem: one batch of a setting, and the tensors that ops are called with."""

    setting: Setting
    batch: Batch
    attention: Propagation
    layers: tuple[Tensor, ...]  # arguments of deep_score
    triples: tuple[Tensor, ...]  # arguments of triple_loss

    @property
    def attention_work(self) -> dict[str, Work]:
        """Work of the propagation's passes."""
        return attention_work(self.attention)

    @property
    def score_work(self) -> dict[str, Work]:
        """Work of the prediction layers' passes."""
        return score_work(self.layers[0], self.layers[1])


@cache
def problem_of(setting: Setting) -> Problem:
    """Problem of the first batch of training; inputs require gradients."""
    training = Training.of(setting)
    training()
    batch, model = training.batch, training.trainer.model
    tables = (model.entity[batch.rows.long()], model.relation, model.W_e, model.b_e)
    sets = (batch.heads, batch.relations, batch.tails, batch.counts)
    attention = Propagation(*_leaves(tables), *sets, batch.group_indptr, batch.items)
    z, _ = ops.ripple_attention(attention)
    dense = (z, model.weights, model.biases, model.w_out, model.b_out)
    triples = (
        batch.triple_heads,
        batch.triple_relations,
        batch.triple_tails,
        batch.triple_labels,
    )
    return Problem(setting, batch, attention, _leaves(dense), (*attention[:2], *triples))


def _leaves(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.detach().clone().requires_grad_() for x in tensors)


def _without_grad(function: Callable[..., object], arguments: tuple[Tensor, ...]) -> Call:
    inputs = [x.detach() for x in arguments]
    return lambda: function(*inputs)


def _backward(outputs: tuple[Tensor, ...], arguments: tuple[Tensor, ...]) -> Call:
    inputs = [x for x in arguments if x.requires_grad]
    grads = [torch.randn_like(x) for x in outputs]
    return lambda: torch.autograd.grad(outputs, inputs, grads, retain_graph=True)


def attention_forward(problem: Problem, backend: Backend) -> Made:
    amount = Amount(problem.batch.num_pairs, problem.attention_work["forward"])
    return _without_grad(flat(backend.ripple_attention), problem.attention), amount


def attention_backward(problem: Problem, backend: Backend) -> Made:
    amount = Amount(problem.batch.num_pairs, problem.attention_work["backward"])
    return _backward(backend.ripple_attention(problem.attention), problem.attention), amount


def score_forward(problem: Problem, backend: Backend) -> Made:
    amount = Amount(problem.batch.num_pairs, problem.score_work["forward"])
    return _without_grad(backend.deep_score, problem.layers), amount


def score_backward(problem: Problem, backend: Backend) -> Made:
    amount = Amount(problem.batch.num_pairs, problem.score_work["backward"])
    return _backward((backend.deep_score(*problem.layers),), problem.layers), amount


def triple_forward(problem: Problem, backend: Backend) -> Made:
    """Call of `triple_loss`, forward; samples are triples."""
    amount = Amount(len(problem.triples[2]))
    return _without_grad(backend.triple_loss, problem.triples), amount


def triple_backward(problem: Problem, backend: Backend) -> Made:
    """Call of `triple_loss`, backward; samples are triples."""
    amount = Amount(len(problem.triples[2]))
    return _backward((backend.triple_loss(*problem.triples),), problem.triples), amount


def row_adam(problem: Problem, backend: Backend) -> Made:
    """Call of `row_adam_` on the batch's rows of the whole table; samples are rows."""
    rows = problem.batch.rows
    shape = (problem.setting.graph.num_entities, *problem.attention[0].shape[1:])
    table, m, v = torch.randn(shape), torch.zeros(shape), torch.zeros(shape)
    grad = torch.randn(len(rows), *shape[1:])

    def call() -> None:
        backend.row_adam_(table, m, v, rows, grad, step=1, lr=1e-3, l2=1e-7)

    return call, Amount(len(rows), row_adam_work(grad))


def top_items(problem: Problem, backend: Backend) -> Made:
    """Call of `top_items` over all items for some users; samples are user-item pairs."""
    prepared = problem.setting.prepared
    task = ranking.ranking_task(prepared)
    indptr = torch.from_numpy(task.consumed_indptr[: RANKED_USERS + 1])
    seen = torch.from_numpy(task.consumed_items[: indptr[-1]])
    scores = torch.randn(RANKED_USERS, prepared.dataset.num_items)
    function = ops.top_items if backend is ops else eager_top_items
    amount = Amount(scores.numel(), top_items_work(scores, seen, TOP))
    return lambda: function(scores, indptr, seen, TOP), amount


def eager_top_items(scores: Tensor, consumed_indptr: Tensor, seen: Tensor, k: int) -> Tensor:
    """Top items in eager torch: seen items fall to the end; ties in no order."""
    users = torch.repeat_interleave(torch.arange(len(scores)), consumed_indptr.diff())
    masked = scores.index_put((users, seen.long()), scores.new_tensor(-torch.inf))
    return masked.topk(k).indices.int()


def localize_batch(problem: Problem, backend: Backend) -> Made:
    """Call of `localize_batch`; samples are pairs."""
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
    return lambda: function(*arguments), Amount(batch.num_pairs)


def eager_localize(
    heads: Tensor,
    relations: Tensor,
    tails: Tensor,
    counts: Tensor,
    users: Tensor,
    items: Tensor,
    extra: Tensor,
) -> tuple[Tensor, ...]:
    """Localised batch in eager torch, with rows by rising id."""
    at = users.long()
    parts = [heads[at], tails[at], items, extra]
    ids = torch.cat([part.flatten() for part in parts])
    rows, places = torch.unique(ids, return_inverse=True)
    local = places.int().split([part.numel() for part in parts])
    shaped = [x.view_as(part) for x, part in zip(local, parts, strict=True)]
    return (rows, shaped[0], relations[at], shaped[1], counts[at], *shaped[2:])


OPS: dict[str, Callable[[Problem, Backend], Made]] = {
    "ripple_attention": attention_forward,
    "ripple_attention backward": attention_backward,
    "deep_score": score_forward,
    "deep_score backward": score_backward,
    "triple_loss": triple_forward,
    "triple_loss backward": triple_backward,
    "row_adam_": row_adam,
    "top_items": top_items,
    "localize_batch": localize_batch,
}
COMPILED = [name for name in OPS if name not in ("top_items", "localize_batch")]

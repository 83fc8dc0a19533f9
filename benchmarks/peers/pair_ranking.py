"""Full ranking over pairs: every item of every user goes through the model's forward pass.

This is how RecBole's KGCN, and every model that scores pairs, answers `full_sort_predict`: users
and items are repeated to B x I pairs, as many users at a time as fit the evaluation batch, and seen
items are masked before `topk`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import torch

from benchmarks.harness.datasets import Setting
from benchmarks.peers.plain_torch import Batch, EKPNet
from ekpnet_fast.evaluation.ranking import RankingTask, ranking_task
from ekpnet_fast.sampling.ripple_sets import RippleSets

EVAL_BATCH = 4096  # pairs at a time, RecBole's default; at least one user's


def ranker(setting: Setting, k: int) -> tuple[Callable[[], int], RankingTask]:
    """Ranker of the next users per call, which returns the number of pairs that it scored."""
    prepared = setting.prepared
    torch.manual_seed(0)
    model, task, shape = EKPNet(setting), ranking_task(prepared), setting.shape
    num_items = prepared.dataset.num_items
    histories = setting.histories
    sets = RippleSets.sample(
        setting.graph,
        histories.indptr,
        histories.entities,
        hops=shape.hops,
        slots=shape.slots,
        seed=0,
        repeat=True,
    )
    at_once = max(1, EVAL_BATCH // num_items)
    starts = cycle(range(0, len(task.users) - at_once + 1, at_once))

    @torch.no_grad()
    def rank() -> int:
        start = next(starts)
        users = torch.from_numpy(task.users[start : start + at_once]).long()
        pairs = users.repeat_interleave(num_items)
        columns = [
            [ids[pairs, hop].long() for hop in range(shape.hops)]
            for ids in (sets.heads, sets.relations, sets.tails)
        ]
        items = torch.arange(num_items).repeat(at_once)
        logits, _ = model.logits(Batch(items, torch.empty(0), *columns))
        scores = logits.view(at_once, num_items)
        for row in range(at_once):
            first, last = task.consumed_indptr[start + row : start + row + 2]
            scores[row, torch.from_numpy(task.consumed_items[first:last]).long()] = -torch.inf
        scores.topk(min(k, num_items))
        return scores.numel()

    return rank, task

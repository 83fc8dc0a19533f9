"""Logits of pairs against whole tables: of examples, and of whole catalogues."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast.data import Examples, PreparedData
from ekpnet_fast.data.tables import Int32
from ekpnet_fast.evaluation.ranking import Score
from ekpnet_fast.models import Model
from ekpnet_fast.sampling.examples import UserExamples
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.pairs import Inputs, PairRequest, Pairs
from ekpnet_fast.sampling.ripple_sets import RippleSets

# Pairs whose hop features are in memory at a time, by kind of device: as many as stay in a CPU's
# cache, as many as keep a GPU busy.
SCORED_PAIRS = {"cpu": 1 << 16, "cuda": 1 << 20}

# Pairs whose `pair_inputs` are computed at a time: 32 MiB each.
INPUTS_AT_ONCE = 1 << 23

# Validation pairs up to which their inputs stay in memory from epoch to epoch.
KEPT_PAIRS = 1 << 20


@dataclass(frozen=True, eq=False)
class UserGroups:
    """User groups of pairs: user, ripple set and history that each group is scored for.

    Attributes:
        users: [G] int32, on the CPU.
        sets: [G] their ripple sets.
        histories: those that `ids` index; None for the train histories, where ids are users.
        ids: [G] int32, the history of each group, on the CPU.
    """

    users: Tensor
    sets: RippleSets
    histories: Histories | None = None
    ids: Tensor | None = None

    @classmethod
    def of(cls, ripple: RippleSets, users: NDArray[np.integer]) -> UserGroups:
        """Users [G] of training, from the ripple sets of all."""
        ids = torch.from_numpy(users.astype(np.int32))
        return cls(ids, ripple.of_users(ids.long().to(ripple.heads.device)))

    def __len__(self) -> int:
        """Number of groups G."""
        return self.users.numel()


@dataclass(frozen=True, eq=False)
class Scorer:
    """Predictions of a model against whole tables.

    Attributes:
        backend: `ops` or `reference`.
        model: the model.
        tables: the whole tables by name.
        stage: the stage whose prediction is computed.
        device: of the tables and of the computation.
    """

    backend: ModuleType
    model: Model
    tables: Mapping[str, Tensor]
    stage: str
    device: torch.device

    @classmethod
    def of(cls, backend: ModuleType, model: Model, stage: str, device: torch.device) -> Scorer:
        """Scorer of a model with its own tables."""
        tables = {name: model.table(name) for name in model.tables}
        return cls(backend, model, tables, stage, device)

    def pairs(
        self,
        groups: UserGroups,
        group_indptr: Tensor,  # [G + 1] int64, on the CPU
        items: Tensor,  # [B] int32, on the CPU or the device
        inputs: Inputs | None = None,
    ) -> Pairs:
        """Pairs to score, in global ids, on the device; with their inputs, if they are known."""
        if inputs is None:
            inputs = self.inputs(groups, group_indptr, items)
        pairs = Pairs(
            **vars(groups.sets),
            group_indptr=group_indptr,
            items=items,
            users=groups.users,
            free_items=items,
            inputs=inputs,
        )
        return pairs if self.device.type == "cpu" else pairs.to(self.device)

    def inputs(self, groups: UserGroups, group_indptr: Tensor, items: Tensor) -> Inputs:
        """Inputs of the model for some pairs, on the CPU."""
        # Only where the model has inputs, because items on a device would have to come back first.
        if type(self.model).inputs is Model.inputs:
            return {}
        return self.model.inputs(
            PairRequest(
                groups.users,
                group_indptr,
                items.cpu(),
                epoch=0,
                histories=groups.histories,
                ids=groups.ids,
            )
        )

    @torch.no_grad()
    def logits(self, pairs: Pairs) -> Tensor:
        """Logits [B]."""
        return self.model.logits(self.backend, self.tables, pairs, stage=self.stage)

    def catalogue_logits(
        self, groups: UserGroups, items: Tensor, inputs: Inputs | None = None
    ) -> Tensor:
        """Logits [G, I'] of the same items [I'] int32 for every group.

        Terms of the group alone are computed once and serve every item.
        """
        count, width = len(groups), items.numel()
        repeated = items if count == 1 else items.repeat(count)
        pairs = self.pairs(groups, torch.arange(count + 1) * width, repeated, inputs)
        return self.logits(pairs).view(count, width)

    def groups_at_once(self, num_items: int) -> int:
        """Number of groups to give `catalogue_logits` at a time, at least 1."""
        return max(1, SCORED_PAIRS[self.device.type] // max(num_items, 1))

    def blocks(
        self,
        groups_of: Callable[[NDArray[np.int64]], UserGroups],
        users: NDArray[np.int64],  # [G]
        indptr: NDArray[np.int64],  # [G + 1] pairs of each user
        items: Tensor,  # [indptr[-1]] int32
    ) -> Iterator[Pairs]:
        """Pairs of users in the given order, at most `SCORED_PAIRS`, or one user's, at a time.

        Args:
            groups_of: makes the groups of some users.
            users: of each group.
            indptr: pairs of each group.
            items: of each pair.
        """
        at_once, first = SCORED_PAIRS[self.device.type], 0
        while first < len(users):
            start = int(indptr[first])
            last = int(np.searchsorted(indptr, start + at_once, side="right")) - 1
            last = max(first + 1, last)
            yield self.pairs(
                groups_of(users[first:last]),
                torch.from_numpy(indptr[first : last + 1] - start),
                items[start : int(indptr[last])],
            )
            first = last

    def logits_of(self, blocks: Iterable[Pairs], num_pairs: int) -> Tensor:
        """Logits [N] of all the pairs of some blocks, on the device."""
        logits = torch.empty(num_pairs, device=self.device)
        start = 0
        for pairs in blocks:
            stop = start + pairs.num_pairs
            logits[start:stop] = self.logits(pairs)
            start = stop
        return logits


@torch.no_grad()
def score_examples(
    backend: ModuleType,
    model: Model,
    ripple: RippleSets,
    rows: UserExamples,
    *,
    stage: str,
    kept: list[Pairs] | None = None,
) -> NDArray[np.float32]:
    """Logits [N] of examples, in the order of the table that `rows` came from.

    A list `kept` is filled with the pairs, which need not be made again the next time.
    """
    scorer = Scorer.of(backend, model, stage, ripple.heads.device)
    indptr, num_pairs = rows.indptr.numpy(), len(rows.items)
    users = np.flatnonzero(np.diff(indptr))
    ends = np.append(indptr[users], num_pairs)
    made = scorer.blocks(partial(UserGroups.of, ripple), users, ends, rows.items)
    if kept is not None and not kept:
        kept.extend(made)
    in_table_order = torch.empty(num_pairs)
    in_table_order[rows.order] = scorer.logits_of(kept or made, num_pairs).cpu()
    scores: NDArray[np.float32] = in_table_order.numpy()
    return scores


def catalogue_scorer(
    backend: ModuleType, model: Model, ripple: RippleSets, num_items: int, *, stage: str
) -> Score:
    """Scorer [b, I] of all items for users [b], as `ranking.rank_all` takes it.

    Features of pairs are in memory for `SCORED_PAIRS` pairs, or one user, at a time.
    """
    scorer = Scorer.of(backend, model, stage, ripple.heads.device)
    step = scorer.groups_at_once(num_items)
    ahead = max(step, INPUTS_AT_ONCE // num_items) if model.pair_inputs else step
    items = torch.arange(num_items, dtype=torch.int32, device=scorer.device)

    def fill(scores: Tensor, users: Int32) -> None:
        """Scores of users whose inputs are computed at a time."""
        given: Inputs = {}
        if model.pair_inputs:
            groups = UserGroups.of(ripple, users)
            indptr = torch.arange(len(users) + 1) * num_items
            given = scorer.inputs(groups, indptr, items.repeat(len(users)))
        for first in range(0, len(users), step):
            block = users[first : first + step]
            pairs = slice(first * num_items, (first + len(block)) * num_items)
            inputs = {name: x[pairs] for name, x in given.items()} or None
            scores[first : first + len(block)] = scorer.catalogue_logits(
                UserGroups.of(ripple, block), items, inputs
            )

    @torch.no_grad()
    def score(users: Int32) -> Tensor:
        scores = torch.empty(len(users), num_items, device=scorer.device)
        for first in range(0, len(users), ahead):
            fill(scores[first : first + ahead], users[first : first + ahead])
        return scores

    return score


def examples_by_user(rows: Examples, prepared: PreparedData) -> UserExamples:
    """Examples of a prepared data set, grouped by user."""
    return UserExamples.from_examples(rows, prepared.dataset.num_users)

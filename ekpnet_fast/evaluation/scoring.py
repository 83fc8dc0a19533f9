"""Logits of pairs against whole tables: of examples, and of whole catalogues."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast.data import Examples, PreparedData
from ekpnet_fast.data.tables import Int32
from ekpnet_fast.evaluation.pruning import best_scores
from ekpnet_fast.evaluation.shares import all_shares, share_of
from ekpnet_fast.models import Model
from ekpnet_fast.models.bounds import UNIT, LinearBounds
from ekpnet_fast.native.device import say_once
from ekpnet_fast.native.processes import ALONE, Processes
from ekpnet_fast.ops.threads import num_threads, share
from ekpnet_fast.sampling.examples import UserExamples
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.pairs import Inputs, PairRequest, Pairs
from ekpnet_fast.sampling.ripple_sets import LazyRippleSets, RippleSets

# Pairs whose hop features are in memory at a time, by kind of device: as many as stay in a CPU's
# cache, as many as keep a GPU busy.
SCORED_PAIRS = {"cpu": 1 << 16, "cuda": 1 << 20}

# Pairs whose bounds and `pair_inputs` are computed at a time: 32 MiB each.
PARTS_AT_ONCE = 1 << 23

# Share of a block's pairs that are scored in spite of their bounds, from which on bounds are not
# computed for the blocks after it.
MOST_SCORED = 0.3

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
    def of(cls, ripple: RippleSets | LazyRippleSets, users: NDArray[np.integer]) -> UserGroups:
        """Users [G] of training, from the ripple sets of all."""
        ids = torch.from_numpy(users.astype(np.int32))
        return cls(ids, ripple.of_users(ids.long()))

    def __len__(self) -> int:
        """Number of groups G."""
        return self.users.numel()


class Block(NamedTuple):
    """Pairs to score at a time, and their place among all."""

    place: slice
    made: Callable[[], Pairs]


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
        return cls(backend, model, model.whole_tables(), stage, device)

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

    def linear_bounds(self, groups: UserGroups, items: Tensor) -> LinearBounds | None:
        """Bounds of the logits of items [I'] int32 for every group; None where the model has none.

        Inputs per pair are left out.
        """
        pairs = self.pairs(groups, torch.zeros(len(groups) + 1, dtype=torch.int64), items, {})
        return self.model.linear_bounds(self.tables, pairs, stage=self.stage)

    def groups_at_once(self, num_items: int) -> int:
        """Number of groups to give `catalogue_logits` at a time, at least 1."""
        return max(1, self._at_once // max(num_items, 1))

    @property
    def threads(self) -> int:
        """Python threads that share what is scored: as many as ops have, or one beside a GPU."""
        return num_threads() if self.device.type == "cpu" else 1

    @property
    def _at_once(self) -> int:
        """Number of pairs to score at a time."""
        return SCORED_PAIRS[self.device.type] * self.model.blocks

    def blocks(
        self,
        groups_of: Callable[[NDArray[np.int64]], UserGroups],
        users: NDArray[np.int64],  # [G]
        indptr: NDArray[np.int64],  # [G + 1] pairs of each user
        items: Tensor,  # [indptr[-1]] int32
        inputs: Inputs | None = None,
    ) -> Iterator[Block]:
        """Pairs of users in the given order, as many at a time as may be, or one user's.

        Args:
            groups_of: makes the groups of some users.
            users: of each group.
            indptr: pairs of each group.
            items: of each pair.
            inputs: of the pairs, if they are known.
        """
        at_once, first = self._at_once, 0
        while first < len(users):
            start = int(indptr[first])
            last = int(np.searchsorted(indptr, start + at_once, side="right")) - 1
            last = max(first + 1, last)
            pairs = slice(start, int(indptr[last]))

            def made(first: int = first, last: int = last, pairs: slice = pairs) -> Pairs:
                return self.pairs(
                    groups_of(users[first:last]),
                    torch.from_numpy(indptr[first : last + 1] - pairs.start),
                    items[pairs],
                    None if inputs is None else {name: x[pairs] for name, x in inputs.items()},
                )

            yield Block(pairs, made)
            first = last

    def logits_of(
        self, blocks: Sequence[Block], num_pairs: int, kept: dict[int, Pairs] | None = None
    ) -> Tensor:
        """Logits [N] of all the pairs of some blocks, on the device.

        Args:
            blocks: are shared among threads.
            num_pairs: N.
            kept: the pairs of each block, which is filled where it has none.
        """
        logits = torch.empty(num_pairs, device=self.device)

        def score(number: int) -> None:
            block, pairs = blocks[number], None if kept is None else kept.get(number)
            if pairs is None:
                pairs = block.made()
                if kept is not None:
                    kept[number] = pairs
            logits[block.place] = self.logits(pairs)

        share(score, len(blocks), self.threads)
        return logits


@torch.no_grad()
def score_examples(
    backend: ModuleType,
    model: Model,
    ripple: RippleSets | LazyRippleSets,
    rows: UserExamples,
    *,
    stage: str,
    kept: dict[int, Pairs] | None = None,
    together: Processes = ALONE,
) -> NDArray[np.float32]:
    """Logits [N] of examples, in the order of the table that `rows` came from.

    Args:
        backend: `ops` or `reference`.
        model: the model.
        ripple: ripple sets of the users.
        rows: the examples.
        stage: the stage whose prediction is computed.
        kept: is filled with the pairs by block, which need not be made again the next time.
        together: the processes that score, each the examples of a share of the users.
    """
    logits, counts = example_logits(
        backend, model, ripple, rows, stage=stage, kept=kept, together=together
    )
    in_table_order = torch.empty(len(rows.items))
    in_table_order[rows.order] = all_shares(logits.cpu(), counts, together)
    scores: NDArray[np.float32] = in_table_order.numpy()
    return scores


@torch.no_grad()
def example_logits(
    backend: ModuleType,
    model: Model,
    ripple: RippleSets | LazyRippleSets,
    rows: UserExamples,
    *,
    stage: str,
    kept: dict[int, Pairs] | None = None,
    together: Processes = ALONE,
) -> tuple[Tensor, list[int]]:
    """Logits of this process's share of examples, on the device, in the order of `rows`.

    Args are those of `score_examples`.

    Returns:
        The logits, and the length of every process's share.
    """
    scorer = Scorer.of(backend, model, stage, ripple.device)
    indptr, num_pairs = rows.indptr.numpy(), len(rows.items)
    users = np.flatnonzero(np.diff(indptr))
    ends = np.append(indptr[users], num_pairs)
    shares = [share_of(ends, rank, together.size) for rank in range(together.size)]
    counts = [int(ends[share.stop] - ends[share.start]) for share in shares]
    mine, count = shares[together.rank], counts[together.rank]
    ends = ends[mine.start : mine.stop + 1]
    blocks = scorer.blocks(
        partial(UserGroups.of, ripple), users[mine], ends - ends[0], rows.items[ends[0] : ends[-1]]
    )
    return scorer.logits_of(list(blocks), count, kept), counts


@dataclass(frozen=True, eq=False)
class CatalogueScorer:
    """Scorer of all items for users of training, as `ranking.rank_all` takes it.

    Features of pairs are in memory for `SCORED_PAIRS` pairs, or one user, at a time.

    Attributes:
        scorer: of pairs.
        ripple: ripple sets of all users.
        num_items: I.
    """

    scorer: Scorer
    ripple: RippleSets | LazyRippleSets
    num_items: int
    # "loose" if bounds ruled out so little of the first users that they cost more than they save,
    # else "tight"; nothing before these.
    _found: set[str] = field(default_factory=set)

    @torch.no_grad()
    def __call__(self, users: Int32) -> Tensor:
        """Scores [b, I] of all items for users [b]."""
        scores = torch.empty(len(users), self.num_items, device=self.scorer.device)
        for part, inputs in self._parts(users):
            self._fill(scores[part], users[part], inputs)
        return scores

    @torch.no_grad()
    def best(self, users: Int32, seen_indptr: Tensor, seen: Tensor, k: int) -> Tensor:
        """Scores [b, I] for users [b]; of items that cannot be among the best it may be -infinity.

        Args:
            users: [b].
            seen_indptr, seen: [b + 1] int64 and int32, sorted items of each user that are left out.
            k: number of the best.
        """
        # On a GPU the bounds would take longer than the scores.
        if self.scorer.device.type != "cpu" or 2 * k >= self.num_items:
            return self(users)
        scores = torch.empty(len(users), self.num_items)
        for part, inputs in self._parts(users):
            groups = UserGroups.of(self.ripple, users[part])
            bounds = None
            if "loose" not in self._found:
                bounds = self.scorer.linear_bounds(groups, self._items)
            if bounds is None:
                self._fill(scores[part], users[part], inputs)
                continue
            indptr = seen_indptr[part.start : part.stop + 1]
            scores[part] = best_scores(
                *self._estimates(bounds, inputs),
                indptr - indptr[0],
                seen[int(indptr[0]) : int(indptr[-1])],
                k,
                partial(self._exact, users[part], inputs),
            )
            if not self._found:
                scored = float(scores[part].isfinite().float().mean())
                self._found.add("loose" if scored > MOST_SCORED else "tight")
        return scores

    @cached_property
    def _items(self) -> Tensor:
        return self._items_of_inputs.to(self.scorer.device)

    @cached_property
    def _items_of_inputs(self) -> Tensor:
        return torch.arange(self.num_items, dtype=torch.int32)  # on the CPU

    def _parts(self, users: Int32) -> Iterator[tuple[slice, Inputs]]:
        """Users whose bounds and inputs are computed at a time, and the inputs."""
        model, num_items = self.scorer.model, self.num_items
        ahead = max(self.scorer.groups_at_once(num_items), PARTS_AT_ONCE // num_items)
        for first in range(0, len(users), ahead):
            part = slice(first, min(first + ahead, len(users)))
            given: Inputs = {}
            if model.pair_inputs:
                count = part.stop - first
                given = self.scorer.inputs(
                    UserGroups.of(self.ripple, users[part]),
                    torch.arange(count + 1) * num_items,
                    self._items_of_inputs.repeat(count),
                )
            yield part, given

    def _fill(self, scores: Tensor, users: Int32, given: Inputs) -> None:
        """Write the scores of users [b] with the inputs of all their pairs."""
        step, num_items = self.scorer.groups_at_once(self.num_items), self.num_items
        for first in range(0, len(users), step):
            block = users[first : first + step]
            pairs = slice(first * num_items, (first + len(block)) * num_items)
            inputs = {name: x[pairs] for name, x in given.items()} or None
            scores[first : first + len(block)] = self.scorer.catalogue_logits(
                UserGroups.of(self.ripple, block), self._items, inputs
            )

    def _estimates(self, bounds: LinearBounds, given: Inputs) -> tuple[Tensor, Tensor]:
        """Estimates [b, I] of the scores, and the error [b] that they have at most."""
        vectors = bounds.vectors
        estimates = torch.addmm(bounds.height.float().unsqueeze(1), bounds.slope.float(), vectors.T)
        size = bounds.height.abs() + bounds.slope.abs() @ vectors.abs().amax(0).double()
        for offset in given.values():
            of_users = offset.view(estimates.shape)
            estimates += of_users
            size += of_users.abs().amax(1)
        # The terms of an estimate and of a score are each rounded, and added up in float32.
        return estimates, bounds.error * (1 + UNIT) + (len(vectors.T) + 8) * UNIT * size

    def _exact(self, users: Int32, given: Inputs, rows: Tensor, items: Tensor) -> Tensor:
        """Scores of some pairs of users [b], by their rows."""
        indptr = np.zeros(len(users) + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows.numpy(), minlength=len(users)), out=indptr[1:])
        places = rows * self.num_items + items
        blocks = self.scorer.blocks(
            partial(UserGroups.of, self.ripple),
            users.astype(np.int64),
            indptr,
            items.int(),
            {name: x[places] for name, x in given.items()} or None,
        )
        return self.scorer.logits_of(list(blocks), len(items))


def catalogue_scorer(
    backend: ModuleType,
    model: Model,
    ripple: RippleSets | LazyRippleSets,
    num_items: int,
    *,
    stage: str,
) -> CatalogueScorer:
    """Scorer of all items for users of training, with the model's own tables.

    On a GPU it is said on stderr, once, what a CPU computes for every pair.
    """
    device = ripple.device
    if device.type == "cuda" and model.pair_inputs:
        part = "the wide part's logit" if model.wide else " and ".join(model.pair_inputs)
        say_once(
            f"lists of {model.name} on {device}: {part} of every pair is computed on the CPU"
            f" ({num_threads()} threads), the rest on the GPU"
        )
    scorer = Scorer.of(backend, model, stage, device)
    return CatalogueScorer(scorer, ripple, num_items)


def examples_by_user(rows: Examples, prepared: PreparedData) -> UserExamples:
    """Examples of a prepared data set, grouped by user."""
    return UserExamples.from_examples(rows, prepared.dataset.num_users)

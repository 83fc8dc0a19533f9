"""Folds of the training examples, each described by the clicks outside of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, takewhile
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ekpnet_fast.models.wide.affinity import Affinities
from ekpnet_fast.models.wide.lists import CandidateRows, candidate_rows
from ekpnet_fast.native.processes import Processes
from ekpnet_fast.sampling.examples import TrainingExamples
from ekpnet_fast.sampling.histories import Histories

__all__ = ["FITTED_ROWS", "FittedRows", "Fold", "fitted_rows"]

FITTED_ROWS = 1 << 20  # that the weights are fitted to, at least where there are so many


class FittedRows(NamedTuple):
    """Rows of a fold that weights are fitted to.

    Attributes:
        features: [F, m].
        labels: [m].
        candidates: of its users, for lists.
    """

    features: Tensor
    labels: Tensor
    candidates: CandidateRows | None

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.labels) if self.candidates is None else len(self.candidates)


class Fold:
    """Fold of the training examples.

    Args:
        every: affinities by all clicks.
        training: the examples.
        number: of the fold.
        items: [N] of the examples.
        lists: whether weights are fitted to candidates, as for lists.

    Attributes:
        lists: as given.
        at: [n] int64, positions of its examples.
        ends: [G + 1] of the examples, by (user, fold) pair.
        sampled: [m] int64, those of them that weights are fitted to.
    """

    def __init__(
        self, every: Affinities, training: TrainingExamples, number: int, items: Tensor, lists: bool
    ) -> None:
        rows, F = training.rows, training.folds
        self._every, self._training, self.lists = every, training, lists
        self._ids = torch.arange(number, len(training.histories), F)
        ids = self._ids[rows.indptr.diff()[self._ids] > 0]
        self.at, self.ends = _places(rows.indptr, ids)
        self._groups, self._items = ids, items
        step = -(-len(self.at) // (FITTED_ROWS // 8 if lists else FITTED_ROWS))
        self._chosen = torch.arange(0, len(self.at), max(1, step))
        self.sampled = self.at[self._chosen]

    # What only the process that describes the fold needs is made there.

    @cached_property
    def histories(self) -> Histories:
        """Histories [G] of its (user, fold) pairs."""
        return self._training.histories.of(self._groups)

    @cached_property
    def items(self) -> Tensor:
        """Items [n] of its examples."""
        return self._items[self.at]

    @property
    def labels(self) -> Tensor:
        """Labels [m] of `sampled`."""
        return self._training.rows.labels[self.sampled]

    @cached_property
    def affinities(self) -> Affinities:
        """Affinities by the clicks outside of the fold."""
        F, every = self._training.folds, self._every
        if F == 1:
            return every
        # What relations count is learned once: so few numbers tell nothing of a fold.
        basis = None if every.graph is None else every.graph.basis
        clicks = self._training.histories.of(self._ids)
        return Affinities(clicks, every.knowledge, every.options, F / (F - 1), basis)

    # Features and candidates are made where weights are fitted to them, and of no other fold.

    @cached_property
    def features(self) -> Tensor:
        """Features [F, m] of `sampled`."""
        return self.affinities.features(
            self.histories,
            torch.searchsorted(self._chosen, self.ends),
            self.items[self._chosen],
        )

    def candidates(self) -> CandidateRows:
        """Candidates of its users, with their clicks among these."""
        return candidate_rows(self.affinities, self.histories, self._clicks(), FITTED_ROWS)

    @property
    def has_features_of_all(self) -> bool:
        """Whether the features of all its examples are at hand."""
        return len(self.sampled) == len(self.at) and "features" in self.__dict__

    def make_affinities(self) -> None:
        """Make the affinities, which are asked for later."""
        _ = self.affinities

    def give_up(self, *names: Literal["affinities", "features"]) -> None:
        """Give up what was made, whose room that of the next fold finds."""
        for name in names:
            self.__dict__.pop(name, None)

    def _clicks(self) -> Histories:
        """Clicks among the examples of each (user, fold) pair."""
        clicked = self._training.rows.labels[self.at] == 1
        before = torch.cat([self.ends.new_zeros(1), clicked.long().cumsum(0)])
        return Histories(before[self.ends], self.items[clicked])


def fitted_rows(
    folds: list[Fold], missing: int, processes: Processes, num_features: int
) -> list[FittedRows]:
    """Rows of the first of some folds, until there are enough of them, or of all.

    Args:
        folds: one for each process, or for the first ones; each computes its own.
        missing: rows that would be enough.
        processes: all get the same.
        num_features: F.
    """
    candidates: Sequence[CandidateRows | None]
    if folds[0].lists:
        candidates = _first_candidates(folds, missing, processes, num_features)
    else:
        before = accumulate((len(fold.sampled) for fold in folds[:-1]), initial=0)
        candidates = [None for _ in takewhile(lambda rows: rows < missing, before)]
    used = len(candidates)
    features = torch.zeros(num_features, 0)
    if processes.rank < used:
        features = folds[processes.rank].features
    lengths = [len(fold.sampled) for fold in folds[:used]] + [0] * (processes.size - used)
    found = _columns(features, lengths, processes)
    return [FittedRows(found[k], folds[k].labels, candidates[k]) for k in range(used)]


def _first_candidates(
    folds: list[Fold], missing: int, processes: Processes, num_features: int
) -> list[CandidateRows]:
    """Candidates of the first of some folds, until there are enough of them, or of all.

    One fold after the other: mostly the first one's are enough, and how many they are only making
    them tells.
    """
    found: list[CandidateRows] = []
    for k, fold in enumerate(folds):
        if sum(map(len, found)) >= missing:
            break
        own = fold.candidates() if k == processes.rank else _no_candidates(num_features)
        found.append(_sent(own, k, processes))
    return found


def _no_candidates(num_features: int) -> CandidateRows:
    nobody, nothing = torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
    return CandidateRows(torch.zeros(num_features, 0), nobody, nothing)


def _sent(own: CandidateRows, sender: int, processes: Processes) -> CandidateRows:
    """Candidates of one process, everywhere; others have none."""
    size = processes.size
    if size == 1:
        return own
    sizes = torch.tensor([[len(own), len(own.indptr) - 1]])
    of_each = [found[0].tolist() for found in processes.each(sizes, [1] * size)]
    rows, users = zip(*of_each, strict=True)
    features = _columns(own.features, rows, processes)[sender]
    lengths = [*processes.each(own.indptr.diff(), users)][sender]
    clicked = [*processes.each(own.clicked.to(torch.uint8), rows)][sender]
    indptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return CandidateRows(features, indptr, clicked.bool())


def _columns(
    x: Tensor,  # [F, n]
    counts: Sequence[int],
    processes: Processes,
) -> list[Tensor]:
    """Columns [F, counts[rank]] of the processes by rank."""
    if processes.size == 1:
        return [x]
    found = [rows.T.contiguous() for rows in processes.each(x.T.contiguous(), counts)]
    found[processes.rank] = x
    return found


def _places(indptr: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the pairs of some groups, one group after the other, and their new indptr."""
    n = indptr[ids + 1] - indptr[ids]
    ends = torch.cat([n.new_zeros(1), n.cumsum(0)])
    return torch.arange(int(ends[-1])) + torch.repeat_interleave(indptr[ids] - ends[:-1], n), ends

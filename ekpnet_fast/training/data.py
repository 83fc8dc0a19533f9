"""Training examples of a run by epoch, and the ripple sets that describe them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

from torch import Tensor

from ekpnet_fast.config import RunConfig, StageConfig
from ekpnet_fast.data import PreparedData
from ekpnet_fast.data.splits import RANKING
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.models import MODELS, Model
from ekpnet_fast.models.build import fit_in_memory, sample_ripple_sets
from ekpnet_fast.models.wide.nominees import nominees
from ekpnet_fast.ops.threads import torch_on_one_thread
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.examples import TrainingExamples, UserExamples
from ekpnet_fast.sampling.folds import Folds
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.negatives import RedrawnNegatives
from ekpnet_fast.sampling.pairs import history_tensors
from ekpnet_fast.sampling.ripple_sets import (
    EpochSets,
    FoldRippleSets,
    LazyFoldRippleSets,
    LazyRippleSets,
    RippleSets,
)

__all__ = ["TrainingData"]

# Bytes of ripple sets of all users that a process holds though it needs those of some: a user's are
# drawn once an epoch then, not once for each of the groups.
DRAWN_AT_ONCE = 1 << 26


class TrainingData:
    """Training examples of a run, their histories, and ripple sets by epoch.

    Args:
        config: a resolved run.
        prepared: the split data.
        graph: its knowledge graph, with inverse relations if the run has them.

    Attributes:
        examples: by user, or by (user, fold) pair where there are folds.
        folds: None where every example sees its user's whole history.
        redraw: gives the items [N] of `examples` in an epoch, where they differ by epoch.

    Raises:
        TrainingError: no example is left.
    """

    def __init__(self, config: RunConfig, prepared: PreparedData, graph: Graph) -> None:
        self.config, self.prepared, self.graph = config, prepared, graph
        self.redraw: Callable[[int], Tensor] | None = None
        self._redrawn: RedrawnNegatives | None = None
        self.folds: Folds | None = None
        if prepared.protocol in RANKING:
            self._redrawn = redrawn = self._drawn_anew()
            self.redraw, self.examples = redrawn, redrawn.rows
            if self._draws:
                self.redraw = lambda epoch: redrawn((epoch - 1) % self._draws + 1)
        else:
            self.examples = UserExamples.from_examples(prepared.train, prepared.dataset.num_users)
        if config.folds > 1:
            self.folds = self._cut()

    def _drawn_anew(self) -> RedrawnNegatives:
        """Negatives of each epoch."""
        prepared, sampling, nominated = self.prepared, self.config.sampling, None
        if sampling.hard_share > 0:
            with torch_on_one_thread():
                nominated = nominees(self._histories, prepared.dataset.num_items)
        return RedrawnNegatives(
            prepared,
            self.config.seed,
            sampling.negatives,
            by_popularity=sampling.negatives_by == "popularity",
            hard_share=sampling.hard_share,
            nominees=nominated,
        )

    def _cut(self) -> Folds:
        """Cut the examples into folds, of which some are left out."""
        config, redraw = self.config, self.redraw
        folds = Folds.cut(self.examples, config.folds, config.seed)
        kept = folds.kept
        if not len(kept):
            raise TrainingError(
                f"{self.prepared.dataset.name}: no training row is left with --folds"
                f" {config.folds}, expected some: no user has train positives in two folds"
            )
        self.examples = folds.rows
        if redraw is not None:
            self.redraw = lambda epoch: redraw(epoch)[kept]
        return folds

    @property
    def training_examples(self) -> TrainingExamples:
        """Examples and histories that a model fits its features to, before it is trained."""
        histories = self._histories if self.folds is None else self.folds.histories
        items = None
        if self._redrawn is not None and self._redrawn.hard_share > 0:
            items = self._redrawn.plain(1)
            items = items if self.folds is None else items[self.folds.kept]
        return TrainingExamples(
            self.examples, histories, self.config.folds, self.redraw, max(self._draws, 1), items
        )

    def stream(self, model: Model, name: str) -> BatchStream:
        """Mini-batches of a stage."""
        stage: StageConfig = getattr(self.config, name)
        plan = model.plan(self.config, name)
        drawn = stage.lambda1 > 0 and plan.triples != "none" and self.graph.num_triples > 0
        return BatchStream(
            self.graph,
            self.examples,
            batch_size=stage.batch_size,
            group_size=stage.group_size,
            triples=stage.triples if drawn else 0,
            seed=self.config.seed,
            reads=model.reads,
            plan=plan,
            redraw=self.redraw,
            folds=self.folds,
            shared=self.shared,
            lists=stage.loss != "bce",
            corrections=self._corrections if stage.loss == "softmax" else None,
        )

    def _corrections(self, items: Tensor, rows: Tensor) -> Tensor:
        """Corrections [n] of items [n] of the examples at positions `rows` [n], as in `Batch`."""
        if self._redrawn is None:
            return (self.examples.labels[rows] == 0) * math.log(self.prepared.dataset.num_items)
        return self._redrawn.corrections(
            items, rows if self.folds is None else self.folds.kept[rows]
        )

    @cached_property
    def ripple(self) -> RippleSets | LazyRippleSets:
        """Ripple sets of the users, first draw, which evaluation reads."""
        return sample_ripple_sets(self.config, self.graph, self.prepared)

    @cached_property
    def _histories(self) -> Histories:
        """Train histories of the users."""
        return Histories(*history_tensors(self.prepared))

    @property
    def _draws(self) -> int:
        """Draws of negatives that epochs take in turn; 0 for a new one in each."""
        return MODELS[self.config.model].draws

    @property
    def shared(self) -> bool:
        """Whether the folds of a user share a ripple set; what repetition fills differs by fold."""
        shares = MODELS[self.config.model].shared_sets
        return self.folds is not None and shares and self.config.sampling.padding == "mask"

    @property
    def held(self) -> bool:
        """Whether an epoch has the ripple sets of all users, or of all (user, fold) pairs."""
        config, num_users = self.config, self.prepared.dataset.num_users
        if self.folds is not None and not self.shared:
            return False
        return not MODELS[config.model].ripple or fit_in_memory(
            config, num_users, shared=self.folds is not None
        )

    def ripple_sets(self, number: int, *, lazy: bool = False) -> EpochSets:
        """Ripple sets that the run's epoch of that number, from 1, trains on.

        They are drawn when a mini-batch needs them where they do not fit into memory, where each
        fold of a user has one, and with `lazy` where they would take more than `DRAWN_AT_ONCE`.
        """
        folds, shape = self.folds, self.config.shape
        ripple = MODELS[self.config.model].ripple
        num_users, shared = self.prepared.dataset.num_users, folds is not None
        lazy = lazy and not fit_in_memory(self.config, num_users, shared=shared, most=DRAWN_AT_ONCE)
        if folds is None and not (lazy and ripple):
            return self.user_ripple_sets(number)
        if folds is not None and not ripple:
            return RippleSets.none(len(folds.histories))
        drawn: Any = {"hops": shape.hops, "slots": shape.slots, "seed": self.config.seed}
        drawn["epoch"] = self._draw_of(number)
        if folds is not None and self.shared:
            of_folds = (self.graph, folds.clicks, folds.click_folds, folds.count)
            if lazy or not self.held:
                return LazyFoldRippleSets(*of_folds, **drawn)
            return FoldRippleSets.sample(*of_folds, **drawn)
        repeat = self.config.sampling.padding == "repeat"
        histories = self._histories if folds is None else folds.histories
        return LazyRippleSets(self.graph, histories, repeat=repeat, **drawn)

    def user_ripple_sets(self, number: int) -> RippleSets | LazyRippleSets:
        """Ripple sets of the users for an epoch, where there are no folds."""
        epoch = self._draw_of(number)
        if epoch == 0:
            return self.ripple
        return sample_ripple_sets(self.config, self.graph, self.prepared, epoch=epoch)

    def _draw_of(self, number: int) -> int:
        return number - 1 if self.config.sampling.resample else 0

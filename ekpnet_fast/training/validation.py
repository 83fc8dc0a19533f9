"""Validation after an epoch: the number by which epochs are chosen."""

from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor

from ekpnet_fast.data.popularity import check_no_nan
from ekpnet_fast.evaluation.columns import VALIDATED_BY
from ekpnet_fast.evaluation.metrics import auc
from ekpnet_fast.evaluation.ranking import evaluate_ranking, ranking_task
from ekpnet_fast.evaluation.scoring import (
    KEPT_PAIRS,
    catalogue_scorer,
    example_logits,
    score_examples,
)
from ekpnet_fast.models import Model
from ekpnet_fast.models.build import sample_ripple_sets
from ekpnet_fast.sampling.examples import UserExamples
from ekpnet_fast.sampling.pairs import Pairs
from ekpnet_fast.sampling.ripple_sets import LazyRippleSets, RippleSets
from ekpnet_fast.training.data import TrainingData
from ekpnet_fast.training.parallel.world import World

__all__ = ["Validation", "auc_on_device", "validated_users"]

# Pairs of users and items that are ranked after an epoch, at most.
VALIDATED_PAIRS = 1 << 25
# Where all of them are scored, those for one that an epoch is trained on, and users at least.
SCORED_PER_TRAINED, LEAST_USERS = 16, 256


def validated_users(num_items: int, trained: int | None = None) -> int:
    """Number of users whose lists choose epochs, if there are so many.

    Counts decide it, not times, so that a run chooses the same epoch on any machine.

    Args:
        num_items: I.
        trained: pairs of an epoch, of a model that scores every pair of a user and an item; None
            for one that makes lists without.
    """
    most = max(VALIDATED_PAIRS // max(num_items, 1), 1)
    if trained is None:
        return most
    return min(most, max(SCORED_PER_TRAINED * trained // max(num_items, 1), LEAST_USERS))


def auc_on_device(scores: Tensor, positives: Tensor, negatives: Tensor) -> float:
    """AUC as `metrics.auc` gives it, of scores on a device, for which the host waits once.

    Args:
        scores: [n].
        positives, negatives: int64 places of the two classes in `scores`, on its device.

    Raises:
        TrainingError: scores that are NaN; says how many.
    """
    below, above = scores[negatives].sort().values, scores[positives]
    # Negatives that are lower, plus those not higher: a win counts 2, a tie 1.
    twice = torch.searchsorted(below, above).sum()
    twice += torch.searchsorted(below, above, right=True).sum()
    won, bad = torch.stack([twice, scores.isnan().sum()]).tolist()
    check_no_nan(bad, len(scores))
    return won / (2 * len(above) * len(below)) if len(above) and len(below) else math.nan


class Validation:
    """The measure of the protocol on validation (`columns.VALIDATED_BY`).

    It is the AUC over the examples, or a metric of ranking all items for `validated_users`, the
    same in every epoch.

    Args:
        data: of the run.
        model: the model to validate.
        backend: `ops` or `reference`.
        device: of the model.
        world: the processes that validate together, each for a share of the users.

    Attributes:
        users: number of users whose lists are made; None where there are none.
    """

    def __init__(
        self,
        data: TrainingData,
        model: Model,
        backend: ModuleType,
        device: torch.device,
        world: World,
    ) -> None:
        self.world = world
        self.prepared, self.model, self.backend = data.prepared, model, backend
        self.measure = VALIDATED_BY[data.config.protocol]
        self.memory_mb = data.config.memory_mb
        self.examples = UserExamples.from_examples(
            self.prepared.valid, self.prepared.dataset.num_users
        )
        self.ripple: RippleSets | LazyRippleSets
        if world.size > 1:
            self.ripple = sample_ripple_sets(data.config, data.graph, data.prepared, lazy=True)
        else:
            self.ripple = data.ripple.to(device)
        # Places of positives and negatives, where scores are compared on a GPU.
        self._classes: tuple[Tensor, Tensor] | None = None
        if device.type != "cpu" and world.size == 1:
            positive = self.examples.labels == 1
            of_both = (x.nonzero().squeeze(1).to(device) for x in (positive, ~positive))
            self._classes = next(of_both), next(of_both)
        self.users: int | None = None
        if "@" in self.measure:
            trained = None if model.bounded() else len(data.examples.items)
            most = validated_users(self.prepared.dataset.num_items, trained)
            self.users = len(ranking_task(self.prepared, "valid", most).users)
        # Pairs to score, the same in every epoch, if they fit into memory.
        self._kept: dict[int, Pairs] | None = {} if len(self.examples.items) <= KEPT_PAIRS else None

    def score(self, stage: str) -> float:
        """Validation measure of a stage's prediction; the higher the better."""
        name, at, k = self.measure.partition("@")
        return self._ranked(stage, name, int(k)) if at else self._auc(stage)

    def _auc(self, stage: str) -> float:
        given = self.backend, self.model, self.ripple, self.examples
        if self._classes is not None:
            logits, _ = example_logits(*given, stage=stage, kept=self._kept)
            return auc_on_device(logits, *self._classes)
        scores = score_examples(*given, stage=stage, kept=self._kept, together=self.world)
        return auc(self.prepared.valid.labels, scores)

    def _ranked(self, stage: str, name: str, k: int) -> float:
        num_items = self.prepared.dataset.num_items
        scorer = catalogue_scorer(self.backend, self.model, self.ripple, num_items, stage=stage)
        found = evaluate_ranking(
            scorer,
            self.prepared,
            (k,),
            self.memory_mb,
            "valid",
            together=self.world,
            users=self.users,
            threads=scorer.scorer.threads,
        )
        return found[k][name]

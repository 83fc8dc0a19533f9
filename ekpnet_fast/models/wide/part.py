"""Wide part of EKPNet+: rising curves of signals, fitted to cross-fitted features."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ekpnet_fast.errors import ConfigError, TrainingError
from ekpnet_fast.models.wide.affinity import (
    Affinities,
    ItemTripleFeatures,
    SignalOptions,
    feature_names,
)
from ekpnet_fast.models.wide.catalogue import catalogue_logits
from ekpnet_fast.models.wide.curves import curves, fit_curves, quantiles
from ekpnet_fast.ops.deterministic import one_thread
from ekpnet_fast.sampling.examples import TrainingExamples
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.pairs import PairRequest, TrainContext

MAX_RANK, MAX_PIECES, MAX_RELATIONS = 1024, 64, 64
EASE_ITEMS = 8192  # up to so many, 512 MiB in float64


@dataclass(frozen=True)
class LinearOptions(SignalOptions):
    """Options of the linear part: its features and their curves.

    Attributes:
        pieces: of the response to each feature, which rises from quantile to quantile; 1 is a
            straight line.
    """

    pieces: int = 4


def check_signals(model: str, options: LinearOptions) -> None:
    """Refuse ranks and a regularisation that are out of range.

    Raises:
        ConfigError: names the option.
    """
    for name in ("low_pass", "joint_spectral"):
        for rank in getattr(options, name):
            if not 1 <= rank <= MAX_RANK:
                raise ConfigError(f"--{model}.{name} has {rank}, expected ranks of 1 to {MAX_RANK}")
    if not 0 <= options.ease < float("inf"):
        raise ConfigError(f"--{model}.ease is {options.ease}, expected at least 0")
    if not 0 <= options.relations <= MAX_RELATIONS:
        raise ConfigError(
            f"--{model}.relations is {options.relations}, expected 0 to {MAX_RELATIONS}"
        )
    if not 1 <= options.pieces <= MAX_PIECES:
        raise ConfigError(f"--{model}.pieces is {options.pieces}, expected 1 to {MAX_PIECES}")


class LinearPart(nn.Module):
    """Linear part, bias + sum_fp w_fp r_fp(x_f), w_fp >= 0: rising curves of affinity features.

    r_fp is how far the p-th of P pieces between quantiles of x_f is passed (see `curves.py`).

    Attributes:
        knots, weight, bias: [F, P + 1], [F, P], [].
        names: [F] of the features.
        affinities: by all train histories.
    """

    knots: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, options: LinearOptions, source: TrainContext) -> None:
        super().__init__()
        if options.ease > 0 and source.num_items > EASE_ITEMS:
            raise ConfigError(
                f"ease is {options.ease}, expected 0 for {source.num_items} items: it holds them"
                f" all beside each other, which is for at most {EASE_ITEMS}"
            )
        self.options = options
        self.names = feature_names(options)
        F = len(self.names)
        self.register_buffer("knots", torch.zeros(F, options.pieces + 1))
        self.register_buffer("weight", torch.zeros(F, options.pieces))
        self.register_buffer("bias", torch.zeros(()))
        with one_thread():
            self.knowledge = ItemTripleFeatures(source.graph, source.num_items)
            self.affinities = Affinities(source.histories, self.knowledge, options)
        # Of the training examples; by fold, where their items differ by epoch.
        self._of_rows: Tensor | None = None
        self._of_folds: list[Affinities] = []

    def fit(self, training: TrainingExamples) -> None:
        """Compute the training examples' features out of fold, and fit the weights to them.

        Raises:
            TrainingError: no item was clicked twice.
        """
        rows, F, redraw = training.rows, training.folds, training.redraw
        items = rows.items if redraw is None else redraw(1)
        found = torch.empty(len(self.names), len(items))
        lengths = rows.indptr.diff()

        def describe(fold: int) -> Affinities | None:
            ids = torch.arange(fold, len(training.histories), F)
            affinities = self.affinities
            if F > 1:
                histories = training.histories.of(ids)
                affinities = Affinities(histories, self.knowledge, self.options, F / (F - 1))
            ids = ids[lengths[ids] > 0]
            at, ends = _places(rows.indptr, ids)
            features = affinities.features(
                training.histories.of(ids), ends.numpy(), items[at].numpy()
            )
            found[:, at] = torch.from_numpy(features)
            return affinities if redraw is not None else None

        # Of EASE^R every fold holds items beside each other, so one at a time.
        threads = 1 if self.options.ease > 0 else min(torch.get_num_threads(), F)
        with one_thread():
            # A thread per fold, each by itself: what is found does not depend on their number.
            with ThreadPoolExecutor(threads, "fold", torch.set_num_threads, (1,)) as pool:
                of_folds = list(pool.map(describe, range(F)))
            self._of_folds = [affinities for affinities in of_folds if affinities is not None]
            # Of an item that nobody else clicked the label reveals how the data were split.
            known = found[0] > 0  # log(count + 0.5)
            of_known = found[:, known].contiguous()
            if not known.any():
                raise TrainingError(
                    "no training row has an item with a click in another fold, expected some: every"
                    " item has a single click, from which no affinity follows"
                )
            self.knots.copy_(quantiles(of_known, self.weight.shape[1]))
            weight, bias = fit_curves(of_known, self.knots.cpu(), rows.labels[known])
            self.weight.copy_(torch.from_numpy(weight))
            self.bias.fill_(bias)
            self._of_rows = self._logits(found) if redraw is None else None

    def of(self, request: PairRequest, histories: Histories, ids: Tensor) -> Tensor:
        """Logits [B] of a request whose groups have the histories `ids` [G]."""
        if request.rows is not None and self._of_rows is not None:
            return self._of_rows[request.rows]
        if request.folds == 1 and self._asks_for_all_items(request):
            total = catalogue_logits(
                self.affinities, histories.of(ids), self.knots.cpu(), self.weight.cpu()
            )
            return total.view(-1) + self.bias.cpu()
        needed = (self.weight > 0).any(1).cpu().numpy()
        if request.folds == 1:
            features = self.affinities.features(
                histories.of(ids), request.group_indptr.numpy(), request.items.numpy(), needed
            )
            return self._logits(torch.from_numpy(features))
        logits = torch.empty(len(request.items))
        fold_of_group = ids % request.folds
        for fold in range(request.folds):
            groups = torch.nonzero(fold_of_group == fold).squeeze(1)
            at, ends = _places(request.group_indptr, groups)
            features = self._of_folds[fold].features(
                histories.of(ids[groups]), ends.numpy(), request.items[at].numpy(), needed
            )
            logits[at] = self._logits(torch.from_numpy(features))
        return logits

    def _asks_for_all_items(self, request: PairRequest) -> bool:
        """Whether a request has all items in order, for every group."""
        G, I = len(request.users), self.knowledge.num_items  # noqa: E741
        items = request.items
        if len(items) != G * I or not G:
            return False
        every = torch.arange(I, dtype=items.dtype)
        return bool((request.group_indptr.diff() == I).all()) and bool(
            (items.view(G, I) == every).all()
        )

    def _logits(self, features: Tensor) -> Tensor:
        return curves(features, self.knots.cpu(), self.weight.cpu()) + self.bias.cpu()

    def weights(self) -> dict[str, float]:
        """Rise of the logit by each feature, from its lowest to its highest value; largest first.

        Lowest and highest in the training examples.
        """
        named = zip(self.names, self.weight.sum(1).tolist(), strict=True)
        return dict(sorted(named, key=lambda x: -x[1]))


def _places(indptr: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the pairs of some groups, one group after the other, and their new indptr."""
    n = indptr[ids + 1] - indptr[ids]
    ends = torch.cat([n.new_zeros(1), n.cumsum(0)])
    return torch.arange(int(ends[-1])) + torch.repeat_interleave(indptr[ids] - ends[:-1], n), ends

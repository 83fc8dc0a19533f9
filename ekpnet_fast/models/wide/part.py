"""Wide part of EKPNet+: curves of signals, fitted to cross-fitted features."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ekpnet_fast.errors import ConfigError, TrainingError
from ekpnet_fast.models.wide.affinity import Affinities, Curved, neighbours_kept
from ekpnet_fast.models.wide.curves import curves, fit_curves, quantiles
from ekpnet_fast.models.wide.folds import FITTED_ROWS, FittedRows, Fold, fitted_rows
from ekpnet_fast.models.wide.item_triples import ItemTripleFeatures
from ekpnet_fast.models.wide.lists import (
    CandidateRows,
    fit_lists,
    logistic_line,
)
from ekpnet_fast.models.wide.live import FittedTriples, items_first, with_graph
from ekpnet_fast.models.wide.shares import PairShares, pair_shares
from ekpnet_fast.models.wide.signals import SignalOptions, feature_names
from ekpnet_fast.native.processes import ALONE, Processes
from ekpnet_fast.ops.threads import torch_on_one_thread
from ekpnet_fast.sampling.examples import TrainingExamples
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.pairs import PairRequest, TrainContext

M = TypeVar("M", bound=nn.Module)

MAX_RANK, MAX_PIECES, MAX_RELATIONS = 1024, 64, 64
# What `LinearPart.following` leaves as it was.
AS_FITTED = (
    "clicks of each item",
    "co-clicks",
    "similarities by clicks",
    "regressions on clicks",
    "projections of clicks",
    "regression on the graph",
    "weights of the graph's pairs",
    "curves",
)
EASE_ITEMS = 8192  # up to so many, 512 MiB in float64


@dataclass(frozen=True)
class LinearOptions(SignalOptions):
    """Options of the linear part: its features and their curves.

    Attributes:
        objective: "click": curves that rise, fitted to clicks against drawn negatives; "list":
            curves that may fall, fitted to clicks against what the signals put first. From the
            protocol, if not set: "list" where lists are measured.
        pieces: of the response to each feature, which rises from quantile to quantile; 1 is a
            straight line.
    """

    objective: Literal["click", "list"] = "click"
    pieces: int = 4


def check_signals(model: str, options: LinearOptions, folds: int) -> None:
    """Refuse ranks and a regularisation that are out of range, and lists without folds.

    Raises:
        ConfigError: names the option.
    """
    for name in ("low_pass", "joint_spectral"):
        for rank in getattr(options, name):
            if not 1 <= rank <= MAX_RANK:
                raise ConfigError(f"--{model}.{name} has {rank}, expected ranks of 1 to {MAX_RANK}")
    if options.graph_regression != 0 and not 2 <= options.graph_regression <= MAX_RANK:
        # By one singular value alone nothing can be told from chance.
        raise ConfigError(
            f"--{model}.graph_regression is {options.graph_regression}, expected 0 or 2 to"
            f" {MAX_RANK}"
        )
    if options.neighbours < 0:
        raise ConfigError(f"--{model}.neighbours is {options.neighbours}, expected at least 0")
    if not 0 <= options.ease < float("inf"):
        raise ConfigError(f"--{model}.ease is {options.ease}, expected at least 0")
    if not 0 <= options.joint_ridge < float("inf"):
        raise ConfigError(f"--{model}.joint_ridge is {options.joint_ridge}, expected at least 0")
    if options.user_knn < 0:
        raise ConfigError(f"--{model}.user_knn is {options.user_knn}, expected at least 0")
    if not 0 <= options.relations <= MAX_RELATIONS:
        raise ConfigError(
            f"--{model}.relations is {options.relations}, expected 0 to {MAX_RELATIONS}"
        )
    if not 1 <= options.pieces <= MAX_PIECES:
        raise ConfigError(f"--{model}.pieces is {options.pieces}, expected 1 to {MAX_PIECES}")
    if options.objective == "list" and folds < 2:
        raise ConfigError(
            f"--{model}.objective is list with --folds {folds}, expected at least 2 folds: it is"
            " fitted to clicks that are held out"
        )


class LinearPart(nn.Module):
    """Linear part, bias + sum_fp w_fp r_fp(x_f): curves of affinity features.

    r_fp is how far the p-th of P pieces between quantiles of x_f is passed (see `curves.py`).
    Fitted to clicks, w_fp >= 0, so that the curves rise (`curves.py`); fitted to lists they may
    fall (`lists.py`).

    Attributes:
        knots, weight, bias: [F, P + 1], [F, P], [].
        without_history: [2] height and slope over popularity of the logit where a history is empty;
            with slope 0 the curves give it too.
        names: [F] of the features.
        clicked: [] share of the training examples that are clicks.
        affinities: by all train histories, and the graph as it is.
    """

    knots: Tensor
    weight: Tensor
    bias: Tensor
    without_history: Tensor
    clicked: Tensor

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
        self.register_buffer("without_history", torch.zeros(2))
        self.register_buffer("clicked", torch.tensor(0.5))
        catalogue = source.catalogue
        self._graph = items_first(
            source.graph, torch.arange(source.num_items) if catalogue is None else catalogue
        )
        self._numbers = _numbers(source)
        with torch_on_one_thread():
            self.knowledge = ItemTripleFeatures(
                self._graph, source.num_items, neighbours_kept(options, source.num_items)
            )
            clicks = self._numbered(source.histories)
            self.affinities = Affinities(clicks, self.knowledge, options)
        self._curves: WeakKeyDictionary[Affinities, tuple[tuple[int, ...], Curved]] = (
            WeakKeyDictionary()
        )
        self._fitted: FittedTriples | None = None
        self._followed: tuple[Graph, int, LinearPart] | None = None
        self._of_rows: Tensor | None = None  # [N, draws] of the training examples

    def fit(
        self, training: TrainingExamples, *, trained: bool = True, processes: Processes = ALONE
    ) -> None:
        """Compute the training examples' features out of fold, and fit the weights to them.

        The affinities of a fold are made one fold after the other, each by one of the processes.
        Of many examples the weights are fitted to those of the first folds, `FITTED_ROWS` or a
        fold's; never to hard negatives, which are what the signals themselves name.

        Args:
            training: the examples.
            trained: whether something is trained on what is left over, for which the logits of all
                examples are needed.
            processes: that fit the same part; their number changes no bit.

        Raises:
            TrainingError: no item was clicked twice, or no held-out click is a candidate.
        """
        F, W, items = training.folds, processes.size, training.items_by_draw
        logits = torch.empty(items.shape)
        fitted_items = items[:, 0] if training.plain is None else training.plain
        waiting: list[Fold] = []  # of this process, those whose logits are to be computed
        found: list[FittedRows] = []  # of all processes
        places: list[Tensor] = []  # of each fold, where there are several processes
        fitted, lists = False, self.options.objective == "list"
        with torch_on_one_thread():
            for first in range(0, F, W):
                numbers = range(first, min(first + W, F))
                folds = [
                    Fold(self.affinities, training, number, fitted_items, lists=lists)
                    for number in numbers
                ]
                own = folds[processes.rank : processes.rank + 1]
                waiting += own
                if W > 1:
                    places += [fold.at for fold in folds]
                if not fitted:
                    if trained:
                        for fold in own:
                            fold.make_affinities()  # while other processes make theirs
                    missing = self._enough - sum(each.num_rows for each in found)
                    found += fitted_rows(folds, missing, processes, len(self.names))
                    for fold in own:
                        if not trained:
                            fold.give_up("affinities", "features")
                        else:  # the logits follow from one of both
                            described = _is_described(fold, items)
                            fold.give_up("affinities" if described else "features")
                    if sum(each.num_rows for each in found) < self._enough and numbers.stop < F:
                        continue
                    self._fit_weights(found)
                    found, fitted = [], True
                if not trained:
                    return
                for fold in waiting:
                    logits[fold.at] = self._of_fold(fold, items)
                    fold.give_up("affinities", "features")
                waiting = []
        if W > 1:
            of_each = [torch.cat([places[0][:0], *places[rank::W]]) for rank in range(W)]
            mine = logits[of_each[processes.rank]]
            for at, found_there in zip(
                of_each, processes.each(mine, [*map(len, of_each)]), strict=True
            ):
                logits[at] = found_there
        self._of_rows = logits

    def _of_fold(self, fold: Fold, items: Tensor) -> Tensor:
        """Logits [n, draws] of a fold's examples, of which all have the items [N, draws]."""
        if _is_described(fold, items):
            # Nothing but the curves is left to do.
            knots, weight = self.knots.cpu(), self.weight.cpu()
            return (curves(fold.features, knots, weight) + float(self.bias))[:, None]
        asked = items[fold.at].flatten()
        found = self._logits(fold.affinities, fold.histories, fold.ends * items.shape[1], asked)
        return found.view(-1, items.shape[1])

    @property
    def _enough(self) -> int:
        """Number of rows to fit the weights to, where there are so many."""
        # Of candidates a fold gives about `FITTED_ROWS`, and another one tells little more.
        return FITTED_ROWS // 4 if self.options.objective == "list" else FITTED_ROWS

    def _fit_weights(self, rows: list[FittedRows]) -> None:
        found = torch.cat([each.features for each in rows], 1)
        labels = torch.cat([each.labels for each in rows])
        self.clicked.copy_(labels.mean())
        # Of an item that nobody else clicked the label reveals how the data were split.
        known = found[0] > 0  # log(count + 0.5)
        if not known.any():
            raise TrainingError(
                "no training row has an item with a click in another fold, expected some: every"
                " item has a single click, from which no affinity follows"
            )
        of_known, labels = found[:, known], labels[known]
        if self.options.objective == "list":
            self._fit_lists(rows, of_known, labels)
            return
        self.knots.copy_(quantiles(of_known, self.weight.shape[1]))
        weight, bias = fit_curves(of_known, self.knots.cpu(), labels)
        self.weight.copy_(torch.from_numpy(weight))
        self.bias.fill_(bias)

    def _fit_lists(self, found: list[FittedRows], features: Tensor, labels: Tensor) -> None:
        """Fit the weights to candidates, and slope and bias of their sum to the examples."""
        rows = CandidateRows.joined([x.candidates for x in found if x.candidates is not None])
        if not len(rows):
            raise TrainingError(
                "no click that was held out is among its user's candidates, expected some: there"
                " are too few clicks to fit a list to; --objective click needs fewer"
            )
        knots = quantiles(rows.features, self.weight.shape[1])
        weight = torch.from_numpy(fit_lists(rows, knots))
        slope, bias = logistic_line(curves(features, knots, weight), labels)
        self.knots.copy_(knots)
        self.weight.copy_(weight * (slope or 1.0))
        self.bias.fill_(bias)
        # Candidates have a history. What their weights say of popularity is said beside affinities.
        slope, height = logistic_line(features[0], labels)
        self.without_history.copy_(torch.tensor([height, slope]))

    def of(self, request: PairRequest, histories: Histories, ids: Tensor) -> Tensor:
        """Logits [B] of a request whose groups have the histories `ids` [G]."""
        if request.rows is not None and self._of_rows is not None:
            return self._of_rows[request.rows, (request.epoch - 1) % self._of_rows.shape[1]]
        assert request.folds == 1, "affinities of folds are not kept"
        asked = self._numbered(histories.of(ids))
        items = request.items if self._numbers is None else self._numbers[request.items.long()]
        if self._asks_for_all_items(items, len(request.users), request.group_indptr):
            return self._logits(self.affinities, asked).view(-1)
        return self._logits(self.affinities, asked, request.group_indptr, items)

    def _logits(
        self,
        affinities: Affinities,
        histories: Histories,
        group_indptr: Tensor | None = None,
        items: Tensor | None = None,
    ) -> Tensor:
        return self._curved(affinities).logits(histories, group_indptr, items)

    def shares(
        self,
        history: Tensor,  # [n] int32, distinct
        item: int,
    ) -> PairShares:
        """Shares of the signals and the history's items in the logit of an item."""
        if self._numbers is not None:
            history, item = self._numbers[history.long()], int(self._numbers[item])
        return pair_shares(
            self.affinities,
            self.names,
            self.knots,
            self.weight,
            float(self.bias),
            history,
            item,
            self.without_history,
        )

    def _curved(self, affinities: Affinities) -> Curved:
        """Affinities with the curves, made once for weights that stay as they are."""
        weights = (self.knots, self.weight, self.bias, self.without_history)
        versions = tuple(x for w in weights for x in (w.data_ptr(), w._version))
        found = self._curves.get(affinities)
        if found is None or found[0] != versions:
            curved = affinities.curved(self.knots.cpu(), self.weight.cpu(), float(self.bias))
            height, slope = self.without_history.tolist()
            if slope > 0:
                alone = height + slope * affinities.item_features[0]
                curved = curved._replace(without_history=alone)
            found = self._curves[affinities] = (versions, curved)
        return found[1]

    def _asks_for_all_items(self, items: Tensor, groups: int, group_indptr: Tensor) -> bool:
        """Whether pairs [B] are all items in order, for every group."""
        I = len(self.affinities.counts)  # noqa: E741
        if len(items) != groups * I or not groups:
            return False
        every = torch.arange(I, dtype=items.dtype)
        if groups == 1:
            return torch.equal(items, every)
        return bool((group_indptr.diff() == I).all()) and bool(
            (items.view(groups, I) == every).all()
        )

    def _numbered(self, histories: Histories) -> Histories:
        """Histories of items by their numbers in the catalogue, rising within each."""
        if self._numbers is None:
            return histories
        items = self._numbers[histories.items.long()].long()
        assert not (items < 0).any(), "a history has an entity that is not in the catalogue"
        # An entity that became an item may stand behind one of a higher number.
        owners = torch.repeat_interleave(histories.indptr.diff(), output_size=len(items))
        items = (owners << 32 | items).sort().values & 0xFFFFFFFF
        return Histories(histories.indptr, items.int())

    def following(self, source: TrainContext) -> LinearPart:
        """Part for another graph or catalogue; what was fitted stays (see `live.py`)."""
        catalogue = source.catalogue
        size = source.num_items if catalogue is None else len(catalogue)
        last = self._followed
        if last is not None and last[0] is source.graph and last[1] == size:
            return last[2]
        graph = items_first(source.graph, torch.arange(size) if catalogue is None else catalogue)
        if self._fitted is None:
            self._fitted = FittedTriples(self.affinities, self._graph)
        other = copy.copy(self)
        other._followed = None
        with torch_on_one_thread():
            other.affinities = with_graph(self._fitted, graph)
        other._numbers = _numbers(source)
        self._followed = (source.graph, size, other)
        return other

    def refitted(self, source: TrainContext, training: TrainingExamples) -> LinearPart:
        """Part of the same options, fitted anew.

        Args:
            source: graph, catalogue and histories.
            training: examples, whose items are numbers in the catalogue.
        """
        part = LinearPart(self.options, source).to(self.weight.device)
        part.fit(training, trained=False)
        # Examples that are drawn by this share are cut to folds and have another one, so that it
        # would drift from refresh to refresh.
        part.clicked.copy_(self.clicked)
        return part

    def weights(self) -> dict[str, float]:
        """Rise of the logit by each feature, from its lowest to its highest value; largest first.

        Lowest and highest in the training examples.
        """
        named = zip(self.names, self.weight.sum(1).tolist(), strict=True)
        return dict(sorted(named, key=lambda x: -x[1]))


def _numbers(source: TrainContext) -> Tensor | None:
    """Number [E] int32 of each entity in the catalogue, -1 of others; None where they are equal."""
    catalogue = source.catalogue
    if catalogue is None or torch.equal(catalogue.long(), torch.arange(len(catalogue))):
        return None
    numbers = torch.full((source.graph.num_entities,), -1, dtype=torch.int32)
    numbers[catalogue.long()] = torch.arange(len(catalogue), dtype=torch.int32)
    return numbers


def with_part(model: M, part: LinearPart) -> M:
    """Model, which is a copy itself, with another linear part."""
    model._modules = {**model._modules, "linear": part}
    return model


def _is_described(fold: Fold, items: Tensor) -> bool:
    """Whether a fold's features are of its examples, of which all have the items [N, draws]."""
    return (
        items.shape[1] == 1
        and fold.has_features_of_all
        # Others have logits of their own.
        and bool((fold.histories.indptr.diff() > 0).all())
        and torch.equal(items[fold.at, 0], fold.items)
    )

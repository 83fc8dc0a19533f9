"""Model, the contract of a recommender: what training, evaluation, ranking and storage call.

`docs/contributing.md` is the manual, with an example. In short:

- `tables` (name -> space) are row-sparse, made by `add_table`: a step gets their touched rows
  `[n, ...]` as leaves, and `ops.row_adam_` updates these. Other parameters are under dense Adam.
  Initial values are drawn with `self.draw` only.
- `inputs(request)` computes further tensors of a `PairRequest` on the CPU from global ids; those
  in `input_spaces` arrive as positions in the touched rows. Clicks come from
  `self.histories_of(request)`, never from `self.source`, so that cross-fitting and new users work.
- `logits` serves training (touched rows) and evaluation (whole tables); `stages` and `plan` say
  which mini-batches there are; `fit_features` comes before the first stage.
- The same seed gives the same bits at any number of threads: sums over a batch are those of `ops`
  and `ops.deterministic`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ekpnet_fast.config import RunConfig, StageConfig
from ekpnet_fast.data import Dataset, PreparedData
from ekpnet_fast.models.bounds import LinearBounds
from ekpnet_fast.models.rules import Rules
from ekpnet_fast.native.processes import ALONE, Processes
from ekpnet_fast.sampling.examples import TrainingExamples
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.pairs import (
    Batch,
    BatchFields,
    BatchPlan,
    Inputs,
    PairRequest,
    Pairs,
    TrainContext,
)

if TYPE_CHECKING:
    from ekpnet_fast.models.wide.shares import PairShares

Self = TypeVar("Self", bound="Model")
Defaults = Mapping[str, Any]
Presets = Mapping[str, Mapping[str, Mapping[str, Any]]]


class Gradients(NamedTuple):
    """Terms of the loss (eq. 24) per pair, and its gradients.

    Attributes:
        terms: [4] float64: pairs, kg, l2_weights, l2_rows.
        rows: by table, that of the touched rows but for their decay.
        dense: of `relations()` and `dense_weights()`, in that order.
    """

    terms: Tensor
    rows: dict[str, Tensor]
    dense: list[Tensor]


class Model(nn.Module):
    """Recommender; see this file's docstring and `docs/contributing.md`.

    Attributes:
        name: of `--model`.
        summary: one line of help.
        Options: frozen dataclass of the model's own options, or None.
        defaults: dotted options that are others than those of `config`.
        rules: by dotted option, those that follow from properties of the data.
        presets: dotted options by preset and data set, of a paper.
        stages: groups of training options that are run, in order.
        ripple: whether it uses ripple sets.
        history: whether its `inputs` use histories; a model with ripple sets does anyway.
        tables: row-sparse tables, name -> space.
        undecayed: tables that lambda3 does not weigh, such as biases.
        relation_tables: names of parameters [R, ...] of which a batch touches some rows.
        input_spaces: which of `inputs` are ids, name -> space.
        pair_inputs: which of `inputs` have an entry per pair, [B], and cost less for many pairs
            at a time; of a model that has others too, none.
        blocks: of pairs that are scored at a time, in place of one that stays in a CPU's cache:
            more where pairs of other users and the same items share much of the work.
        asked: properties of a `Batch` that `kg_sum` reads and for which a GPU would be waited for,
            such as `valid_slots`.
        resident: whether `training.cuda_graph` can train it: of tables it has one, [E, C, D] in the
            space "entity", no `inputs` but `pair_inputs`, and steps that neither wait for the
            device nor depend on a value.
        shared_sets: whether `gradients` takes groups of a user's pairs of several folds, which
            share a ripple set (`Batch.slot_folds`); each of `inputs` then has an entry per pair.
        draws: of negatives, where they are drawn, that epochs take in turn, so that `fit_features`
            can see all examples; 0 for a new draw in each epoch.
        uncut: why a mini-batch cannot be computed in parts, as words after the model's name: its
            loss is no sum over pairs and triples. "" where it can.
        paths_alone: whether a score is that of paths alone, with nothing of the item's own beside
            it, so that all scores are 0 where the graph reaches no item.
        needs: what is expected where a data set lacks what the model cannot do without.
        new_users: whether a user's side comes from the history alone, so that a history that
            was not in training can be scored.
        live: whether the graph may change and grow after training, because predictions read it
            anew or `with_context` follows it.
        as_fitted: what is fitted to the graph and to all clicks without deep training, in words: it
            stays when they change, until `refreshed`.
        by_vector: whether, for one user, the score follows from the item's own rows of the tables
            of entities and items, smoothly, so that items with alike rows have alike scores.
        wide: whether it has a wide part, whose `shares` the logit can be told as.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Options: ClassVar[type | None] = None
    defaults: ClassVar[Defaults] = {}
    rules: ClassVar[Rules] = {}
    presets: ClassVar[Presets] = {}
    stages: ClassVar[tuple[str, ...]] = ("train",)
    ripple: ClassVar[bool] = False
    history: ClassVar[bool] = False
    tables: ClassVar[Mapping[str, str]] = {}
    undecayed: ClassVar[tuple[str, ...]] = ()
    relation_tables: ClassVar[tuple[str, ...]] = ()
    input_spaces: ClassVar[Mapping[str, str]] = {}
    pair_inputs: ClassVar[tuple[str, ...]] = ()
    blocks: ClassVar[int] = 1
    asked: ClassVar[tuple[str, ...]] = ()
    resident: ClassVar[bool] = False
    shared_sets: ClassVar[bool] = False
    draws: ClassVar[int] = 0
    uncut: ClassVar[str] = ""
    paths_alone: ClassVar[bool] = False
    needs: ClassVar[str] = "a graph of the items"
    new_users: ClassVar[bool] = False
    live: ClassVar[bool] = False
    as_fitted: ClassVar[tuple[str, ...]] = ()
    by_vector: ClassVar[bool] = False
    wide: ClassVar[bool] = False

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__()
        self.shape = config.shape
        self.options = config.options
        self.source = source
        self.draw = torch.Generator().manual_seed(config.seed)

    # ---- what a subclass defines -------------------------------------------------------------

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Refuse options that the model cannot work with.

        Raises:
            ConfigError: names the option.
        """

    @classmethod
    def lacking(cls, dataset: Dataset) -> str | None:
        """Name what the model needs and a data set lacks; None where it has everything."""
        if cls.paths_alone and not dataset.reaches_items:
            return "triple with an item"
        return None

    @classmethod
    def by_graph_alone(cls) -> bool:
        """Whether nothing but paths of the graph leads from a history to the scores."""
        return cls.ripple and cls.inputs is Model.inputs

    @classmethod
    def bounded(cls) -> bool:
        """Whether its last stage's lists are made by `linear_bounds`, not scoring every item."""
        return cls.linear_bounds is not Model.linear_bounds

    @classmethod
    def found_ahead(cls) -> tuple[str, ...]:
        """Properties of a mini-batch that are found before it is copied to a GPU."""
        return (*cls.asked, *(["relation_touched"] if cls.relation_tables else []))

    @classmethod
    def without_triples(cls) -> str | None:
        """What it means that no triple of a data set has an item, in words that follow these.

        None for models that read no triples, and for those that are refused then.
        """
        if cls.paths_alone:
            return None
        if cls.by_graph_alone():
            return (
                f"by which alone {cls.name} tells users apart: its lists are the same for all, as"
                " those of popularity are; linear, ekpnet_plus and mf need none"
            )
        if cls.wide or "entity" in cls.tables.values():
            left = "signals by" if cls.wide else "neighbours and losses in"
            return (
                f"which {cls.name} reads: its {left} the graph are left out, and it learns from"
                " clicks alone"
            )
        return None

    @classmethod
    def plan(cls, config: RunConfig, stage: str) -> BatchPlan:
        """Composition of a stage's mini-batches: pairs and no triples, unless overridden."""
        return BatchPlan()

    def fit_features(self, training: TrainingExamples, processes: Processes = ALONE) -> None:
        """Fit features to the training examples before the first stage; none unless overridden.

        Args:
            training: the examples.
            processes: that all fit the same, and may share the work.
        """

    def inputs(self, request: PairRequest) -> Inputs:
        """Further tensors for some pairs, by name, in global ids (none, unless overridden).

        Runs on the CPU, beside the step where a GPU computes; it must depend on the request alone.
        """
        return {}

    def logits(
        self,
        backend: ModuleType,
        tables: Mapping[str, Tensor],
        pairs: Pairs,
        *,
        stage: str,
    ) -> Tensor:
        """Logits [B] of the pairs, differentiable in tables and parameters.

        Args:
            backend: `ops` or `reference`.
            tables: the rows that the ids of `pairs` name, by table.
            pairs: users, items and the results of `inputs`.
            stage: the stage whose prediction is computed.
        """
        raise NotImplementedError(f"{type(self).__name__} has no logits")

    def attention(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs
    ) -> Tensor | None:
        """Attention weights [B, H, M]: the share of each ripple slot in its hop's answer.

        None for a model without such weights. Arguments as in `logits`.
        """
        return None

    def linear_bounds(
        self, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> LinearBounds | None:
        """Bounds, linear in the item's vector, of the logits of all items of `pairs` in each group.

        Of the logits without `pair_inputs`, of which the logit must be the sum with the rest. None
        for a model without bounds; with them lists are made without scoring every item. They must
        hold for what `logits` computes, rounded as it is.

        Args:
            tables: whole tables.
            pairs: the groups, and items [I] that every group is asked about.
            stage: the stage whose prediction is bounded.
        """
        return None

    def kg_sum(
        self,
        backend: ModuleType,
        tables: Mapping[str, Tensor],
        batch: Batch,
        *,
        stage: str,
    ) -> Tensor | None:
        """Sum of the loss over triples of the batch; None where it has none.

        Called if lambda1 is above 0; drawn triples are `batch.triple_*`.
        """
        return None

    def gradients(
        self, tables: Mapping[str, Tensor], batch: Batch, options: StageConfig, *, stage: str
    ) -> Gradients | None:
        """Loss and gradients by a native op; None where there is none.

        Without it they follow from `logits` and `kg_sum`, with which it must agree.

        Args:
            tables: those that `batch.rows_of` names rows of.
            batch: in terms of the rows that it touches.
            options: of the stage.
            stage: its name.
        """
        return None

    def dense_weights(self, stage: str) -> list[nn.Parameter]:
        """Parameters that a stage trains and lambda2 weighs: all but `relation_tables`."""
        return [p for name, p in self.named_parameters() if name not in self.relation_tables]

    def silent(self, stage: str) -> dict[str, Tensor]:
        """Parameters by name with which what a stage trains adds nothing to the logit.

        They make the model's state before the first epoch one that can be chosen, as the best on
        validation, and the one that is kept where there is no epoch. None, unless overridden: most
        models have no answer before they are trained.
        """
        return {}

    def fit(self, prepared: PreparedData) -> None:
        """Compute a model that has no stages."""
        raise NotImplementedError(f"{type(self).__name__} has neither stages nor fit")

    def shares(self, history: Tensor, item: int) -> PairShares | None:
        """Logit of the wide part as a sum over signals and items; None for a model without one.

        Args:
            history: [n] int32, distinct items.
            item: the item whose logit it is.
        """
        return None

    def refreshed(self, source: TrainContext, training: TrainingExamples) -> Model:
        """Copy in which all but the deep weights is fitted anew, of a model with `as_fitted`.

        Args:
            source: graph, catalogue and histories; `with_context` follows changes from there.
            training: examples, whose items are numbers in the catalogue.
        """
        raise NotImplementedError(f"{type(self).__name__} fits nothing but its weights")

    def weights_by_name(self) -> dict[str, float]:
        """Readable weights by the name of their feature; none, unless overridden."""
        return {}

    # ---- what follows from it ------------------------------------------------------------------

    def with_context(self: Self, source: TrainContext) -> Self:
        """Copy with the same weights, whose `inputs` come from another graph or other histories."""
        other = copy.copy(self)
        other.source = source
        return other

    def histories_of(self, request: PairRequest) -> tuple[Histories, Tensor]:
        """Histories of a request, and the index [G] of each group's in them."""
        given = request.histories
        return (self.source.histories if given is None else given), request.history_ids

    def add_table(self, name: str, rows: Tensor) -> None:
        """Make a row-sparse table of its initial rows; it must be declared in `tables`.

        It is stored in `shape.table_dtype`; `logits` and `kg_sum` get float32 rows.
        """
        assert name in self.tables, f"{name} is not in tables of {type(self).__name__}"
        self.register_buffer(name, rows.to(getattr(torch, self.shape.table_dtype)))

    def table(self, name: str) -> Tensor:
        """Row-sparse table of a name, of the dtype that it is stored in."""
        table: Tensor = self.get_buffer(name)
        return table

    def relations(self) -> list[nn.Parameter]:
        """Parameters named in `relation_tables`."""
        return [self.get_parameter(name) for name in self.relation_tables]

    def whole_tables(self) -> dict[str, Tensor]:
        """Row-sparse tables by name, in the dtype that is computed in."""
        return {name: widened(self.table(name)) for name in self.tables}

    @property
    def reads(self) -> BatchFields:
        """Fields that a mini-batch must hold."""
        spaces = tuple(dict.fromkeys([*self.tables.values(), *self.input_spaces.values()]))
        own = type(self).inputs is not Model.inputs
        return BatchFields(spaces, self.inputs if own else None, self.input_spaces)


def widened(rows: Tensor) -> Tensor:
    """Rows of a table in the dtype that is computed in: bfloat16 is for storage alone."""
    return rows.float() if rows.dtype == torch.bfloat16 else rows


def uniform(size: tuple[int, ...], bound: float, draw: torch.Generator) -> Tensor:
    """Draw from U(-bound, bound)."""
    return torch.empty(size).uniform_(-bound, bound, generator=draw)


def xavier(size: tuple[int, ...], fan_in: int, fan_out: int, draw: torch.Generator) -> Tensor:
    """Draw from U(-b, b) with b = sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010)."""
    return uniform(size, math.sqrt(6 / (fan_in + fan_out)), draw)


def initial_rows(size: tuple[int, ...], init: str, draw: torch.Generator) -> Tensor:
    """Initial table [n, ..., D] by `ModelConfig.init`; "transe" has norm 1 in channel 0."""
    n, width = size[0], size[-1]
    if init == "xavier":
        return xavier(size, n, width, draw)
    if init == "normal":
        return torch.empty(size).normal_(0.0, 0.1, generator=draw)
    rows = uniform(size, 6 / math.sqrt(width), draw)
    first = rows[:, 0] if rows.dim() == 3 else rows
    first.copy_(nn.functional.normalize(first, dim=-1))
    return rows

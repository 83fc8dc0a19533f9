"""What a recommender has to offer to be trained, evaluated, ranked with, stored and tested.

How to add one: write `models/NAME.py` with a subclass of `Model` and list it in
`models/__init__.py`. `--model NAME`, its options, presets and help, `evaluate`, and the tests in
`tests/models/test_every_model.py` follow from the class.

**Parameters.** Tables that a mini-batch touches a few rows of are *tables*: declared in `tables`
(name -> space) and made with `add_table`. Spaces are "entity", "user", "item", or a model's own.
In a step `logits` and `kg_sum` get, by name, the touched rows as leaves `[n, ...]`, and ids in the
batch are positions in them; their gradients go to those rows by `ops.row_adam_`, with weight decay
lambda3 unless listed in `undecayed`. Everything else is an `nn.Parameter` under dense Adam, decayed
by lambda2, or by lambda3 on the relations that the batch names if listed in `relation_tables`. Draw
initial values with `self.draw` only.

**The fused propagation.** Keys and values of the model's own go through `attend.attend`, which is
`ops.ripple_attention`; matrices per relation are applied by `deterministic.linear_by_relation`.

**Inputs.** A batch has its pairs by user group (`sampling.Pairs`): `users` [G], `items` and
`free_items` [B] in the spaces user, entity and item, `groups` [B], and ripple sets if `ripple` is
True. Whatever else a model needs, such as sampled neighbours or histories, comes from
`inputs(request)`: a dictionary of tensors computed on the CPU from global ids, ahead of the step;
those that are ids of a space are named in `input_spaces` and arrive as positions. In evaluation the
same tensors arrive with global ids, and whole tables are given, so one `logits` serves both.

**Histories.** What a group's user clicked comes from `self.histories_of(request)`, never from
`source`, because a request may bring its own: with `--folds` those of virtual users, without a
training example's own fold (see `folds.py`); users that are not in the data are served by
`model.with_context(source)` with their histories, or by a request that brings them. Set `history`
if the model looks at histories without ripple sets. Statistics over all users that tell a training
example its label must leave out its fold: `request.folds` and `request.ids % request.folds` say
which. `fit_features(training)` comes before the first stage and gets all training examples at once.

**Stages.** `stages` names the groups of options ("pretrain", "train") that are run, in order;
`plan` says for each whether its batches have pairs, and triples with them, apart from them, or none
(see `sampling.BatchPlan`). A stage of triples alone learns from `kg_sum` and is not validated.
`logits(..., stage=)` is told which stage's prediction is wanted. A model without stages is computed
by `fit`.

**Loss.** Per mini-batch (BCE + lambda1 / 2 kg_sum + lambda2 / 2 |dense|^2 + lambda3 / 2 |rows|^2)
/ B, or over its true triples where it has no pairs.

**Options and presets.** `Options` is a frozen dataclass; its fields become `--NAME.field`, its
docstring their help, and `self.options` its value; `check` refuses what the model cannot do,
and `lacking` says which data it cannot learn from.
`presets[preset][data set]` holds dotted options, where "*" is for any data set.

**Bits.** The same seed gives the same bits at any number of threads. Torch splits sums over a batch
over its threads, so take rows with `deterministic.gather` (not `table[ids]`), multiply by shared
matrices with `deterministic.linear` (not `x @ W`), apply sigmoid and its like to more than a few
thousand numbers with `deterministic.in_pieces`, and sum losses with `fixed_order_sum` of it.
Softmax over and sums along a short last dimension, and `ops`, are safe as they are; a batched
product of small matrices is where it has many more matrices than there are threads.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ekpnet_fast.config import RunConfig, StageConfig
from ekpnet_fast.data import Dataset, PreparedData
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
from ekpnet_fast.sampling.rows import TrainingRows

Presets = Mapping[str, Mapping[str, Mapping[str, Any]]]


class Gradients(NamedTuple):
    """The terms of the loss (eq. 24) per pair, and its gradients.

    Attributes:
        terms: [4] float64: bce, kg, weights, rows.
        rows: by table, that of the touched rows but for their decay.
        dense: of `relations()` and `dense_weights()`, in that order.
    """

    terms: Tensor
    rows: dict[str, Tensor]
    dense: list[Tensor]


class Model(nn.Module):
    """A recommender (see this file's docstring).

    Attributes:
        name: of `--model`.
        summary: one line of help.
        Options: frozen dataclass of the model's own options, or None.
        presets: dotted options by preset and data set.
        stages: groups of training options that are run, in order.
        ripple: whether it looks at ripple sets.
        history: whether its `inputs` look at histories; a model with ripple sets does anyway.
        tables: row-sparse tables, name -> space.
        undecayed: tables that lambda3 does not weigh, such as biases.
        relation_tables: names of parameters [R, ...] of which a batch touches some rows.
        input_spaces: which of `inputs` are ids, name -> space.
        resident: whether `training.cuda_graph` can train it: of tables it has one, [E, C, D] in the
            space "entity", no `inputs`, and steps that neither wait for the device nor depend on
            a value.
        new_users: whether a user's side comes from the history alone, so that a history that
            training did not see can be scored.
        live: whether the graph is read anew for each prediction, so that it may change and grow
            after training.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Options: ClassVar[type | None] = None
    presets: ClassVar[Presets] = {}
    stages: ClassVar[tuple[str, ...]] = ("train",)
    ripple: ClassVar[bool] = False
    history: ClassVar[bool] = False
    tables: ClassVar[Mapping[str, str]] = {}
    undecayed: ClassVar[tuple[str, ...]] = ()
    relation_tables: ClassVar[tuple[str, ...]] = ()
    input_spaces: ClassVar[Mapping[str, str]] = {}
    resident: ClassVar[bool] = False
    new_users: ClassVar[bool] = False
    live: ClassVar[bool] = False

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__()
        self.shape = config.shape
        self.options = config.options
        self.source = source
        self.draw = torch.Generator().manual_seed(config.seed)

    # ---- what a model says about itself ------------------------------------------------------

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Refuse options that the model cannot work with.

        Raises:
            ConfigError: names the option.
        """

    @classmethod
    def lacking(cls, dataset: Dataset) -> str | None:
        """What the model needs and a data set does not have; None where it has everything."""
        return None

    @classmethod
    def plan(cls, config: RunConfig, stage: str) -> BatchPlan:
        """What the mini-batches of a stage consist of: pairs and no triples, unless overridden."""
        return BatchPlan()

    def fit_features(self, training: TrainingRows) -> None:
        """Look at the training rows before the first stage (nothing to do, unless overridden)."""

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
            pairs: users, items and what `inputs` gave.
            stage: whose prediction is wanted.
        """
        raise NotImplementedError(f"{type(self).__name__} has no logits")

    def attention(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs
    ) -> Tensor | None:
        """How much [B, H, M] each ripple slot makes up of its hop's answer, a share of 1.

        None for a model without such weights. Arguments as in `logits`.
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
        """The loss over triples of the batch, a sum; None where it has none to look at.

        Asked for if lambda1 is above 0; drawn triples are `batch.triple_*`.
        """
        return None

    def gradients(self, batch: Batch, options: StageConfig, *, stage: str) -> Gradients | None:
        """The loss and its gradients by a native op for the CPU; None where there is none.

        Then they follow from `logits` and `kg_sum`, which it must agree with.
        """
        return None

    def dense_weights(self, stage: str) -> list[nn.Parameter]:
        """The parameters that a stage trains and lambda2 weighs: all but `relation_tables`."""
        return [p for name, p in self.named_parameters() if name not in self.relation_tables]

    def fit(self, prepared: PreparedData) -> None:
        """Compute a model that has no stages."""
        raise NotImplementedError(f"{type(self).__name__} has neither stages nor fit")

    def weights_by_name(self) -> dict[str, float]:
        """Weights that people can read, by what they weigh; none, unless overridden."""
        return {}

    # ---- what follows from that ----------------------------------------------------------------

    def with_context(self, source: TrainContext) -> Model:
        """Copy with the same weights, whose `inputs` come from another graph or other histories."""
        other = copy.copy(self)
        other.source = source
        return other

    def histories_of(self, request: PairRequest) -> tuple[Histories, Tensor]:
        """Histories of a request, and the index [G] of each group's in them."""
        given = request.histories
        return (self.source.histories if given is None else given), request.history_ids

    def add_table(self, name: str, rows: Tensor) -> None:
        """Make a row-sparse table of its initial rows; it must be declared in `tables`."""
        assert name in self.tables, f"{name} is not in tables of {type(self).__name__}"
        self.register_buffer(name, rows)

    def table(self, name: str) -> Tensor:
        """A row-sparse table."""
        table: Tensor = self.get_buffer(name)
        return table

    def relations(self) -> list[nn.Parameter]:
        """The parameters named in `relation_tables`."""
        return [self.get_parameter(name) for name in self.relation_tables]

    @property
    def reads(self) -> BatchFields:
        """What a mini-batch must hold."""
        spaces = tuple(dict.fromkeys([*self.tables.values(), *self.input_spaces.values()]))
        return BatchFields(spaces, self.inputs, self.input_spaces)


def uniform(size: tuple[int, ...], bound: float, draw: torch.Generator) -> Tensor:
    """U(-bound, bound)."""
    return torch.empty(size).uniform_(-bound, bound, generator=draw)


def xavier(size: tuple[int, ...], fan_in: int, fan_out: int, draw: torch.Generator) -> Tensor:
    """U(-b, b) with b = sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010)."""
    return uniform(size, math.sqrt(6 / (fan_in + fan_out)), draw)


def initial_rows(size: tuple[int, ...], init: str, draw: torch.Generator) -> Tensor:
    """A table [n, ..., D] as `ModelConfig.init` says; "transe" has norm 1 in channel 0."""
    n, width = size[0], size[-1]
    if init == "xavier":
        return xavier(size, n, width, draw)
    if init == "normal":
        return torch.empty(size).normal_(0.0, 0.1, generator=draw)
    rows = uniform(size, 6 / math.sqrt(width), draw)
    first = rows[:, 0] if rows.dim() == 3 else rows
    first.copy_(nn.functional.normalize(first, dim=-1))
    return rows

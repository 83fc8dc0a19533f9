"""EKPNet+: EKPNet beside a monotone linear part, on cross-fitted histories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models import plus_draws
from ekpnet_fast.models.attend import attend
from ekpnet_fast.models.base import Gradients, Presets, initial_rows
from ekpnet_fast.models.ekpnet import PRESETS, EKPNet
from ekpnet_fast.models.linear import LinearOptions, LinearPart, check_signals
from ekpnet_fast.models.plus_draws import ItemSets
from ekpnet_fast.models.wide.affinity import Affinities
from ekpnet_fast.ops.deterministic import gather, linear, one_thread
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.pairs import Batch, Inputs, Pairs, Request, Source
from ekpnet_fast.sampling.ripple_sets import RippleSets
from ekpnet_fast.sampling.rows import TrainingRows

if TYPE_CHECKING:
    from ekpnet_fast.config import RunConfig, StageConfig

FIRST_DRAW = 1 << 20  # epochs from here on key the further ripple sets of a prediction
MAX_DRAWS, MAX_SLOTS = 64, 64
VIEWED_NEIGHBOURS, TEMPERATURE = 8, 0.2  # of the contrastive term


@dataclass(frozen=True)
class EKPNetPlusOptions(LinearOptions):
    """What only EKPNet+ has.

    Attributes:
        mixed: affinity by the graph, by clicks, and by the graph again.
        low_pass: ranks of projections of the history on what most clicks share.
        joint: ranks of projections on what clicks and graph share.
        ease: regularisation of EASE^R, for few items with many clicks; 0 leaves it out.
        far: whether 7-hop co-click is looked at beside the 3-hop one.
        relations: match in the graph by each of so many relations, those that most items have.
        pieces: of the response to each feature, which rises from quantile to quantile; 1 is a
            straight line.
        item_bias: whether there is a trained b_i.
        mf: width of a trained matrix factorisation whose users are means over clicked items.
        clicked: whether the clicked items themselves are attended to, as a hop 0.
        clicked_with: of each clicked item, so many items that were clicked together with it are
            attended to by a relation of their own.
        item_side: slots of the item's own ripple set, attended to by the mean of the clicked
            items.
        contrast: weight, beside the translation loss, of the contrastive term between an item's
            neighbours in the graph and by clicks.
        warm: whether item rows start from the joint projections, as smoothed rows do in LightGCN.
        draws: ripple sets per user that a prediction is averaged over.
    """

    item_bias: bool = False
    mf: int = 0
    clicked: bool = False
    clicked_with: int = 0
    item_side: int = 0
    contrast: float = 0.0
    warm: bool = False
    draws: int = 1

    @property
    def draws_clicked(self) -> bool:
        """Whether clicked items are drawn."""
        return self.clicked or self.mf > 0 or self.item_side > 0

    @property
    def only_added(self) -> bool:
        """Whether EKPNet is trained on what is added to its logit, and nothing beside it."""
        beside = self.item_bias or self.draws_clicked or self.clicked_with > 0
        return not beside and self.contrast == 0


class EKPNetPlus(EKPNet):
    """logit = the linear part's (see `linear.Linear`) + EKPNet's (eq. 15 or 18) + the options'.

    The linear part is fitted first and stays; the rest is trained on what it leaves over. Both see
    training rows without their own fold. The options add, with m_u the mean of clicked rows:

        item_bias     b_i
        mf            q_i . mean of y_j over clicked j (asymmetric SVD; Koren, KDD 2008)
        clicked       rho . v_o, rho of the clicked rows by attention h W . v_o
        clicked_with  eq. 15 over triples (clicked, clicked with, item); by fold in training
        item_side     eq. 15 over triples of the item, with m_u in the place of v_o

    and `contrast` adds to the loss InfoNCE (van den Oord et al. 2018) between the means of an
    item's neighbours by graph and by clicks, as KGCL and MCCLK do between views.

    Attributes:
        linear: the features' curves.
        item_bias: [I, 1], from 0; not decayed.
        mf_item, mf_clicked: [I, mf], q and y.
        hop: [D, D], W of `clicked`.
        with_relation: [1, C, D], v_r and gamma_r of "clicked with".
    """

    name = "ekpnet_plus"
    summary = "EKPNet beside a monotone linear part, on cross-fitted histories"
    Options = EKPNetPlusOptions
    tables: ClassVar[Mapping[str, str]] = {
        "entity": "entity",
        "item_bias": "item",
        "mf_item": "item",
        "mf_clicked": "item",
    }
    undecayed = ("item_bias",)
    input_spaces: ClassVar[Mapping[str, str]] = {
        "clicked": "entity",
        "clicked_items": "item",
        "with_heads": "entity",
        "with_tails": "entity",
        "item_heads": "entity",
        "item_tails": "entity",
        "view_near": "entity",
        "view_with": "entity",
    }
    resident = False
    live = False
    presets: ClassVar[Presets] = {
        "default": {
            **PRESETS["default"],
            "*": {"folds": 5, "pretrain.epochs": 0},
            "movielens-1m": {**PRESETS["default"]["movielens-1m"], "pretrain.epochs": 0},
            "last-fm": {**PRESETS["default"]["last-fm"], "ekpnet_plus.far": True},
            # Here the projections get no weight.
            "book-crossing": {
                **PRESETS["default"]["book-crossing"],
                "ekpnet_plus.low_pass": (),
                "ekpnet_plus.joint": (),
                "ekpnet_plus.far": True,
                "ekpnet_plus.relations": 4,
                "train.lr": 1e-2,
            },
        }
    }
    identity: Tensor
    no_bias: Tensor

    def __init__(self, config: RunConfig, source: Source) -> None:
        super().__init__(config, source)
        options: EKPNetPlusOptions = self.options
        D = self.shape.width
        self.linear = LinearPart(options.signals, options.pieces, source)
        if options.item_bias:
            self.add_table("item_bias", torch.zeros(source.num_items, 1))
        self.register_buffer("identity", torch.eye(D), persistent=False)
        self.register_buffer("no_bias", torch.zeros(D), persistent=False)
        if options.mf:
            size = (source.num_items, options.mf)
            for name in ("mf_item", "mf_clicked"):
                self.add_table(name, initial_rows(size, "normal", self.draw))
        if options.clicked:
            self.hop = nn.Parameter(torch.eye(D))
        if options.clicked_with:
            rows = initial_rows((1, *self.relation.shape[1:]), "normal", self.draw)
            self.with_relation = nn.Parameter(rows)
        with_clicks = options.clicked_with or (VIEWED_NEIGHBOURS if options.contrast else 0)
        if with_clicks:
            self._together = self.linear.affinities.clicked_with(with_clicks)
        self._together_outside: list[Graph] = []  # of the clicks outside each fold
        self.resample = config.sampling.resample
        self._item_sets = ItemSets(source.graph, source.num_items, options.item_side, source.seed)
        if options.warm:
            with one_thread():
                vectors = self.linear.affinities.leading(D)
            items = self.entity[: source.num_items, 0, : vectors.shape[1]]
            items.copy_(vectors * (items.std() / vectors.std().clamp(min=1e-12)))

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Ranks, widths, weights and draws."""
        options = config.options
        check_signals(cls.name, options)
        for name, limit in (("mf", 256), ("clicked_with", 256), ("item_side", MAX_SLOTS)):
            value = getattr(options, name)
            if not 0 <= value <= limit:
                raise ConfigError(f"--{cls.name}.{name} is {value}, expected 0 to {limit}")
        if not 0 <= options.contrast < float("inf"):
            raise ConfigError(f"--{cls.name}.contrast is {options.contrast}, expected at least 0")
        for name, stage in (("pretrain", config.pretrain), ("train", config.train)):
            if options.contrast and stage.epochs > 0 and stage.lambda1 == 0:
                raise ConfigError(
                    f"--{cls.name}.contrast is {options.contrast} but --{name}.lambda1 is 0,"
                    " expected it above 0: it weighs the contrastive term too"
                )
        if not 1 <= config.options.draws <= MAX_DRAWS:
            raise ConfigError(
                f"--{cls.name}.draws is {config.options.draws}, expected 1 to {MAX_DRAWS}"
            )

    def begin(self, training: TrainingRows) -> None:
        """Fit the linear part, and keep what was clicked with what outside each fold."""
        outside: dict[int, Graph] = {}

        def look(fold: int, affinities: Affinities) -> None:
            if self.options.clicked_with:
                outside[fold] = affinities.clicked_with(self.options.clicked_with)

        self.linear.fit(training, look)
        self._together_outside = [outside[fold] for fold in sorted(outside)]

    def inputs(self, request: Request) -> Inputs:
        """linear [B]: the linear part's logits; further ones as the options want (`plus_draws`).

        clicked [G, M], of each group's clicked items, clicked_counts [G], clicked_items the same
        ids; with_* [G, 1, M], what was clicked with them; item_* of the items; view_* [n, S] in
        training. In evaluation with more draws: heads, relations, tails [G, draws - 1, H, M] and
        counts.
        """
        histories, ids = self.seen(request)
        found = {"linear": self.linear.of(request, histories, ids)}
        options, M = self.options, self.shape.slots
        epoch = request.epoch if self.resample else 0
        key = (M, self.source.seed, epoch)
        # What fills masked slots: an id that the pairs name anyway.
        first = request.items[request.group_indptr[:-1].clamp(max=len(request.items) - 1)]
        if options.draws_clicked:
            items, counts = plus_draws.clicked(histories, ids, first, *key)
            found |= {"clicked": items, "clicked_counts": counts}
            if options.mf:
                found["clicked_items"] = items
        if options.clicked_with:
            graphs = self._together_outside if request.folds > 1 else [self._together]
            sets = vars(plus_draws.clicked_with(graphs, histories, ids, first, *key))
            found |= {f"with_{name}": x for name, x in sets.items()}
        if options.item_side:
            found |= self._item_sets.of(request.items, epoch)
        if options.contrast and request.epoch > 0:
            found |= plus_draws.views(
                self.source.graph,
                self._together,
                request.items,
                VIEWED_NEIGHBOURS,
                self.source.seed,
                epoch,
            )
        if request.epoch == 0 and options.draws > 1:
            found |= self._further_draws(histories.of(ids), ids.int())
        return found

    def _further_draws(self, histories: Histories, ids: Tensor) -> dict[str, Tensor]:
        graph = self.source.graph
        drawn = [
            vars(
                RippleSets.sample(
                    graph,
                    histories.indptr,
                    histories.items,
                    hops=self.shape.hops,
                    slots=self.shape.slots,
                    seed=self.source.seed,
                    epoch=FIRST_DRAW + draw,
                    users=ids,
                )
            )
            for draw in range(1, self.options.draws)
        ]
        return {name: torch.stack([sets[name] for sets in drawn], dim=1) for name in drawn[0]}

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]."""
        options: EKPNetPlusOptions = self.options
        deep = super().logits(backend, tables, pairs, stage=stage)
        if "heads" in pairs.inputs:
            for draw in range(options.draws - 1):
                heads, relations, tails, counts = (
                    pairs.inputs[name][:, draw].contiguous()
                    for name in ("heads", "relations", "tails", "counts")
                )
                other = replace(pairs, heads=heads, relations=relations, tails=tails, counts=counts)
                deep = deep + super().logits(backend, tables, other, stage=stage)
            deep = deep / options.draws
        logit = pairs.inputs["linear"] + deep
        if options.item_bias:
            assert pairs.free_items is not None
            logit = logit + gather(tables["item_bias"], pairs.free_items).squeeze(1)
        if options.mf:
            logit = logit + self._mf_logit(tables, pairs)
        if options.clicked:
            logit = logit + self._clicked_logit(backend, tables, pairs)
        if options.clicked_with:
            logit = logit + self._with_logit(backend, tables, pairs)
        if options.item_side:
            logit = logit + self._item_side_logit(backend, tables, pairs)
        return logit

    def _mf_logit(self, tables: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
        """q_i . the mean of y over the clicked items."""
        assert pairs.free_items is not None
        inputs = pairs.inputs
        user = mean_of(tables["mf_clicked"], inputs["clicked_items"], inputs["clicked_counts"])
        item = gather(tables["mf_item"], pairs.free_items)
        return (gather(user, pairs.groups) * item).sum(1)

    def _clicked_logit(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs
    ) -> Tensor:
        """rho^0 . v_o: the item's attention over the clicked items themselves."""
        rows = tables["entity"][:, 0]
        item = gather(rows, pairs.items)
        clicked = gather(rows, pairs.inputs["clicked"]).unsqueeze(1)
        rho, _ = attend(
            backend,
            linear(clicked, self.hop),
            clicked,
            pairs.inputs["clicked_counts"].unsqueeze(1),
            pairs.group_indptr,
            item,
            self.identity,
            self.no_bias,
        )
        return (rho[:, 0] * item).sum(1)

    def _with_logit(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs
    ) -> Tensor:
        """Eq. 15 over what was clicked with the clicked items."""
        sets = [pairs.inputs[f"with_{n}"] for n in ("heads", "relations", "tails", "counts")]
        _, match = backend.ripple_attention(
            *(tables["entity"], self.with_relation, self.W_e, self.b_e),
            *(*sets, pairs.group_indptr, pairs.items),
        )
        logit: Tensor = match
        return logit

    def _item_side_logit(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs
    ) -> Tensor:
        """Eq. 15 with the sides changed: groups are items, and users are what is asked for."""
        entity, inputs = tables["entity"], pairs.inputs
        mean = mean_of(entity[:, 0], inputs["clicked"], inputs["clicked_counts"])
        # A user is one more row, of which only v is looked at.
        users = torch.cat(
            [mean.unsqueeze(1), entity.new_zeros(len(mean), *entity[0, 1:].shape)], dim=1
        )
        at = inputs["item_of"]
        order = torch.argsort(at, stable=True)
        lengths = at.bincount(minlength=len(inputs["item_counts"]))
        sets = [inputs[f"item_{n}"] for n in ("heads", "relations", "tails", "counts")]
        _, match = backend.ripple_attention(
            *(torch.cat([entity, users]), self.relation, self.W_e, self.b_e, *sets),
            torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
            (pairs.groups[order] + len(entity)).int(),
        )
        return gather(match.unsqueeze(1), torch.argsort(order)).squeeze(1)

    def kg_sum(
        self, backend: ModuleType, tables: Mapping[str, Tensor], batch: Batch, *, stage: str
    ) -> Tensor:
        """The translation loss (eq. 22), and the contrastive term."""
        loss = super().kg_sum(backend, tables, batch, stage=stage)
        if self.options.contrast:
            rows, inputs = tables["entity"][:, 0], batch.inputs
            both = (inputs["view_near_counts"] > 0) & (inputs["view_with_counts"] > 0)
            near, together = (
                functional.normalize(
                    mean_of(rows, inputs[name][both], inputs[f"{name}_counts"][both]), dim=1
                )
                for name in ("view_near", "view_with")
            )
            alike = near @ together.T / TEMPERATURE
            nce = torch.logsumexp(alike, dim=1) - alike.diagonal()
            loss = loss + self.options.contrast * nce.sum()
        return loss

    def gradients(self, batch: Batch, options: StageConfig, *, stage: str) -> Gradients | None:
        """EKPNet's, the linear part's logits added; None with parts that are trained beside it."""
        if not self.options.only_added:
            return None
        return self._gradients(batch, options, stage=stage, offset=batch.inputs["linear"])

    def dense_weights(self, stage: str) -> list[nn.Parameter]:
        """EKPNet's, and those of the options."""
        own = [name for name in ("hop", "with_relation") if hasattr(self, name)]
        return super().dense_weights(stage) + [self.get_parameter(name) for name in own]

    def weights_by_name(self) -> dict[str, float]:
        """Of the linear part's features, largest first."""
        return self.linear.weights()


def mean_of(
    rows: Tensor,  # [n, D]
    ids: Tensor,  # [G, M]
    counts: Tensor,  # [G], valid slots
) -> Tensor:
    """Means [G, D] of the valid rows; 0 where there are none."""
    valid = torch.arange(ids.shape[1], device=ids.device) < counts.unsqueeze(1)
    total = (gather(rows, ids) * valid.unsqueeze(2)).sum(1)
    return total / counts.clamp(min=1).unsqueeze(1)

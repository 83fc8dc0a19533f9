"""KGCN (Wang et al., Knowledge Graph Convolutional Networks for Recommender Systems, WWW 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from types import ModuleType
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ekpnet_fast import ops
from ekpnet_fast.config import RunConfig
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models.base import Defaults, Model, initial_rows, xavier
from ekpnet_fast.models.rules import Rules, batch_size, by_density, if_dense
from ekpnet_fast.ops.deterministic import gather, in_pieces, linear, repeat_row
from ekpnet_fast.sampling.pairs import Inputs, PairRequest, Pairs, TrainContext


@dataclass(frozen=True)
class KGCNOptions:
    """Options of KGCN alone.

    Attributes:
        neighbors: K, sampled neighbours of an entity, 1 to 1024.
        aggregator: what becomes of an entity v and its neighbourhood n: act(W (v + n) + b)
            ("sum"), act(W [v || n] + b) ("concat") or act(W n + b) ("neighbor").
    """

    neighbors: int = 8
    aggregator: Literal["sum", "concat", "neighbor"] = "sum"


class KGCN(Model):
    """KGCN: items by H rounds of aggregation over their receptive field, weighed by the user.

        pi_k = softmax_k(u . r_k) over K sampled neighbours (eq. 1, 2),  n = sum_k pi_k v_k (eq. 3),
        v' = act(aggregator(v, n)) (eq. 4-6), H times,  y = sigma(u . v^H) (eq. 7),
        act is ReLU, in the last round tanh

    The neighbours of an entity are drawn once per run, as in the paper, or anew each epoch with
    `--sampling.resample true`; an entity with fewer than K keeps them all, each once, or is filled
    by drawing with replacement, as in the paper, with `--sampling.padding repeat`. An entity
    without triples has n = 0. Departures: relations are weighed by lambda2 like W; no preset fills
    by repetition.

    The work is done once per distinct *state*, a pair of a user group and an entity, and not once
    per path of a pair's K^H: users' pairs are in groups, and what a group's items reach overlaps.
    States are listed ring by ring (the pairs, then what is one hop away, ...), so that round i is
    over a prefix of the list. The aggregators are linear before `act`, so the matrices are applied
    to rows that states share and not to their sums.

    Attributes:
        user, entity: [U, D], [E, D].
        relation: [R, D].
        W: [H, D, D] of each round; with "concat" [H, 2, D, D], of v and of n.
        b: [H, D].
    """

    name = "kgcn"
    summary = "KGCN: graph convolution over sampled neighbours, weighed by the user"
    Options = KGCNOptions
    tables: ClassVar[Mapping[str, str]] = {"user": "user", "entity": "entity"}
    input_spaces: ClassVar[Mapping[str, str]] = {"nodes": "entity", "tails": "entity"}
    defaults: ClassVar[Defaults] = {
        "sampling.resample": False,
        "shape.hops": 1,
        "train.epochs": 20,
        # A user's vector learns from one group of the user's pairs in each step: an epoch
        # of few large groups hardly moves it, while the items are learned by heart.
        "train.group_size": 1,
    }
    rules: ClassVar[Rules] = {
        "kgcn.aggregator": if_dense("concat", "sum"),
        "train.batch_size": batch_size,
        "train.lr": by_density(5e-3, 1e-2),
        "train.lambda3": by_density(0.2, 0.02),
    }

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__(config, source)
        self.sampling = config.sampling
        H, D, init = self.shape.hops, self.shape.width, self.shape.init
        self.add_table("user", initial_rows((source.num_users, D), init, self.draw))
        self.add_table("entity", initial_rows((source.graph.num_entities, D), init, self.draw))
        self.relation = nn.Parameter(xavier((source.graph.num_relations, D), D, D, self.draw))
        concat = self.options.aggregator == "concat"
        sizes, inputs = ((H, 2, D, D), 2 * D) if concat else ((H, D, D), D)
        self.W = nn.Parameter(xavier(sizes, inputs, D, self.draw))
        self.b = nn.Parameter(torch.zeros(H, D))

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Refuse a K that cannot be sampled."""
        if not 1 <= config.options.neighbors <= 1024:
            raise ConfigError(f"--kgcn.neighbors is {config.options.neighbors}, expected 1 to 1024")

    def inputs(self, request: PairRequest) -> Inputs:
        """States of the pairs' receptive fields, S in all.

        Returns:
            nodes, groups [S], entity and user group of each; the first B are the pairs.
            relations, tails [S, K], counts [S], its sampled neighbours.
            children.i [S_i, K], for i below H - 1, the states of the neighbours of ring i's states.
        """
        graph, K = self.source.graph, self.options.neighbors
        E = graph.num_entities
        lengths = request.group_indptr.diff()
        nodes = request.items
        groups = torch.repeat_interleave(lengths)
        parts: dict[str, list[Tensor]] = {
            name: [] for name in ("nodes", "groups", "relations", "tails", "counts")
        }
        children = {}
        end = 0
        for hop in range(self.shape.hops):
            relations, tails, counts = ops.sample_neighbors(
                graph.indptr,
                graph.relations,
                graph.tails,
                nodes,
                K,
                seed=self.source.seed,
                epoch=request.epoch if self.sampling.resample else 0,
                repeat=self.sampling.padding == "repeat",
            )
            # A masked slot names the node itself, or it would touch the row of entity 0.
            masked = torch.arange(K) >= counts.unsqueeze(1)
            tails = torch.where(masked, nodes.unsqueeze(1), tails)
            for name, part in zip(parts, (nodes, groups, relations, tails, counts), strict=True):
                parts[name].append(part)
            end += len(nodes)
            if hop + 1 < self.shape.hops:
                states, child = torch.unique(groups.unsqueeze(1) * E + tails, return_inverse=True)
                children[f"children.{hop}"] = child + end
                groups, nodes = states // E, (states % E).int()
        return {**{name: torch.cat(part) for name, part in parts.items()}, **children}

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]."""
        assert pairs.users is not None
        given, H = pairs.inputs, self.shape.hops
        users = gather(tables["user"], pairs.users)
        weights = self._weights(users, given)
        rows, own, near = tables["entity"], given["nodes"], given["tails"]
        rings = [given[f"children.{i}"] for i in range(H - 1)]
        children = torch.cat(rings) if rings else own
        # Where rings end is known by shapes, because a GPU would be waited for to tell numbers.
        ends = [*accumulate(map(len, rings)), len(own)]
        # Rounds 1 .. H are over the states of the first H .. 1 rings.
        for i, end in enumerate(reversed(ends)):
            act = torch.relu if i + 1 < H else torch.tanh
            rows = in_pieces(act, self._aggregate(i, rows, own[:end], near[:end], weights[:end]))
            own, near = torch.arange(end, device=rows.device), children
        return (gather(users, pairs.groups) * rows).sum(1)

    def _weights(self, users: Tensor, given: Inputs) -> Tensor:
        """Attention pi [S, K] (eq. 1, 2) for users [G, D]; 0 in masked slots."""
        # There are few relations: u . r is computed for all, and looked up by states.
        match = linear(users, self.relation.T)
        at = given["groups"].unsqueeze(1) * match.shape[1] + given["relations"]
        scores = gather(match.reshape(-1, 1), at).squeeze(2)
        masked = torch.arange(at.shape[1], device=at.device) >= given["counts"].unsqueeze(1)
        # A state without neighbours has all slots masked: no -inf, whose softmax is no number.
        lowest = torch.finfo(scores.dtype).min
        return torch.softmax(scores.masked_fill(masked, lowest), 1).masked_fill(masked, 0.0)

    def _aggregate(
        self,
        i: int,
        rows: Tensor,  # [n, D]
        own: Tensor,  # [S], row of each state
        near: Tensor,  # [S, K], rows of its neighbours
        weights: Tensor,  # [S, K]
    ) -> Tensor:
        """Aggregation of round i before `act`, [S, D] (eq. 4-6)."""
        kind = self.options.aggregator
        W_own, W_near = self.W[i] if kind == "concat" else (self.W[i], self.W[i])
        through = linear(rows, W_near)
        mixed = (gather(through, near) * weights.unsqueeze(2)).sum(1)
        mixed = mixed + repeat_row(self.b[i], len(mixed))
        if kind == "neighbor":
            return mixed
        return mixed + gather(linear(rows, W_own) if kind == "concat" else through, own)

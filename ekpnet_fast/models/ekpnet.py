"""EKPNet and its variants EKP_no, EKP_att, EKP_frame."""

from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor, nn

from ekpnet_fast.config import ModelConfig
from ekpnet_fast.sampling import Batch, RippleSets


class EKPNet(nn.Module):
    """Parameters of the model and its forward pass (eq. 6-18).

    The entity table is a buffer: a mini-batch gathers the rows it touches, and their gradient is
    applied to those rows alone. Everything else is a dense parameter.

    Attributes:
        entity: [E, C, D], channel 0 v_e and, with semantic attention, channel 1 gamma_e.
        relation: [R, C, D], v_r and gamma_r.
        W_e, b_e: [D, D], [D] (eq. 12).
        weights, biases, w_out, b_out: [L - 1, K, K], [L - 1, K], [K], [1] with K = (H + 1) D
            (eq. 17, 18); only if `deep`.
    """

    entity: Tensor

    def __init__(
        self,
        shape: ModelConfig,
        num_entities: int,
        num_relations: int,
        *,
        semantic_attention: bool,
        deep: bool,
        seed: int,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.deep = deep
        channels, D = (2 if semantic_attention else 1), shape.width
        draw = torch.Generator().manual_seed(seed)
        self.register_buffer("entity", _rows(num_entities, channels, D, shape.init, draw))
        self.relation = nn.Parameter(_rows(num_relations, channels, D, shape.init, draw))
        self.W_e = nn.Parameter(_xavier((D, D), D, D, draw))
        self.b_e = nn.Parameter(torch.zeros(D))
        if deep:
            K = (shape.hops + 1) * D
            self.weights = nn.Parameter(_xavier((shape.layers - 1, K, K), K, K, draw))
            self.biases = nn.Parameter(torch.zeros(shape.layers - 1, K))
            self.w_out = nn.Parameter(_xavier((K,), K, 1, draw))
            self.b_out = nn.Parameter(torch.zeros(1))

    def logits(
        self,
        backend: ModuleType,
        entity: Tensor,  # [n, C, D], rows that the ids below name
        sets: RippleSets | Batch,  # of G groups
        group_indptr: Tensor,  # [G + 1] int64
        items: Tensor,  # [B] int32
        *,
        deep: bool,
    ) -> Tensor:
        """Logits [B]: of eq. 18 if `deep`, else of eq. 15. `backend` is `ops` or `reference`."""
        z, match = backend.ripple_attention(
            entity,
            self.relation,
            self.W_e,
            self.b_e,
            sets.heads,
            sets.relations,
            sets.tails,
            sets.counts,
            group_indptr,
            items,
        )
        if not deep:
            logit: Tensor = match
            return logit
        logit = backend.deep_score(
            z, self.weights, self.biases, self.w_out, self.b_out, self.shape.activation
        )
        return logit

    def dense_weights(self, *, deep: bool) -> list[nn.Parameter]:
        """The weights and biases that lambda2 weighs in a stage."""
        dense = [self.W_e, self.b_e]
        if deep:
            dense += [self.weights, self.biases, self.w_out, self.b_out]
        return dense


def _uniform(size: tuple[int, ...], bound: float, draw: torch.Generator) -> Tensor:
    return torch.empty(size).uniform_(-bound, bound, generator=draw)


def _xavier(size: tuple[int, ...], fan_in: int, fan_out: int, draw: torch.Generator) -> Tensor:
    return _uniform(size, math.sqrt(6 / (fan_in + fan_out)), draw)


def _rows(n: int, channels: int, width: int, init: str, draw: torch.Generator) -> Tensor:
    size = (n, channels, width)
    if init == "xavier":
        return _xavier(size, n, width, draw)
    if init == "normal":
        return torch.empty(size).normal_(0.0, 0.1, generator=draw)
    rows = _uniform(size, 6 / math.sqrt(width), draw)
    rows[:, 0] = nn.functional.normalize(rows[:, 0], dim=-1)
    return rows

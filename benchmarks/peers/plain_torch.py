"""RippleNet and EKPNet sample by sample in plain torch, the way published code trains them.

Every pair of a batch brings its user's whole ripple set, gathered from nested Python lists. All
tables are `nn.Embedding` with dense gradients, and Adam walks over every row of them each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.harness.datasets import Setting
from benchmarks.peers.ripplenet_loop import (
    RippleSet,
    graph_of,
    histories_of,
    sample_ripple_sets,
)

BATCH_SIZE = 1024  # as published
RIPPLENET_KGE, RIPPLENET_L2, RIPPLENET_LR = 0.01, 1e-7, 0.02


@dataclass(frozen=True, slots=True)
class Batch:
    """Mini-batch with a ripple set per pair: one tensor [B, M] for each hop."""

    items: Tensor  # [B]
    labels: Tensor  # [B]
    heads: list[Tensor]
    relations: list[Tensor]
    tails: list[Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """Feed of examples, ripple sets and triples as the published code holds them."""

    rows: NDArray[np.int32]  # [N, 3], user, item, label, shuffled
    sets: dict[np.int32, RippleSet]
    triples: NDArray[np.int32]  # [T, 3], head, relation, tail
    hops: int

    def batch(self, start: int) -> Batch:
        """Examples start .. start + B - 1."""
        rows = self.rows[start : start + BATCH_SIZE]
        columns: list[list[Tensor]] = [
            [
                torch.LongTensor([self.sets[user][hop][column] for user in rows[:, 0]])
                for hop in range(self.hops)
            ]
            for column in range(3)
        ]
        return Batch(
            torch.LongTensor(rows[:, 1].tolist()), torch.FloatTensor(rows[:, 2].tolist()), *columns
        )

    def triple_batch(self, count: int, num_entities: int) -> tuple[Tensor, Tensor]:
        """True triples, then as many corrupted ones [2 count, 3], and labels [2 count, 1]."""
        true = self.triples[np.random.randint(len(self.triples), size=count)]
        corrupt = true.copy()
        side = 2 * np.random.randint(2, size=count)
        corrupt[np.arange(count), side] = np.random.randint(num_entities, size=count)
        labels = torch.cat([torch.ones(count, 1), torch.zeros(count, 1)])
        return torch.from_numpy(np.concatenate([true, corrupt]).astype(np.int64)), labels


@cache
def feed_of(setting: Setting) -> Feed:
    """Feed with ripple sets by RippleNet's loop; examples of users without one are left out."""
    graph, train, shape = setting.graph, setting.prepared.train, setting.shape
    heads = np.repeat(np.arange(graph.num_entities, dtype=np.int32), graph.indptr.diff().numpy())
    columns = [heads, graph.relations.numpy().astype(np.int32), graph.tails.numpy()]
    triples = np.stack(columns, axis=1)
    positive = train.labels == 1
    histories = histories_of(train.users[positive], train.items[positive])
    sets = sample_ripple_sets(graph_of(triples), histories, histories, shape.hops, shape.slots)
    rows = np.stack([train.users, train.items, train.labels.astype(np.int32)], axis=1)
    rows = rows[[user in sets for user in train.users]]
    np.random.default_rng(0).shuffle(rows)
    return Feed(rows, sets, triples, shape.hops)


class RippleNet(nn.Module):
    """RippleNet (Wang et al., CIKM 2018), item update by plus and transform, all hops summed."""

    def __init__(self, num_entities: int, num_relations: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.entity = nn.Embedding(num_entities, width)
        self.relation = nn.Embedding(num_relations, width * width)
        self.transform = nn.Linear(width, width, bias=False)

    def loss(self, batch: Batch) -> Tensor:
        """Loss: BCE, KGE term and L2 term."""
        item = self.entity(batch.items)
        user = torch.zeros_like(item)
        kge, l2 = item.new_zeros(()), item.new_zeros(())
        for hop in zip(batch.heads, batch.relations, batch.tails, strict=True):
            h, t = self.entity(hop[0]), self.entity(hop[2])  # [B, M, D]
            R = self.relation(hop[1]).view(*h.shape, self.width)  # [B, M, D, D]
            Rh = (R @ h.unsqueeze(-1)).squeeze(-1)
            weight = torch.softmax((Rh @ item.unsqueeze(-1)).squeeze(-1), dim=1)  # [B, M]
            o = (weight.unsqueeze(-1) * t).sum(1)
            item = self.transform(item + o)
            user = user + o
            hRt = h.unsqueeze(-2) @ R @ t.unsqueeze(-1)
            kge = kge + torch.sigmoid(hRt).mean()
            l2 = l2 + (h * h).sum() + (t * t).sum() + (R * R).sum()
        bce = functional.binary_cross_entropy(torch.sigmoid((item * user).sum(1)), batch.labels)
        total: Tensor = bce - RIPPLENET_KGE * kge + RIPPLENET_L2 * l2
        return total


class EKPNet(nn.Module):
    """EKPNet, eq. 6-18 and 24, for one ripple set per pair."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        shape, graph = setting.shape, setting.graph
        self.stage = setting.config.train
        D, K = shape.width, (shape.hops + 1) * shape.width
        self.entity = nn.Embedding(graph.num_entities, D)
        self.gamma = nn.Embedding(graph.num_entities, D)
        self.relation = nn.Embedding(graph.num_relations, D)
        self.gamma_relation = nn.Embedding(graph.num_relations, D)
        self.update = nn.Linear(D, D)
        layers: list[nn.Module] = []
        for _ in range(shape.layers - 1):
            layers += [nn.Linear(K, K), nn.Tanh()]
        self.layers = nn.Sequential(*layers, nn.Linear(K, 1))

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [B] of eq. 18, and the squared rows that the batch names, summed."""
        o = self.entity(batch.items)
        xi, blocks, rows = torch.zeros_like(o), [], o.new_zeros(())
        for hop in zip(batch.heads, batch.relations, batch.tails, strict=True):
            v_h, v_t = self.entity(hop[0]), self.entity(hop[2])  # [B, M, D]
            g_h, g_t = self.gamma(hop[0]), self.gamma(hop[2])
            v_r, g_r = self.relation(hop[1]), self.gamma_relation(hop[1])
            key = g_h * (g_r * v_h).sum(-1, keepdim=True) + v_r
            value = g_t * (g_r * v_t).sum(-1, keepdim=True)
            alpha = torch.softmax((key * o.unsqueeze(1)).sum(-1), dim=1)  # [B, M]
            rho = (alpha.unsqueeze(-1) * value).sum(1)
            xi = xi + rho
            blocks.append(xi)
            o = self.update(o + rho)
            for x in (v_h, v_t, v_r, g_h, g_t, g_r):
                rows = rows + (x * x).sum()
        return self.layers(torch.cat([*blocks, o], dim=1)).squeeze(1), rows

    def loss(self, batch: Batch, triples: Tensor, true: Tensor) -> Tensor:
        """Loss (eq. 24) over the batch, per pair; triples [2 n, 3] with labels [2 n, 1]."""
        logits, rows = self.logits(batch)
        bce = functional.binary_cross_entropy_with_logits(logits, batch.labels, reduction="sum")
        distance = (
            self.entity(triples[:, 0]) + self.relation(triples[:, 1]) - self.entity(triples[:, 2])
        )
        kg = (true - torch.sigmoid(distance)).square().sum()
        dense = [*self.update.parameters(), *self.layers.parameters()]
        norm = torch.stack([x.square().sum() for x in dense]).sum()
        stage = self.stage
        terms = stage.lambda1 * kg + stage.lambda2 * norm + stage.lambda3 * rows
        total: Tensor = (bce + terms / 2) / len(batch.labels)
        return total


def ripplenet_step(setting: Setting) -> Callable[[], int]:
    """Step of RippleNet's training per call; returns its number of pairs."""
    torch.manual_seed(0)
    feed, graph = feed_of(setting), setting.graph
    model = RippleNet(graph.num_entities, graph.num_relations, setting.shape.width)
    return _step(feed, model, RIPPLENET_LR, model.loss)


def ekpnet_step(setting: Setting) -> Callable[[], int]:
    """Step of EKPNet's second stage per call; returns its number of pairs."""
    torch.manual_seed(0)
    feed, model = feed_of(setting), EKPNet(setting)

    def loss(batch: Batch) -> Tensor:
        triples = feed.triple_batch(setting.config.train.triples, setting.graph.num_entities)
        return model.loss(batch, *triples)

    return _step(feed, model, setting.config.train.lr, loss)


def _step(
    feed: Feed, model: nn.Module, lr: float, loss_of: Callable[[Batch], Tensor]
) -> Callable[[], int]:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    batches = len(feed.rows) // BATCH_SIZE
    done = 0

    def step() -> int:
        nonlocal done
        batch = feed.batch(done % batches * BATCH_SIZE)
        done += 1
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return len(batch.labels)

    return step

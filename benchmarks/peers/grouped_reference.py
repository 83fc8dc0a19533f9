"""EKPNet by user groups with the plain-torch reference ops: the algorithm without native kernels.

Sampling and batching are the package's; gather, propagation, losses and optimizers are eager torch.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, count

import torch
from torch.nn import functional

from benchmarks.workloads import Setting
from ekpnet_fast import reference
from ekpnet_fast.models.ekpnet import EKPNet
from ekpnet_fast.sampling import BatchStream, RippleSets, UserRows

BATCH_SIZE = 8192


def step(setting: Setting) -> Callable[[], int]:
    """One step of EKPNet's second stage per call; returns its number of pairs."""
    graph, stage, shape, prepared = setting.graph, setting.stage, setting.shape, setting.prepared
    sets = RippleSets.sample(
        graph,
        setting.histories.indptr,
        setting.histories.entities,
        hops=shape.hops,
        slots=shape.slots,
        seed=0,
    )
    stream = BatchStream(
        graph,
        UserRows.from_rows(prepared.train, prepared.dataset.num_users),
        batch_size=BATCH_SIZE,
        group_size=stage.group_size,
        triples=stage.triples,
        seed=0,
    )
    model = EKPNet(
        shape,
        graph.num_entities,
        graph.num_relations,
        semantic_attention=True,
        deep=True,
        seed=0,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=stage.lr)
    m, v = torch.zeros_like(model.entity), torch.zeros_like(model.entity)
    batches = chain.from_iterable(stream.epoch(epoch, sets) for epoch in count())
    done = 0

    def run() -> int:
        nonlocal done
        done += 1
        batch = next(batches)
        rows = model.entity[batch.rows.long()].requires_grad_()
        logits = model.logits(reference, rows, batch, batch.group_indptr, batch.items, deep=True)
        bce = functional.binary_cross_entropy_with_logits(logits, batch.labels, reduction="sum")
        kg = reference.triple_loss(
            rows,
            model.relation,
            batch.triple_heads,
            batch.triple_relations,
            batch.triple_tails,
            batch.triple_labels,
        )
        touched = batch.relation_touched.view(-1, 1, 1)
        norm = rows.square().sum() + (touched * model.relation.square()).sum()
        dense = torch.stack([x.square().sum() for x in model.dense_weights(deep=True)]).sum()
        terms = stage.lambda1 * kg + stage.lambda2 * dense + stage.lambda3 * norm
        loss = (bce + terms / 2) / batch.num_pairs
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert rows.grad is not None
        reference.row_adam_(model.entity, m, v, batch.rows, rows.grad, step=done, lr=stage.lr)
        return batch.num_pairs

    return run

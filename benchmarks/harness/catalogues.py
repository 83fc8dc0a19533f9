"""Large catalogues around a trained model."""

from __future__ import annotations

from dataclasses import replace

import torch

from ekpnet_fast.recommender import Recommender

SHARE = 0.75  # of a drawn item's variance that comes from a real item


def with_drawn_items(recommender: Recommender, items: int, seed: int = 0) -> Recommender:
    """Recommender whose catalogue is filled up to so many items, with weights of training.

    The vector of a drawn item is that of a real one, moved towards the mean, and noise of the real
    items' covariance beside it: mean and covariance are those of the real items, and no direction
    is empty. Scores and histories are real.

    Args:
        recommender: of a model of the EKPNet family.
        items: of the larger catalogue.
        seed: of what is drawn.
    """
    state, stream = recommender.state, torch.Generator().manual_seed(seed)
    entity, more = state.tables["entity"], items - state.num_items
    vectors = entity[state.catalogue.long(), 0]
    mean, covariance = vectors.mean(0), torch.cov(vectors.T)
    values, directions = torch.linalg.eigh(covariance)
    noise = (
        torch.randn(more, len(mean), generator=stream) @ (directions * values.clamp(min=0).sqrt()).T
    )
    real = vectors[torch.randint(len(vectors), (more,), generator=stream)]
    rows = torch.zeros(more, *entity.shape[1:])
    rows[:, 0] = mean + SHARE**0.5 * (real - mean) + (1 - SHARE) ** 0.5 * noise
    drawn = torch.arange(len(entity), len(entity) + more, dtype=torch.int32)
    indptr = state.graph.indptr
    alone = replace(  # drawn items have no triples
        state.graph,
        indptr=torch.cat([indptr, indptr[-1:].expand(more)]),
        num_entities=len(entity) + more,
    )
    return Recommender(
        replace(
            state,
            graph=alone,
            tables={**state.tables, "entity": torch.cat([entity, rows])},
            catalogue=torch.cat([state.catalogue, drawn]),
            items=state.items.with_more([f"drawn {number}" for number in range(more)], None),
            entities=state.entities.with_more([""] * more, None),
        )
    )

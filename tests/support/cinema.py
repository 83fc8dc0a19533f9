"""Cinema data set, small enough to know by heart, and recommenders of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ekpnet_fast.data import Dataset, Examples
from ekpnet_fast.recommender import Recommender

FILMS = ("alien", "blade", "casablanca", "dune", "eden", "fargo")
ENTITIES = (*(f"m/{film}" for film in FILMS[:5]), "", "m/ridley", "m/scifi", "m/drama", "m/usa")
NAMES = ("Alien", "Blade Runner", "Casablanca", "Dune", "", "", "Ridley Scott", "", "Drama", "")
RELATIONS = ("directed by", "genre", "country")
TRIPLES = (
    (0, 0, 6), (1, 0, 6), (0, 1, 7), (1, 1, 7), (3, 1, 7), (2, 1, 8), (4, 1, 8), (2, 2, 9),
    (4, 2, 9),
)  # fmt: skip
LIKES = {"ann": (0, 1, 3), "bob": (2, 4), "cy": (0, 3), "dee": (1, 3), "eve": (2, 4, 5)}


def cinema(repeats: int = 4) -> Dataset:
    """Data set of users who like science fiction or drama, and one a film without an entity.

    Every user comes several times over, so that a split has some of everything.
    """
    users, items, labels, names = [], [], [], []
    for again in range(repeats):
        for name, likes in LIKES.items():
            names.append(name if not again else f"{name}{again}")
            for item in range(len(FILMS)):
                users.append(len(names) - 1)
                items.append(item)
                labels.append(int(item in likes))
    heads, relations, tails = np.array(TRIPLES, dtype=np.int32).T.copy()
    return Dataset(
        name="cinema",
        rows=Examples(
            np.array(users, dtype=np.int32),
            np.array(items, dtype=np.int32),
            np.array(labels, dtype=np.int8),
        ),
        interactions=None,
        heads=heads,
        relations=relations,
        tails=tails,
        num_users=len(names),
        num_items=len(FILMS),
        num_entities=len(ENTITIES),
        num_relations=len(RELATIONS),
        user_ids=tuple(names),
        item_ids=FILMS,
        entity_ids=ENTITIES,
        relation_ids=None,
        item_names=NAMES[: len(FILMS)],
        entity_names=NAMES,
        relation_names=RELATIONS,
    )


def without_graph(dataset: Dataset) -> Dataset:
    """Copy of a data set without triples, and so without entities that are no items."""
    none = np.zeros(0, dtype=np.int32)
    return replace(
        dataset,
        heads=none,
        relations=none,
        tails=none,
        num_entities=dataset.num_items,
        num_relations=0,
        entity_ids=None,
        entity_names=None,
        relation_names=None,
    )


SMALL = {"shape.width": 4, "shape.slots": 8, "pretrain.batch_size": 16, "train.batch_size": 16}


def fitted(
    model: str = "ekpnet", dataset: Dataset | None = None, *, epochs: int = 2, **options
) -> Recommender:
    """Fit a recommender of the cinema."""
    chosen = {**SMALL, **{name.replace("__", "."): value for name, value in options.items()}}
    found = Recommender.fit(dataset or cinema(), model, options=chosen, epochs=epochs, device="cpu")
    if model == "ekpnet_plus":
        # From so few clicks EKPNet learns nothing that helps; it shall say something all the same.
        with torch.no_grad():
            stream = torch.Generator().manual_seed(0)
            found._state.model.w_out.normal_(0, 0.5, generator=stream)
    return found

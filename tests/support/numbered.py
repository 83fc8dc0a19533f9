"""Small data set whose files hold numbers, and a recommender of it."""

from __future__ import annotations

from ekpnet_fast.data import Dataset, SyntheticConfig, make_synthetic
from ekpnet_fast.recommender import Recommender
from support.cinema import SMALL

OPTIONS = {**SMALL, "pretrain.batch_size": 256, "train.batch_size": 256}


def numbered_dataset() -> Dataset:
    sizes = {"users": 60, "items": 80, "positives": 10, "attributes": 16, "parents": 4}
    return make_synthetic(SyntheticConfig(**sizes, triples=435))


def fitted_to_numbers(dataset: Dataset) -> Recommender:
    return Recommender.fit(dataset, epochs=1, options=OPTIONS, device="cpu")

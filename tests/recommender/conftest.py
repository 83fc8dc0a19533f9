"""Recommenders that several test files share."""

from __future__ import annotations

import pytest

from ekpnet_fast.data import Dataset, SyntheticConfig, make_synthetic
from ekpnet_fast.recommender import Recommender
from support.cinema import SMALL, fitted

WIDER_BATCHES = {**SMALL, "pretrain.batch_size": 256, "train.batch_size": 256}


@pytest.fixture(autouse=True)
def one_thread(threads):
    """These problems are too small to share."""
    threads(1)


@pytest.fixture
def recommender() -> Recommender:
    return fitted()


@pytest.fixture(scope="session")
def numbered_dataset() -> Dataset:
    """A data set whose files hold numbers."""
    sizes = {"users": 60, "items": 80, "positives": 10, "attributes": 16, "parents": 4}
    return make_synthetic(SyntheticConfig(**sizes, triples=435))


@pytest.fixture
def numbered(numbered_dataset: Dataset) -> Recommender:
    return Recommender.fit(numbered_dataset, epochs=1, options=WIDER_BATCHES, device="cpu")

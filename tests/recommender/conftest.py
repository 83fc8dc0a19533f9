"""Recommenders that several test files share."""

from __future__ import annotations

import pytest

from ekpnet_fast.data import Dataset
from ekpnet_fast.recommender import Recommender
from support import numbered as by_number
from support.cinema import fitted


@pytest.fixture(autouse=True)
def one_thread(threads):
    """These problems are too small to share."""
    threads(1)


@pytest.fixture
def recommender() -> Recommender:
    return fitted()


@pytest.fixture(scope="session")
def numbered_dataset() -> Dataset:
    return by_number.numbered_dataset()


@pytest.fixture
def numbered(numbered_dataset: Dataset) -> Recommender:
    return by_number.fitted_to_numbers(numbered_dataset)

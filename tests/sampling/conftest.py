"""A small data set, cut into folds."""

from __future__ import annotations

import pytest

from ekpnet_fast.data import make_synthetic, prepare
from ekpnet_fast.evaluation import scoring
from ekpnet_fast.sampling.folds import Folds
from support.small_folds import COUNT, SMALL


@pytest.fixture(scope="module")
def prepared():
    return prepare(make_synthetic(SMALL), 0)


@pytest.fixture(scope="module")
def folds(prepared):
    return Folds.cut(scoring.examples_by_user(prepared.train, prepared), COUNT, seed=5)

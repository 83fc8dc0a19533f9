"""Sizes of a small data set, of its training, and the number of its folds."""

from __future__ import annotations

from ekpnet_fast.config import StageConfig
from ekpnet_fast.data import SyntheticConfig

SMALL = SyntheticConfig(
    users=40, items=80, positives=8, attributes=16, parents=4, triples=435, item_links=4
)
STAGE = StageConfig(epochs=1, batch_size=64, group_size=8, triples=16)
COUNT = 3

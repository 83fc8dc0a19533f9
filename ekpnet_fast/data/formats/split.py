"""Split that files make: which parts each pair of user and item is in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.formats.frames import Frame
from ekpnet_fast.data.formats.mapping import numbered
from ekpnet_fast.data.pair_keys import sorted_distinct
from ekpnet_fast.data.tables import Dataset, GivenSplit

__all__ = ["PARTS", "given_split", "split_of_rows"]

PARTS = {"train": GivenSplit.TRAIN, "valid": GivenSplit.VALID, "test": GivenSplit.TEST}
"""Parts by name, as in the names of files; there need not be one for validation."""


def given_split(pairs: NDArray[np.int64], parts: Mapping[str, NDArray[np.int64]]) -> GivenSplit:
    """Find the parts of pairs, each of them a key user * I + item.

    Args:
        pairs: [n] distinct, in any order.
        parts: keys of the rows of each file, by part, repeats allowed; those that are not among
            `pairs` are left out.
    """
    order = np.argsort(pairs, kind="stable")
    known = pairs[order]
    files = np.zeros(len(pairs), dtype=np.uint8)
    repeated = 0
    for part, keys in parts.items():
        found = sorted_distinct(keys)
        repeated += len(keys) - len(found)
        places = np.minimum(np.searchsorted(known, found), len(known) - 1)
        files[order[places[known[places] == found]]] |= PARTS[part]
    return GivenSplit(files, repeated)


def split_of_rows(dataset: Dataset, parts: Mapping[str, Frame]) -> GivenSplit:
    """Find the parts of a data set's rows or interactions by the files' rows.

    Args:
        dataset: with the ids of its users and items.
        parts: rows of texts, `user` and `item`, by part; those of other users and items are left
            out.
    """
    pairs = dataset.rows if dataset.rows is not None else dataset.interactions
    assert pairs is not None and dataset.user_ids is not None and dataset.item_ids is not None
    users, items = numbered(dataset.user_ids), numbered(dataset.item_ids)
    keys = {}
    for part, frame in parts.items():
        u = frame.texts["user"].index_in(users).astype(np.int64)
        i = frame.texts["item"].index_in(items)
        known = (u >= 0) & (i >= 0)
        keys[part] = u[known] * dataset.num_items + i[known]
    return given_split(pairs.users.astype(np.int64) * dataset.num_items + pairs.items, keys)

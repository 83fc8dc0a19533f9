"""Split that files make: which parts each pair of user and item is in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.pair_keys import sorted_distinct
from ekpnet_fast.data.tables import GivenSplit

__all__ = ["PARTS", "given_split"]

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

"""Random streams: each kind of draw has its own, so a change in one leaves the others as they were.

Orders come from sorting raw 64-bit outputs of PCG64, which does not depend on the platform.
"""

from __future__ import annotations

import numpy as np

from ekpnet_fast.errors import ConfigError

__all__ = [
    "BOOTSTRAP",
    "HELD_OUT",
    "NEGATIVES",
    "RANKED",
    "RATIO_SPLIT",
    "SPLIT",
    "SYNTHETIC",
    "random_stream",
]

NEGATIVES, SPLIT, SYNTHETIC, RATIO_SPLIT, HELD_OUT, BOOTSTRAP, RANKED = range(7)


def random_stream(seed: int, purpose: int) -> np.random.Generator:
    """Random generator for one purpose of one seed.

    Raises:
        ConfigError: the seed is not a whole number from 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigError(f"seed: found {seed!r}, expected a whole number from 0")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([int(seed), purpose])))

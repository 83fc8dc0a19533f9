"""Random streams: each kind of draw has its own, so a change in one leaves the others as they were.

Orders come from sorting raw 64-bit outputs of PCG64, which does not depend on the platform.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.errors import ConfigError

__all__ = [
    "BOOTSTRAP",
    "HELD_OUT",
    "NEGATIVES",
    "RANKED",
    "RATIO_SPLIT",
    "SPLIT",
    "SYNTHETIC",
    "drawn_order",
    "order_of",
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


def drawn_order(stream: np.random.Generator, count: int) -> NDArray[np.intp]:
    """Random permutation [count]: the stable order of as many raw outputs of the stream."""
    return order_of(stream.bit_generator.random_raw(count))


def order_of(draws: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Stable order [n] of raw draws [n].

    Any sort finds the same one where no two draws are equal, as of 64 bits next to never are, and
    NumPy's default, by vectors, is several times as fast as its stable one.
    """
    order = np.argsort(draws)
    ranked = draws[order]
    if np.any(ranked[1:] == ranked[:-1]):
        return np.argsort(draws, kind="stable")
    return order

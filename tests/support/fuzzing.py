"""Fuzz tests: a bounded number of tries, by a seed that is told where one fails.

Every run draws its own seed, but those of CI: there a change is judged by what it changed.
`EKPNET_FUZZ_TRIES=100000 EKPNET_FUZZ_SEED=1 pytest tests/fuzz` runs longer, or the same again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis import strategies as st

TRIES = int(os.environ.get("EKPNET_FUZZ_TRIES", "60"))
DRAWN = 1 if os.environ.get("CI") else int.from_bytes(os.urandom(4), "little")
SEED = int(os.environ.get("EKPNET_FUZZ_SEED", DRAWN))


def fuzzed(**strategies: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    """Decorator of a test that is called with many values, drawn anew in every process."""

    def decorate(test: Any) -> Any:
        bounded = settings(
            max_examples=TRIES,
            deadline=None,
            database=None,  # processes of one parallel run would share it
            suppress_health_check=list(HealthCheck),
        )
        return seed(SEED)(bounded(given(**strategies)(test)))

    return decorate


def tell_seed() -> None:
    """Show the seed beside the example that failed."""
    note(f"again: EKPNET_FUZZ_SEED={SEED} EKPNET_FUZZ_TRIES={TRIES}")


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A way to damage a file's bytes, which differ afterwards unless they were few."""
    kind = draw(st.sampled_from(("flip", "cut", "drop", "double", "fill", "insert", "replace")))
    at, share = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    content = draw(st.binary(max_size=40))
    bit = draw(st.integers(0, 7))

    def damaged(old: bytes) -> bytes:
        first = int(at * max(len(old) - 1, 0))
        last = first + 1 + int(share * (len(old) - first))
        if kind == "flip":
            return (
                old[:first]
                + bytes(b ^ (1 << bit) for b in old[first : first + 1])
                + old[first + 1 :]
            )
        if kind == "cut":
            return old[:first]
        if kind == "drop":
            return old[:first] + old[last:]
        if kind == "double":
            return old[:last] + old[first:]
        if kind == "fill":
            return old[:first] + b"\xff" * (last - first) + old[last:]
        if kind == "insert":
            return old[:first] + content + old[first:]
        return content * (1 + 1000 * bit)

    return damaged

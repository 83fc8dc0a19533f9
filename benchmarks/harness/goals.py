"""Goals of the project's speed, and the record of how far they were reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the page is made where nothing can be measured
    from benchmarks.harness.compare import Comparison


@dataclass(frozen=True, slots=True)
class Goal:
    """Goal: a bound on one measured number.

    Attributes:
        work: the work that is timed.
        against: the peer.
        bound: the value to reach.
        unit: of the value, after the number.
        stretch: a value that would be better still.
        at_most: the bound is an upper one.
        why: what stands between, where it is missed: the profile, what was tried.
    """

    work: str
    against: str
    bound: float
    unit: str = "x"
    stretch: float | None = None
    at_most: bool = False
    why: str = ""

    def met(self, value: float) -> bool:
        """Whether a value reaches the bound."""
        return value <= self.bound if self.at_most else value >= self.bound

    def bound_text(self) -> str:
        """Text such as `>= 350x, stretch 700x`."""
        text = f"{'≤' if self.at_most else '≥'} {self.bound:g}{self.unit}"
        return text if self.stretch is None else f"{text}, stretch {self.stretch:g}{self.unit}"


_STEP = "training, both stages, everything included, {} setting"
_PLAIN = "plain-torch sample-by-sample RippleNet, fed by a loop over users"
_GROUPED = "the same trainer in eager torch, with user groups"
_RANKING = "full ranking of all users, top 100, {} size"
_PAIRS = "a batched torch forward over all pairs of user and item"
_BESIDE_ONE = "training beside one busy process, {}"
_BESIDE_TWO = "training beside two busy processes, {}"
_TOGETHER = "two trainings at a time, together, {}"
_QUIET = "first-stage step of 8,192 pairs, quiet, {}"

_TWO_THREADS = (
    "both threads are busy for 95 % of the time, and take a quarter more CPU time for a step than"
    " one does: a row that one processor wrote the other must fetch, and 7 % of the samples are of"
    " threads that wait for a region"
)
_BUSY = (
    "a region waits for whoever the system stops within a chunk, up to 4 ms; batches are prepared"
    " eight at a time for this, and shorter turns of the scheduler were tried"
)

GOALS = {
    "step_movielens_plain": Goal(_STEP.format("MovieLens"), _PLAIN, 500, stretch=700),
    "step_movielens_grouped": Goal(_STEP.format("MovieLens"), _GROUPED, 5),
    "step_book_crossing_plain": Goal(_STEP.format("Book-Crossing"), _PLAIN, 60),
    "step_book_crossing_grouped": Goal(_STEP.format("Book-Crossing"), _GROUPED, 4),
    "threads": Goal("training with 2 threads, MovieLens setting", "with 1 thread", 1.7),
    "scaling_movielens": Goal(_QUIET.format("MovieLens"), "1 thread", 1.8, why=_TWO_THREADS),
    "scaling_book_crossing": Goal(
        _QUIET.format("Book-Crossing"), "1 thread", 1.7, why=_TWO_THREADS
    ),
    "beside_one_movielens": Goal(_BESIDE_ONE.format("MovieLens"), "1 thread, quiet", 0.9),
    "beside_one_book_crossing": Goal(_BESIDE_ONE.format("Book-Crossing"), "1 thread, quiet", 0.9),
    "beside_two_movielens": Goal(
        _BESIDE_TWO.format("MovieLens"), "1 thread beside them", 1, why=_BUSY
    ),
    "beside_two_book_crossing": Goal(
        _BESIDE_TWO.format("Book-Crossing"), "1 thread beside them", 1, why=_BUSY
    ),
    "together_movielens": Goal(_TOGETHER.format("MovieLens"), "one alone", 0.85),
    "together_book_crossing": Goal(_TOGETHER.format("Book-Crossing"), "one alone", 0.85),
    "sampler_numba": Goal("ripple sets, MovieLens-size graph", "numba parallel", 2, stretch=4),
    "sampler_loop": Goal("ripple sets, MovieLens-size graph", "RippleNet's Python loop", 250),
    "ranking_movielens": Goal(_RANKING.format("MovieLens"), _PAIRS, 50),
    "ranking_book_crossing": Goal(_RANKING.format("Book-Crossing"), _PAIRS, 50),
    "ranking_memory_movielens": Goal(
        "memory of that above the tables, MovieLens", "-", 512, " MB", at_most=True
    ),
    "ranking_memory_book_crossing": Goal(
        "memory of that above the tables, Book-Crossing", "-", 512, " MB", at_most=True
    ),
    "list_million": Goal(
        "the 10 best of 10^6 items, 20,000 candidates, one thread", "-", 15, " ms", at_most=True
    ),
    "list_million_recall": Goal("recall@10 of these lists", "the exact ones", 0.99, ""),
    "list_median": Goal(
        "list of 10 for a new history, MovieLens size, one thread, median",
        "-",
        2,
        " ms",
        at_most=True,
    ),
    "list_p95": Goal("of the same, 95th percentile", "-", 10, " ms", at_most=True),
    "served": Goal("lists over HTTP, 32 clients", "-", 1500, " requests/s"),
    "served_p99": Goal("of the same, 99th percentile", "-", 40, " ms", at_most=True),
    "loading": Goal(
        "loading and preparing 1.24 M triples and 754 k rows, text",
        "numpy.loadtxt and Python dicts",
        10,
    ),
    "floor": Goal(
        "fused propagation, forward and backward, MovieLens step",
        "the time of its matrix products in MKL",
        55,
        " %",
    ),
    "scale": Goal(
        "time of a step at 10^7 entities",
        "the same step at 10^5",
        1.3,
        at_most=True,
        why="rows come from memory that no cache holds; pages of 2 MiB for the tables and moments"
        " beside their rows were tried without gain",
    ),
}

reached: dict[str, dict[str, Any]] = {}  # of this session, for the closing lines of pytest


def reach(info: dict[str, Any], key: str, found: Comparison | float) -> None:
    """Write into a benchmark's `extra_info` how far a goal was reached."""
    goal = GOALS[key]
    if isinstance(found, float | int):
        entry: dict[str, Any] = {"value": round(found, 3)}
    else:
        scale = 100 if goal.unit == " %" else 1
        entry = {
            "value": round(found.ratio * scale, 3),
            "range": [round(found.low * scale, 3), round(found.high * scale, 3)],
        }
    info.setdefault("goals", {})[key] = entry
    reached[key] = entry

"""Recommenders of trained models: lists, reasons, and a graph that may change.

`recommender.py` is the face. `state.py` holds all data of one moment, and scores; `query.py`
goes from ids to numbers, `topk.py` from scores to lists, with `candidates.py` and `item_index.py`
for large catalogues, and `recall.py` says what those miss; `reasons.py` and `fidelity.py` go from
scores to paths, `drawing.py` from paths to SVG, `live.py` from one state to the next, `store.py` to
folders and back.
"""

from ekpnet_fast.recommender.answers import (
    Explanation,
    Fidelity,
    Recall,
    Recommendation,
    Recommendations,
    SimilarItem,
)
from ekpnet_fast.recommender.live import LiveGraph
from ekpnet_fast.recommender.names import Id
from ekpnet_fast.recommender.paths import Node, Reason, RippleTriple, Step
from ekpnet_fast.recommender.query import Candidates, ItemFilter
from ekpnet_fast.recommender.recommender import Recommender

__all__ = [
    "Candidates",
    "Explanation",
    "Fidelity",
    "Id",
    "ItemFilter",
    "LiveGraph",
    "Node",
    "Reason",
    "Recall",
    "Recommendation",
    "Recommendations",
    "Recommender",
    "RippleTriple",
    "SimilarItem",
    "Step",
]

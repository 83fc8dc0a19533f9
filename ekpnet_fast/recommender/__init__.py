"""Recommenders of trained models: lists, reasons, and a graph that may change.

`recommender.py` is the face. `state.py` holds all data of one moment, and scores; `query.py`
goes from ids to numbers, `topk.py` from scores to lists, with `candidates.py` and `item_index.py`
for large catalogues, and `recall.py` says what those miss; `reasons.py` and `fidelity.py` go from
scores to paths, `telling.py` to the parts that they are sums of, `drawing.py` from both to SVG,
`live.py` and `clicked.py` from one state to the next, `refreshing.py` to one that is fitted anew,
`store.py` to folders and back.
"""

from typing import TYPE_CHECKING

from ekpnet_fast.lazy import lazy_names

if TYPE_CHECKING:
    from ekpnet_fast.recommender.answers import Change as Change
    from ekpnet_fast.recommender.answers import Explanation as Explanation
    from ekpnet_fast.recommender.answers import Fidelity as Fidelity
    from ekpnet_fast.recommender.answers import Recall as Recall
    from ekpnet_fast.recommender.answers import Recommendation as Recommendation
    from ekpnet_fast.recommender.answers import Recommendations as Recommendations
    from ekpnet_fast.recommender.answers import SimilarItem as SimilarItem
    from ekpnet_fast.recommender.live import LiveGraph as LiveGraph
    from ekpnet_fast.recommender.names import Id as Id
    from ekpnet_fast.recommender.parts import Fact as Fact
    from ekpnet_fast.recommender.parts import Part as Part
    from ekpnet_fast.recommender.paths import Node as Node
    from ekpnet_fast.recommender.paths import Reason as Reason
    from ekpnet_fast.recommender.paths import RippleTriple as RippleTriple
    from ekpnet_fast.recommender.paths import Step as Step
    from ekpnet_fast.recommender.query import Candidates as Candidates
    from ekpnet_fast.recommender.query import ItemFilter as ItemFilter
    from ekpnet_fast.recommender.recommender import Recommender as Recommender

# Imported on first use, so that a command knows its options before torch is there.
_LAZY = {
    "Candidates": "ekpnet_fast.recommender.query",
    "Change": "ekpnet_fast.recommender.answers",
    "Explanation": "ekpnet_fast.recommender.answers",
    "Fact": "ekpnet_fast.recommender.parts",
    "Fidelity": "ekpnet_fast.recommender.answers",
    "Id": "ekpnet_fast.recommender.names",
    "ItemFilter": "ekpnet_fast.recommender.query",
    "LiveGraph": "ekpnet_fast.recommender.live",
    "Node": "ekpnet_fast.recommender.paths",
    "Part": "ekpnet_fast.recommender.parts",
    "Reason": "ekpnet_fast.recommender.paths",
    "Recall": "ekpnet_fast.recommender.answers",
    "Recommendation": "ekpnet_fast.recommender.answers",
    "Recommendations": "ekpnet_fast.recommender.answers",
    "Recommender": "ekpnet_fast.recommender.recommender",
    "RippleTriple": "ekpnet_fast.recommender.paths",
    "SimilarItem": "ekpnet_fast.recommender.answers",
    "Step": "ekpnet_fast.recommender.paths",
}

__all__ = [*_LAZY]
__getattr__ = lazy_names(__name__, _LAZY)

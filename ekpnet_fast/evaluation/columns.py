"""Columns of metrics by protocol, and their values in the metrics of a run."""

from __future__ import annotations

import math
from typing import Any

_LISTS_OF_20 = {
    "Recall@20": "recall@20",
    "NDCG@20": "ndcg@20",
    "Hit@20": "hit@20",
    "MRR@20": "mrr@20",
    "MAP@20": "map@20",
    "Precision@20": "precision@20",
}

COLUMNS = {
    "ripplenet": {
        "AUC": "auc",
        "ACC": "acc",
        "AUC warm": "auc_warm",
        "GAUC": "gauc",
        "NDCG@10": "ndcg@10",
        "Recall@20": "recall@20",
    },
    "recbole": {
        "MRR@10": "mrr@10",
        "NDCG@10": "ndcg@10",
        "Recall@10": "recall@10",
        "Hit@10": "hit@10",
        "Precision@10": "precision@10",
    },
    **dict.fromkeys(("fixed", "temporal", "temporal_user"), _LISTS_OF_20),
}
"""Metrics of a protocol by heading: of click prediction, and of lists at a K."""

VALIDATED_BY = {
    "ripplenet": "auc",
    "recbole": "mrr@10",
    "fixed": "ndcg@20",
    "temporal": "ndcg@20",
    "temporal_user": "ndcg@20",
}
"""Metric on validation by which a protocol chooses epochs and options."""


def metric(key: str, clicks: dict[str, Any] | None, ranking: dict[Any, Any] | None) -> float:
    """Value of a metric such as "auc" or "ndcg@10"; NaN where it was not measured.

    Args:
        key: as in `COLUMNS`.
        clicks: `metrics["test"]`, or those of popularity.
        ranking: `metrics["ranking"]`, by K as a number or, read back from JSON, as text.
    """
    name, at, k = key.partition("@")
    if at:
        lists = ranking or {}
        value = (lists.get(int(k)) or lists.get(k) or {}).get(name)
    else:
        value = (clicks or {}).get(name)
    return math.nan if value is None else float(value)

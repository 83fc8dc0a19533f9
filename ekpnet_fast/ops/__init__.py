"""Ops of the torch library `ekpnet`: typed wrapper, fake, gradient; and their specification.

Letters: U users, I items, E entities, R relations, T triples; G user groups and B pairs of a
batch; H hops, M slots of a ripple set, D width; C channels of a row (2 = v and gamma, 1 = v
alone); n table rows that a batch touches; K triples of a loss term; F folds. Ids are int32, row
pointers int64, reals float32 or float64. Ops raise RuntimeError, naming the argument, what was
found and what was expected; on a GPU for types, shapes and rates alone, because reading values
would wait for it.

`reference` has the same ops in plain torch: the specification that the tests compare with.
"""

from ekpnet_fast.ops.arguments import Propagation, RippleBatch
from ekpnet_fast.ops.attention import ripple_attention, ripple_attention_weights
from ekpnet_fast.ops.batching import group_pairs, localize, localize_batch, localize_fold_batch
from ekpnet_fast.ops.optimizer import row_adam_
from ekpnet_fast.ops.prediction import (
    ACTIVATIONS,
    deep_score,
    ekpnet_gradients,
    list_loss,
    list_loss_gradient,
    triple_loss,
)
from ekpnet_fast.ops.ranking import top_items
from ekpnet_fast.ops.sampling import (
    build_csr,
    leave_checks_to_samplers,
    sample_fold_ripple_sets,
    sample_neighbors,
    sample_ripple_sets,
    sample_triples,
)
from ekpnet_fast.ops.shared_rows import RowPlaces, add_rows_, place_rows, square_norms, take_rows_
from ekpnet_fast.ops.sparse import SparseRows, local_ridge, sparse_product, strongest_products
from ekpnet_fast.ops.wide_part import AffinitySources, WideCurves, wide_features, wide_logits

__all__ = [
    "ACTIVATIONS",
    "AffinitySources",
    "Propagation",
    "RippleBatch",
    "RowPlaces",
    "SparseRows",
    "WideCurves",
    "add_rows_",
    "build_csr",
    "deep_score",
    "ekpnet_gradients",
    "group_pairs",
    "leave_checks_to_samplers",
    "list_loss",
    "list_loss_gradient",
    "local_ridge",
    "localize",
    "localize_batch",
    "localize_fold_batch",
    "place_rows",
    "ripple_attention",
    "ripple_attention_weights",
    "row_adam_",
    "sample_fold_ripple_sets",
    "sample_neighbors",
    "sample_ripple_sets",
    "sample_triples",
    "sparse_product",
    "square_norms",
    "strongest_products",
    "take_rows_",
    "top_items",
    "triple_loss",
    "wide_features",
    "wide_logits",
]

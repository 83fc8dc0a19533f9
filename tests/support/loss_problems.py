"""Problems of `ekpnet_gradients`."""

from __future__ import annotations

import torch

from ekpnet_fast.ops import RippleBatch
from support.problems import attention_problem, deep_problem, to_float64

WEIGHTS = dict(lambda1=0.3, lambda2=0.2, lambda3=0.1)
NAMES = ["terms", "drows", "drelation", "dW_e", "db_e", "dweights", "dbiases", "dw_out", "db_out"]

# Beside and at the vector widths and the blocks of 16 pairs; groups without pairs; hops without
# slots; all widths that are compiled apart, and others.
SIZES = {
    "smallest": dict(pairs=1, groups=1, hops=1, slots=1, width=1, rows=1, relations=1),
    "usual": dict(pairs=200, groups=9, hops=2, slots=32, width=16, rows=60),
    "book-crossing": dict(pairs=90, groups=25, hops=3, slots=32, width=4),
    "odd": dict(pairs=67, groups=5, hops=4, slots=7, width=13),
    "eight": dict(pairs=33, groups=3, hops=2, slots=33, width=8),
    "wide": dict(pairs=40, groups=4, hops=2, slots=9, width=40, rows=1030),
}


def loss_problem(*, hidden=2, channels=2, triples=70, dtype=torch.float32, seed=0, **size):
    """Arguments of `ekpnet_gradients`; of the table's rows, more than there are, some are named."""
    size = {"rows": 40, **size}
    entity, relation, W_e, b_e, *sets = attention_problem(
        seed, channels=channels, dtype=dtype, **size
    )
    stream = torch.Generator().manual_seed(seed + 1)
    n, B = size["rows"], len(sets[-1])
    E = 3 * n
    rows = torch.randperm(E, generator=stream)[:n].int()
    table = torch.randn(E, *entity.shape[1:], generator=stream).to(dtype)
    table[rows.long()] = entity

    def ids(limit):
        return torch.randint(limit, (2 * triples,), generator=stream, dtype=torch.int32)

    layers = None
    if hidden is not None:
        K = (size["hops"] + 1) * size["width"]
        layers = tuple(deep_problem(layers=hidden + 1, width=K, dtype=dtype)[1:-1])
    labels = torch.randint(2, (B,), generator=stream).to(dtype)
    signs = (torch.arange(2 * triples) < triples).to(torch.int8)
    drawn = (ids(n), ids(len(relation)), ids(n), signs)
    return [table, relation, W_e, b_e, layers, RippleBatch(rows, *sets, labels, None, *drawn)]


def with_folds(problem, count=3, seed=5):
    """The same with slots that only some folds see; fold 0 sees none of the first hop's."""
    *model, batch = problem
    stream = torch.Generator().manual_seed(seed)
    slot_folds = torch.randint(1 << count, batch.heads.shape, generator=stream)
    slot_folds[:, 0] &= ~1
    folds = torch.randint(count, batch.items.shape, generator=stream, dtype=torch.int32)
    return [*model, batch._replace(slot_folds=slot_folds, pair_folds=folds)]


def in_float64(problem):
    """The same numbers in float64."""
    found = to_float64(problem)
    if found[4] is not None:
        found[4] = tuple(to_float64(found[4]))
    return [*found[:5], to_float64(found[5])]


def found_by(module, problem, **options):
    """All results as a list, in the order of NAMES."""
    *model, batch = problem
    terms, drows, dense = module.ekpnet_gradients(
        *model, RippleBatch(*batch), **{**WEIGHTS, **options}
    )
    assert terms.dtype == torch.float64
    return [terms, drows, *dense]

"""Fused ops by shape, and the floor under them: their matrix products alone in MKL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.harness import goals
from benchmarks.harness.compare import alternate, time_rounds, write_rates
from benchmarks.harness.operation_counts import attention_work, score_work
from benchmarks.harness.roofline import (
    Chain,
    ceilings,
    gather_chain,
    layers_chain,
    product_chain,
)
from benchmarks.harness.shapes import (
    BOOK_CROSSING_STEP,
    MOVIELENS_STEP,
    Shape,
    flat,
    layers_problem,
    problem,
)
from ekpnet_fast import ops
from ekpnet_fast.ops import reference

# Calls of a turn. MKL's threads spin after a product, and helpers that they keep from coming in
# time are left alone for 10 ms and more: few calls would be those of one thread.
TURN = (40, 40)
SHAPES = {
    "movielens step": MOVIELENS_STEP,
    "book-crossing step": BOOK_CROSSING_STEP,
    "wide rows": Shape("wide rows", 128, 64, 2, 32, 64, 12_000),
    "catalogue of one user": Shape("catalogue of one user", 1, 8192, 2, 32, 16, 12_000),
    "odd sizes": Shape("odd sizes", 128, 61, 2, 29, 13, 12_000),
}


@pytest.fixture(params=[1, 2])
def op_threads(request: pytest.FixtureRequest, threads: int) -> Iterator[int]:
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(threads)


def both_passes(
    function: Callable[..., object], arguments: Sequence[Tensor]
) -> Callable[[], object]:
    """Call of forward and backward; ids carry no gradient.

    The outputs' gradients are made once: torch would fill them by an OpenMP region per call, whose
    threads then spin beside the op.
    """
    inputs = [x.clone().requires_grad_() if x.is_floating_point() else x for x in arguments]
    leaves = [x for x in inputs if x.requires_grad]

    def outputs() -> tuple[Tensor, ...]:
        found = function(*inputs)
        return found if isinstance(found, tuple) else (found,)

    ones = [torch.ones_like(x) for x in outputs()]

    def call() -> object:
        return torch.autograd.grad(outputs(), leaves, ones)

    return call


def faster_of(chains: list[Chain]) -> Chain:
    """Choose the chain that takes less time, because the floor is the least time."""
    if len(chains) == 1:
        return chains[0]
    first, second = chains
    return first if alternate(first, second, rounds=5, calls=(5, 5)).ratio > 1 else second


@pytest.mark.benchmark(group="forward and backward by shape, and the floor")
@pytest.mark.parametrize("op", ["ripple_attention", "deep_score"])
@pytest.mark.parametrize("shape", SHAPES)
def test_share(benchmark: BenchmarkFixture, shape: str, op: str, op_threads: int) -> None:
    """Passes of an op on a generated batch, beside eager torch and the products alone."""
    size = SHAPES[shape]

    def call_of(module: ModuleType) -> Callable[[], object]:
        call = getattr(module, op)
        return both_passes(flat(call) if op == "ripple_attention" else call, arguments)

    arguments: Sequence[Tensor]
    if op == "ripple_attention":
        arguments = propagation = problem(size, torch.device("cpu"), torch.float32)
        work = attention_work(propagation)
        chains = [product_chain(size, per_group=split) for split in (True, False)]
    else:
        arguments = layers_problem(size)
        work = score_work(arguments[0], arguments[1])
        num_pairs, width = arguments[0].shape
        chains = [layers_chain(num_pairs, width, len(arguments[1]))]
    call, pairs = call_of(ops), size.groups * size.pairs
    seconds = time_rounds(benchmark, call, rounds=20, warmup=5)
    info = benchmark.extra_info
    info["threads"] = op_threads
    total = work["forward"] + work["backward"]
    write_rates(info, seconds, samples=pairs, work=total, ceilings=ceilings(op_threads))
    alternate(call, call_of(reference), rounds=5, calls=(3, 1)).write(info, "eager torch")
    products = faster_of(chains)
    share = alternate(call, products, rounds=9, calls=TURN)
    info["products_alone_percent"] = round(100 * share.ratio, 1)
    if op == "ripple_attention":
        gather = gather_chain(propagation)
        with_rows = alternate(call, lambda: (products(), gather()), rounds=9, calls=TURN)
        info["products_and_rows_percent"] = round(100 * with_rows.ratio, 1)
    if op == "ripple_attention" and size is MOVIELENS_STEP and op_threads == 2:
        goals.reach(info, "floor", share)

"""The CUDA translation loss: on an emulated GPU, and on a real one if there is one."""

from __future__ import annotations

import pytest
import torch
from gpus import under_other_order
from graphs import csr
from problems import (
    assert_accurate,
    assert_matches_reference,
    assert_same_bits,
    differentiable,
    outputs_and_gradients,
    to_float64,
)
from test_triple_loss import SIZES, SMALL, sizes, specified, triple_problem

from ekpnet_fast import ops, reference


def triple_loss(gpu):
    return lambda *problem: gpu.call("triple_loss", *problem)


def results(gpu, problem):
    return outputs_and_gradients(triple_loss(gpu), problem)


@sizes
def test_float32_is_as_accurate_as_eager(gpu, size):
    problem = triple_problem(**size)
    assert_matches_reference(results(gpu, problem), reference.triple_loss, problem)


@pytest.mark.parametrize("size", ["usual", "odd", "many"])
def test_bfloat16_is_as_accurate_as_eager(gpu, size):
    problem = triple_problem(**SIZES[size], dtype=torch.bfloat16)
    ours, eager = results(gpu, problem), specified(problem)
    exact = specified(to_float64(problem))
    for i, factor in ((0, 2), (1, 3)):
        assert_accurate(
            [x.float() for x in ours[i]], [x.float() for x in eager[i]], exact[i], factor
        )


@pytest.mark.parametrize("channels", [1, 2])
def test_gradcheck(gpu, channels):
    problem = triple_problem(**SMALL, channels=channels, dtype=torch.float64)
    torch.autograd.gradcheck(triple_loss(gpu), differentiable(problem))


def test_no_triples(gpu):
    problem = triple_problem(triples=0)
    assert_matches_reference(results(gpu, problem), reference.triple_loss, problem)


def test_few_rows_and_one_relation(gpu):
    # Hundreds of references have the same key: its sum crosses many chunks.
    problem = triple_problem(triples=500, rows=3, relations=1)
    assert_matches_reference(results(gpu, problem), reference.triple_loss, problem)


def emulated_results(gpu, problems):
    return [results(gpu, problem) for problem in problems]


def test_threads_do_not_race(emulated, tmp_path):
    problems = [triple_problem(**size) for size in SIZES.values()]
    forwards = emulated_results(emulated, problems)
    backwards = under_other_order(emulated.library, tmp_path, emulated_results, problems)
    for one, other in zip(forwards, backwards, strict=True):
        assert_same_bits([*one[0], *one[1]], [*other[0], *other[1]])


# ---- sample_triples ----------------------------------------------------------------------------


@pytest.mark.parametrize("relations", [3, 300, 70_000])
def test_the_same_triples_as_on_the_cpu(gpu, relations):
    stream = torch.Generator().manual_seed(0)

    def ids(limit):
        return torch.randint(limit, (500,), generator=stream, dtype=torch.int32)

    # Some entities have no triples: their row is empty.
    graph = ops.build_csr(ids(90) + 5, ids(relations), ids(100), 100, relations)
    for step in (0, 7, 3 << 32):
        drawn = gpu.call("sample_triples", *graph, 200, 11, step)
        assert_same_bits(drawn, ops.sample_triples(*graph, 200, seed=11, step=step))
    assert all(x.numel() == 0 for x in gpu.call("sample_triples", *graph, 0, 11, 0))
    with pytest.raises(RuntimeError, match="count is -1, expected at least 0"):
        gpu.call("sample_triples", *graph, -1, 0, 0)


def test_no_triple_to_draw(gpu):
    indptr, tails = csr([[], []])
    with pytest.raises(RuntimeError, match="the graph has no triple to draw from"):
        gpu.call("sample_triples", indptr, tails, tails, 1, 0, 0)

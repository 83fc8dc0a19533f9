"""The CUDA propagation: on an emulated GPU, and on a real one if there is one."""

from __future__ import annotations

import pytest
import torch
from test_ripple_attention import NATIVE, REFUSED, SIZES, SMALL, SPECIFIED, by_hand

from ekpnet_fast.ops import reference
from support.gpus import under_other_order
from support.problems import (
    assert_accurate,
    assert_matches_reference,
    assert_same_bits,
    attention_problem,
    differentiable,
    outputs_and_gradients,
    to_float64,
    valid_slots,
)

# Besides the sizes of the CPU: every specialised width, groups from one pair to all, packed by
# four to a block and alone, one tile for keys and values where memory is short.
GPU_SIZES = {
    **SIZES,
    "width-8": dict(pairs=64, groups=9, hops=2, slots=32, width=8, channels=2),
    "width-32": dict(pairs=64, groups=9, hops=2, slots=17, width=32, channels=2),
    "pairs-of-a-user": dict(pairs=90, groups=25, hops=3, slots=32, width=4, channels=2),
    "single-pairs": dict(pairs=40, groups=60, hops=2, slots=32, width=16, channels=2),
    "all-items": dict(pairs=400, groups=2, hops=2, slots=32, width=16, channels=2),
    "all-items-wide": dict(pairs=150, groups=1, hops=4, slots=64, width=64, channels=1),
    "widest-four-hops": dict(pairs=20, groups=2, hops=4, slots=64, width=128, channels=1),
}
gpu_sizes = pytest.mark.parametrize(
    "size", [pytest.param(size, id=name) for name, size in GPU_SIZES.items()]
)


def attention(gpu):
    return lambda *problem: gpu.call("ripple_attention", *problem)


def results(gpu, problem):
    return outputs_and_gradients(attention(gpu), problem)


@gpu_sizes
def test_float32_is_as_accurate_as_eager(gpu, size):
    problem = attention_problem(**size)
    assert_matches_reference(results(gpu, problem), SPECIFIED, problem)


@gpu_sizes
def test_the_item_replaced(gpu, size):
    problem = [*attention_problem(**size), True]
    assert_matches_reference(results(gpu, problem), SPECIFIED, problem)


@pytest.mark.parametrize("size", ["usual", "usual-plain", "odd-everything", "pairs-of-a-user"])
def test_bfloat16_is_as_accurate_as_eager(gpu, size):
    problem = attention_problem(**GPU_SIZES[size], dtype=torch.bfloat16)
    ours, eager = results(gpu, problem), outputs_and_gradients(SPECIFIED, problem)
    exact = outputs_and_gradients(SPECIFIED, to_float64(problem))
    for i, factor in ((0, 2), (1, 3)):
        assert all(x.dtype == torch.bfloat16 for x in ours[i])
        assert_accurate(
            [x.float() for x in ours[i]], [x.float() for x in eager[i]], exact[i], factor
        )


@pytest.mark.parametrize("size", ["smallest", "usual", "odd-everything", "one-column"])
def test_float64_equals_the_specification(gpu, size):
    problem = attention_problem(**GPU_SIZES[size], dtype=torch.float64)
    ours = results(gpu, problem)
    specified = outputs_and_gradients(SPECIFIED, problem)
    for x, y in zip([*ours[0], *ours[1]], [*specified[0], *specified[1]], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 2])
def test_gradcheck(gpu, channels):
    problem = attention_problem(**SMALL, channels=channels, dtype=torch.float64)
    torch.autograd.gradcheck(attention(gpu), differentiable(problem))


@gpu_sizes
def test_weights(gpu, size):
    problem = attention_problem(**size)
    alpha = gpu.call("ripple_attention_weights", *problem)
    valid = valid_slots(problem)
    assert (alpha[~valid] == 0).all()
    exact = reference.ripple_attention_weights(to_float64(problem)).float()
    torch.testing.assert_close(alpha, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_example_by_hand(gpu, dtype):
    problem, z, match, alpha = by_hand(dtype)
    torch.testing.assert_close(tuple(attention(gpu)(*problem)), (z, match))
    torch.testing.assert_close(gpu.call("ripple_attention_weights", *problem), alpha)


@pytest.mark.parametrize("channels", [1, 2])
def test_edges(gpu, channels):
    for size in (dict(pairs=0, groups=3), dict(pairs=0, groups=0), dict(rows=1, relations=1)):
        problem = attention_problem(**size, channels=channels)
        assert_matches_reference(results(gpu, problem), SPECIFIED, problem)
    empty = attention_problem(hops=3, channels=channels)
    empty.counts.zero_()
    assert_matches_reference(results(gpu, empty), SPECIFIED, empty)
    assert (results(gpu, empty)[1][1] == 0).all()
    many = attention_problem(relations=1000, channels=channels)
    assert_matches_reference(results(gpu, many), SPECIFIED, many)


def test_large_scores_do_not_overflow(gpu):
    problem = attention_problem(channels=1, scale=30.0)
    outputs, gradients = results(gpu, problem)
    assert all(x.isfinite().all() for x in [*outputs, *gradients])


def test_nan_does_not_vanish(gpu):
    problem = attention_problem()
    problem.entity[problem.items[0]] = torch.nan
    z, match = attention(gpu)(*problem)
    assert z[0].isnan().any() and match[0].isnan()


@pytest.mark.parametrize("size", ["usual", "pairs-of-a-user"])
def test_same_bits_twice(gpu, size):
    problem = attention_problem(**GPU_SIZES[size])
    one, other = results(gpu, problem), results(gpu, problem)
    assert_same_bits([*one[0], *one[1]], [*other[0], *other[1]])


def emulated_results(gpu, problems):
    return [results(gpu, problem) for problem in problems]


def test_threads_do_not_race(emulated, tmp_path):
    problems = [list(attention_problem(**size)) for size in GPU_SIZES.values()]
    forwards = emulated_results(emulated, problems)
    backwards = under_other_order(emulated.library, tmp_path, emulated_results, problems)
    for one, other in zip(forwards, backwards, strict=True):
        assert_same_bits([*one[0], *one[1]], [*other[0], *other[1]])


# What the kernels cannot say without waiting for the GPU stops the launch instead.
BY_VALUE = ("beyond", "negative", "indptr start", "indptr falls", "indptr end", "half")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(*case, id=name)
        for name, case in REFUSED.items()
        if not any(word in name for word in BY_VALUE)
    ],
)
def test_refused(gpu, change, message):
    problem = change(attention_problem(**SMALL))
    with pytest.raises(RuntimeError, match=message):
        gpu.call("ripple_attention", *problem)


def test_float16_is_refused(gpu):
    problem = attention_problem(**SMALL)._replace(entity=torch.zeros(6, 2, 3).half())
    with pytest.raises(
        RuntimeError, match="entity is float16, expected float32, bfloat16 or float64"
    ):
        gpu.call("ripple_attention", *problem)


def test_shapes_beyond_shared_memory_are_refused(gpu):
    problem = attention_problem(pairs=4, groups=1, hops=4, slots=64, width=128, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="bytes of shared memory in float64, expected at most"):
        results(gpu, problem)


def test_rows_that_start_between_two_reads_are_refused(gpu):
    problem = attention_problem(**GPU_SIZES["usual"])
    flat = torch.cat([torch.zeros(1), problem.entity.flatten()])
    shifted = problem._replace(entity=flat[1:].view_as(problem.entity))
    if gpu.name == "cuda":
        pytest.skip("a copy to the GPU starts where it should")
    with pytest.raises(RuntimeError, match=r"entity starts at an address .* 16; call .clone"):
        gpu.call("ripple_attention", *shifted)


@pytest.mark.cuda
def test_tensors_on_two_devices_are_refused():
    problem = [x.cuda() for x in attention_problem(**SMALL)]
    with pytest.raises(RuntimeError, match=r"entity is not on a GPU, but other arguments are"):
        NATIVE(problem[0].cpu(), *problem[1:])
    problem[9] = problem[9].cpu()
    with pytest.raises(RuntimeError, match=r"items is on .*, expected cuda:0 as entity; move it"):
        NATIVE(*problem)


@pytest.mark.cuda
def test_current_stream_is_used():
    problem = [x.cuda() for x in attention_problem()]
    expected = NATIVE(*problem)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        problem[0].mul_(2)
        other = NATIVE(*problem)
    torch.cuda.current_stream().wait_stream(stream)
    assert not torch.equal(other[0], expected[0])


@pytest.mark.cuda
def test_graph_replay_equals_launch():
    problem = [x.cuda() for x in attention_problem()]
    backward = torch.ops.ekpnet.ripple_attention_backward

    def both():
        z, match = NATIVE(*problem)
        return z, match, *backward(z, match, *problem)

    expected = both()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    graph.replay()
    assert_same_bits(captured, expected)

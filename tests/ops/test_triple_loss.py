"""The translation loss against its specification, and what its contract promises."""

from __future__ import annotations

import pytest
import torch
from torch import library

from ekpnet_fast import ops
from ekpnet_fast.ops import reference
from support.contracts import (
    ISAS,
    assert_bfloat16_matches_reference,
    assert_close64,
    assert_compiled_equals_eager,
    assert_matches_reference,
    assert_no_race,
    assert_right_under_isa,
    assert_same_bits_for_any_thread_count,
    outputs_and_gradients,
)
from support.devices import Cpu, on_gpus, sized
from support.problems import differentiable, to_float64, triple_problem

SIZES = {
    "smallest": dict(triples=1, width=1, channels=1),
    "three": dict(triples=3, width=4, channels=2),
    "usual": dict(triples=64, width=16, channels=2),
    "usual-plain": dict(triples=64, width=16, channels=1),
    "odd": dict(triples=65, width=17, channels=2),
    "odd-plain": dict(triples=33, width=7, channels=1),
    "wide": dict(triples=64, width=64, channels=2),
    "widest": dict(triples=64, width=128, channels=2),
    "many": dict(triples=2000, width=16, channels=2),
    "far": dict(triples=64, width=17, channels=1, scale=30.0),
}
channels = pytest.mark.parametrize("channels", [1, 2])
SMALL = dict(triples=5, width=3, rows=4, relations=2)
CPU = Cpu()


def call(device):
    return lambda *problem: device.call("triple_loss", *problem)


def results(device, problem):
    return outputs_and_gradients(call(device), problem)


def results_of_all(device, problems):
    return [results(device, problem) for problem in problems]


# ---- values ------------------------------------------------------------------------------------


@sized(SIZES, sample=["smallest", "odd", "far"])
def test_float32_is_as_accurate_as_eager(device, size):
    problem = triple_problem(**size)
    assert_matches_reference(results(device, problem), reference.triple_loss, problem)


@sized(SIZES, sample=["three"], on_gpus=["three", "odd"])
def test_float64_equals_the_specification(device, size):
    problem = triple_problem(**size, dtype=torch.float64)
    specified = outputs_and_gradients(reference.triple_loss, problem)
    assert_close64(results(device, problem), specified)


@on_gpus
@pytest.mark.parametrize("size", ["usual", "odd", "many"])
def test_bfloat16_is_as_accurate_as_eager(device, size):
    problem = triple_problem(**SIZES[size], dtype=torch.bfloat16)
    assert_bfloat16_matches_reference(results(device, problem), reference.triple_loss, problem)


@channels
def test_gradcheck(device, channels):
    problem = triple_problem(**SMALL, channels=channels, dtype=torch.float64)
    torch.autograd.gradcheck(call(device), differentiable(problem))


@pytest.mark.parametrize("module", [ops, reference])
def test_example_by_hand(module):
    # h + r - t = 0 in both columns: sigmoid 1/2, so each label misses by 1/2 twice. Row 2 lies so
    # far away that the sigmoid is 1 and 0: the true label misses by 0 and 1, the false by 1 and 0.
    entity = torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]], [[-500.0, 500.0]]])
    relation = torch.tensor([[[2.0, -2.0]]])

    def loss(head, tail, label):
        ids = [torch.tensor([x], dtype=torch.int32) for x in (head, 0, tail)]
        return module.triple_loss(entity, relation, *ids, torch.tensor([label], dtype=torch.int8))

    assert [loss(0, 1, 1).item(), loss(0, 1, 0).item()] == [0.5, 0.5]
    assert [loss(0, 2, 1).item(), loss(0, 2, 0).item()] == [1.0, 1.0]


def test_head_equal_to_tail(device):
    # v_h - v_t cancels, so only the relation has a gradient.
    problem = triple_problem(dtype=torch.float64)
    problem[4] = problem[2]
    _, (dentity, drelation) = results(device, problem)
    assert dentity.abs().max() < 1e-12 and drelation.abs().max() > 0.1


def test_second_channel_has_no_gradient(device):
    _, gradients = results(device, triple_problem(channels=2))
    assert all((x[:, 1] == 0).all() for x in gradients)


def test_few_rows_and_one_relation(device):
    # Hundreds of references have the same key: its sum crosses many chunks.
    problem = triple_problem(triples=500, rows=3, relations=1)
    assert_matches_reference(results(device, problem), reference.triple_loss, problem)


def test_nan_does_not_vanish(device):
    problem = triple_problem()
    problem[0][problem[2][0], 0, 3] = torch.nan
    assert call(device)(*problem).isnan()


def test_no_triples(device):
    (loss,), gradients = results(device, triple_problem(triples=0))
    assert loss.shape == () and loss == 0
    assert all((x == 0).all() for x in gradients)


# ---- the same bits -----------------------------------------------------------------------------


@channels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_bits_for_any_thread_count(channels, dtype):
    problem = triple_problem(triples=4000, rows=300, width=17, channels=channels, dtype=dtype)

    def found():
        outputs, gradients = results(CPU, problem)
        return [*outputs, *gradients]

    assert_same_bits_for_any_thread_count(found)


@pytest.mark.parametrize("isa", ISAS)
def test_instruction_sets(isa, tmp_path):
    problems = [triple_problem(**size) for size in SIZES.values()]
    exact = [to_float64(problem) for problem in problems]
    assert_right_under_isa(isa, tmp_path, results_of_all, reference.triple_loss, problems, exact)


@pytest.mark.slow
def test_threads_of_a_gpu_do_not_race(emulated, tmp_path):
    problems = [triple_problem(**size) for size in SIZES.values()]
    assert_no_race(emulated, tmp_path, results_of_all, problems)


# ---- torch's contracts -------------------------------------------------------------------------


@channels
def test_opcheck(channels):
    problem = triple_problem(**SMALL, channels=channels)
    library.opcheck(torch.ops.ekpnet.triple_loss.default, tuple(differentiable(problem)))
    backward = torch.ops.ekpnet.triple_loss_backward.default
    library.opcheck(backward, (torch.tensor(0.5), *problem))


def test_compiled_equals_eager():
    def step(entity, *rest):
        return 0.1 * ops.triple_loss(2 * entity, *rest)

    assert_compiled_equals_eager(step, triple_problem())


# ---- what is refused ---------------------------------------------------------------------------


def _id(value):
    def change(x):
        x[2] = value
        return x

    return change


REFUSED = {
    "heads": (2, _id(4), r"heads holds id 4 at position 2, expected 0 <= id < 4"),
    "relations": (3, _id(-1), r"relations holds id -1 at position 2.*rows of relation"),
    "tails": (4, _id(4), r"tails holds id 4 at position 2.*rows of entity"),
    "tails shape": (4, lambda x: x[:3], r"tails has shape \[3\], expected \[5\]"),
    "labels dtype": (5, lambda x: x.bool(), r"labels is bool, expected int8"),
    "labels shape": (5, lambda x: x[:3], r"labels has shape \[3\], expected \[5\]"),
    "int64": (2, lambda x: x.long(), r"heads is int64, expected int32"),
    "half": (0, lambda x: x.half(), r"entity is float16, expected float32 or float64"),
    "mixed": (1, lambda x: x.double(), r"relation is float64, expected float32"),
    "flat": (0, lambda x: x[:, 0], r"entity has shape \[4, 3\], expected \[n, C, D\]"),
    "relation channels": (
        1,
        lambda x: x[:, :1].contiguous(),
        r"relation has shape \[2, 1, 3\], expected \[\?, 2, 3\]",
    ),
    "too wide": (0, lambda x: torch.zeros(4, 2, 129), r"width D is 129, expected 1 to 128"),
    "strided": (
        0,
        lambda x: torch.stack([x, x], -1)[..., 0],
        r"entity is not contiguous; call .contiguous\(\) first",
    ),
}


@pytest.mark.parametrize(("position", "change", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(position, change, message):
    problem = triple_problem(**SMALL)
    problem[position] = change(problem[position])
    with pytest.raises(RuntimeError, match=message):
        ops.triple_loss(*problem)

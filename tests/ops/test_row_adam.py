"""The row optimizer against torch.optim.Adam and its specification."""

from __future__ import annotations

import pytest
import torch
from torch import library

from ekpnet_fast import ops
from ekpnet_fast.ops import reference
from support.contracts import (
    ISAS,
    assert_accurate,
    assert_same_bits,
    assert_same_bits_for_any_thread_count,
)
from support.devices import Cpu, under_isa

HYPER = dict(lr=1e-2, beta1=0.9, beta2=0.999, eps=1e-8, l2=1e-3)
# Row shapes: entity rows of one and two channels, below and beside whole vectors; plain rows.
ROWS = [(2, 16), (1, 1), (2, 3), (2, 17), (64,), (5,), ()]
rows_shapes = pytest.mark.parametrize("row", ROWS, ids=str)
CPU = Cpu()


def adam_problem(row=(2, 17), *, rows=30, touched=None, steps=5, dtype=torch.float32, seed=0):
    """A table, and per step the touched rows with their gradients."""
    stream = torch.Generator().manual_seed(seed)

    def reals(*shape):
        return torch.randn(shape, generator=stream).to(dtype)

    touched = rows if touched is None else touched
    table = reals(rows, *row)
    batches = []
    for _ in range(steps):
        at = torch.randperm(rows, generator=stream)[:touched].to(torch.int32)
        batches.append((at, reals(touched, *row)))
    return table, batches


def after_steps(step_op, problem, first_step=1):
    """Table and both moments after all batches."""
    table, batches = problem
    table = table.clone()
    m, v = torch.zeros_like(table), torch.zeros_like(table)
    for step, (at, grad) in enumerate(batches, first_step):
        step_op(table, m, v, at, grad, step=step, **HYPER)
    return [table, m, v]


def call(device):
    return lambda *arguments, **options: device.call("row_adam_", *arguments, **options)


def results(device, problem):
    return after_steps(call(device), problem)


def results_of_all(device, problems):
    return [results(device, problem) for problem in problems]


def specified(problem):
    return after_steps(reference.row_adam_, problem)


def by_torch(problem):
    table, batches = problem
    parameter = torch.nn.Parameter(table.clone())
    adam = torch.optim.Adam(
        [parameter],
        lr=HYPER["lr"],
        betas=(HYPER["beta1"], HYPER["beta2"]),
        eps=HYPER["eps"],
        weight_decay=HYPER["l2"],
    )
    for at, grad in batches:
        parameter.grad = torch.zeros_like(table)
        parameter.grad[at.long()] = grad
        adam.step()
    state = adam.state[parameter]
    return [parameter.detach(), state["exp_avg"], state["exp_avg_sq"]]


def to_float64(problem):
    table, batches = problem
    return table.double(), [(at, grad.double()) for at, grad in batches]


def assert_close64(one, other):
    for x, y in zip(one, other, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


# ---- values ------------------------------------------------------------------------------------


@rows_shapes
def test_all_rows_touched_is_adam(device, row):
    problem = adam_problem(row)
    exact = by_torch(to_float64(problem))
    assert_accurate(results(device, problem), by_torch(problem), exact, factor=2)


@rows_shapes
def test_float64_is_adam(device, row):
    problem = adam_problem(row, dtype=torch.float64)
    assert_close64(results(device, problem), by_torch(problem))


@rows_shapes
def test_some_rows_touched(device, row):
    problem = adam_problem(row, touched=7)
    exact = to_float64(problem)
    assert_accurate(results(device, problem), specified(problem), specified(exact), factor=2)
    assert_close64(results(device, exact), specified(exact))


# ---- a bfloat16 table ----------------------------------------------------------------------------


def bf16_problem(row, **options):
    table, batches = adam_problem(row, **options)
    return table.bfloat16(), batches


def after_bf16_steps(step_op, problem, seed=3):
    """Table and both moments, float32, after all batches."""
    table, batches = problem
    table = table.clone()
    m, v = (torch.zeros(table.shape) for _ in range(2))
    for step, (at, grad) in enumerate(batches, 1):
        step_op(table, m, v, at, grad, step=step, seed=seed, **HYPER)
    return [table, m, v]


@rows_shapes
def test_bfloat16_table_equals_the_specification(device, row):
    problem = bf16_problem(row, touched=7)
    table, *moments = after_bf16_steps(call(device), problem)
    exact, *expected = after_bf16_steps(reference.row_adam_, problem)
    torch.testing.assert_close(moments, expected, rtol=1e-5, atol=1e-6)
    # Where the last bit of float32 decides, the neighbouring number; seldom.
    torch.testing.assert_close(table, exact, rtol=0.01, atol=1e-3)
    assert (table != exact).sum() <= 1 + table.numel() // 100


def test_bfloat16_table_loses_no_small_step(device):
    """Neighbours of 1 are 1/128 and 1/256 away; steps of 0.0005 would all be lost by rounding."""
    n, steps, lr = 512, 8, 5e-4
    table = torch.ones(n, 16).bfloat16()
    m, v = torch.zeros(n, 16), torch.zeros(n, 16)
    at, grad = torch.arange(n, dtype=torch.int32), torch.ones(n, 16)
    for step in range(1, steps + 1):
        call(device)(table, m, v, at, grad, step=step, lr=lr, seed=1)
    moved = 1 - table.float()
    # Of 8,192 numbers, each rounded with a deviation of at most half of 1/256 eight times.
    assert float(moved.mean()) == pytest.approx(steps * lr, abs=4 * (8**0.5 / 512) / 8192**0.5)
    assert 3 < len(table.unique()) < 12


def test_bfloat16_rounding_is_by_seed_step_and_place(device):
    problem = bf16_problem((2, 16), steps=1)
    (first, *_), (again, *_), (other, *_) = (
        after_bf16_steps(call(device), problem, seed) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    # Rows in another order have the same draws.
    table, [(at, grad)] = problem
    turned, *_ = after_bf16_steps(call(device), (table, [(at.flip(0), grad.flip(0))]))
    assert torch.equal(first, turned)


def test_bfloat16_makes_no_number_of_what_is_none(device):
    """Bits that are added at random must not turn a NaN into a number."""
    table, m, v = torch.ones(1, 64).bfloat16(), torch.zeros(1, 64), torch.zeros(1, 64)
    grad = torch.zeros(1, 64)
    grad[0, ::2] = torch.nan
    call(device)(table, m, v, torch.zeros(1, dtype=torch.int32), grad, step=1, lr=0.1)
    assert table[0, ::2].isnan().all() and (table[0, 1::2] == 1).all()


def test_bfloat16_same_bits_for_any_thread_count():
    problem = bf16_problem((2, 17), rows=3000, touched=2500, steps=2)
    assert_same_bits_for_any_thread_count(lambda: after_bf16_steps(call(CPU), problem))


def test_bfloat16_gradient_is_refused():
    table, [(at, grad)] = bf16_problem((3,), steps=1)
    m, v = torch.zeros(30, 3), torch.zeros(30, 3)
    with pytest.raises(RuntimeError, match=r"grad .* of bfloat16, expected \[30, 3\] of float32"):
        ops.row_adam_(table, m, v, at, grad.bfloat16(), step=1, lr=0.1)


# ---- by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [ops.row_adam_, reference.row_adam_])
def test_step_by_hand(op):
    # g = 3 + 0.5 * 2 = 4; m = 0.5 * 2 + 0.5 * 4 = 3, v = 0.75 * 0 + 0.25 * 16 = 4. At step 2 the
    # corrections are 1 - 1/4 and 1 - 9/16: m^ = 4, v^ = 64/7.
    table, m, v = (torch.tensor([[7.0], [x]], dtype=torch.float64) for x in (2, 2, 0))
    rows, grad = torch.tensor([1], dtype=torch.int32), torch.tensor([[3.0]], dtype=torch.float64)
    op(table, m, v, rows, grad, step=2, lr=0.1, beta1=0.5, beta2=0.75, eps=1.0, l2=0.5)
    assert m.tolist() == [[7.0], [3.0]] and v.tolist() == [[7.0], [4.0]]
    expected = torch.tensor([[7.0], [2 - 0.1 * 4 / ((64 / 7) ** 0.5 + 1)]], dtype=torch.float64)
    torch.testing.assert_close(table, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_untouched_rows_keep_their_bits(dtype):
    table, batches = adam_problem(touched=7, steps=1, dtype=dtype)
    m, v = torch.randn_like(table), torch.rand_like(table)
    (at, grad), before = batches[0], [x.clone() for x in (table, m, v)]
    ops.row_adam_(table, m, v, at, grad, step=3, **HYPER)
    away = torch.ones(len(table), dtype=torch.bool)
    away[at.long()] = False
    for x, y in zip(before, (table, m, v), strict=True):
        assert torch.equal(x[away], y[away])
        assert (x[~away] != y[~away]).all()


def test_no_rows(device):
    table, batches = adam_problem(touched=0)
    assert_same_bits(results(device, (table, batches))[:1], [table])
    empty = torch.zeros(0, 2, 3)
    no_ids = torch.zeros(0, dtype=torch.int32)
    call(device)(empty, empty.clone(), empty.clone(), no_ids, empty.clone(), step=1, lr=0.1)


def assert_skips_rows(op):
    table, [(at, grad)] = adam_problem(touched=7, steps=1)
    padded = torch.cat([at[:3], torch.tensor([-1, -1], dtype=torch.int32), at[3:]])
    wide = torch.cat([grad[:3], torch.full((2, 2, 17), torch.nan), grad[3:]])
    assert_same_bits(
        after_steps(op, (table, [(padded, wide)])), after_steps(op, (table, [(at, grad)]))
    )


def test_skipped_rows(device):
    assert_skips_rows(call(device))


def test_skipped_rows_as_specified():
    assert_skips_rows(reference.row_adam_)


@pytest.mark.parametrize("op", [ops.row_adam_, reference.row_adam_])
def test_step_and_l2_as_tensors(op):
    problem = adam_problem()

    def by_tensor(*arguments, step, l2, **hyper):
        l2 = torch.tensor(l2, dtype=torch.float64)
        op(*arguments, step=torch.tensor(step), l2=l2, **hyper)

    for one, other in zip(after_steps(by_tensor, problem), after_steps(op, problem), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_zero_gradient_does_not_move():
    table, _ = adam_problem()
    before, at = table.clone(), torch.arange(30, dtype=torch.int32)
    zeros = [torch.zeros_like(table) for _ in range(3)]
    ops.row_adam_(table, zeros[0], zeros[1], at, zeros[2], step=1, lr=0.1)
    assert torch.equal(table, before)


def test_late_step():
    problem = adam_problem()
    exact = after_steps(reference.row_adam_, to_float64(problem), first_step=100_000)
    eager = after_steps(reference.row_adam_, problem, first_step=100_000)
    assert_accurate(after_steps(ops.row_adam_, problem, first_step=100_000), eager, exact, factor=2)


# ---- the same bits -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_bits_for_any_thread_count(dtype):
    # About five tasks of 2^14 elements.
    problem = adam_problem((2, 17), rows=3000, touched=2500, steps=2, dtype=dtype)
    assert_same_bits_for_any_thread_count(lambda: results(CPU, problem))


@pytest.mark.parametrize("isa", ISAS)
def test_instruction_sets(isa, tmp_path):
    problems = [adam_problem(row, touched=11) for row in ROWS]
    exact = [to_float64(problem) for problem in problems]
    found = under_isa(isa, tmp_path, results_of_all, problems + exact)
    truths = [specified(problem) for problem in exact]
    for problem, result, truth in zip(problems, found, truths, strict=False):
        assert_accurate(result, specified(problem), truth, factor=2)
    for result, truth in zip(found[len(problems) :], truths, strict=True):
        assert_close64(result, truth)


# ---- torch's contracts -------------------------------------------------------------------------


def test_opcheck():
    table, batches = adam_problem((2, 3), rows=6, touched=4, steps=1)
    moments = torch.zeros_like(table), torch.ones_like(table)
    library.opcheck(
        torch.ops.ekpnet.row_adam_.default,
        (
            *(table, *moments, *batches[0]),
            *(torch.tensor(2), torch.tensor(1e-3, dtype=torch.float64)),
            *(1e-2, 0.9, 0.999, 1e-8, 0),
        ),
    )


def test_compiled_equals_eager():
    problem = adam_problem(steps=1)

    def step(table, m, v, at, grad):
        ops.row_adam_(table, m, v, at, 2 * grad, step=1, **HYPER)
        return table.sum()

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    results = []
    for call in (step, compiled):
        state = [problem[0].clone(), torch.zeros_like(problem[0]), torch.zeros_like(problem[0])]
        total = call(*state, *problem[1][0])
        results.append([*state, total])
    assert_same_bits(*results)
    torch.compiler.reset()


# ---- what is refused ---------------------------------------------------------------------------


def _row(value):
    def change(rows):
        rows[2] = value
        return rows

    return change


REFUSED = {
    "step 0": ({"step": lambda x: 0}, r"step is 0, expected at least 1"),
    "row beyond": ({"rows": _row(6)}, r"rows holds id 6 at position 2, expected 0 <= id < 6"),
    "row negative": ({"rows": _row(-2)}, r"rows holds id -2 at position 2.*rows of table"),
    "int64 rows": ({"rows": lambda x: x.long()}, r"rows is int64, expected int32"),
    "grad rows": (
        {"grad": lambda x: x[:3]},
        r"grad has shape \[3, 2, 3\] of float32, expected \[4, 2, 3\]",
    ),
    "grad row shape": (
        {"grad": lambda x: x.view(4, 6)},
        r"grad has shape \[4, 6\] of float32, expected",
    ),
    "grad dtype": ({"grad": lambda x: x.double()}, r"grad .* of float64, expected .* of float32"),
    "m shape": (
        {"m": lambda x: x[:5]},
        r"m has shape \[5, 2, 3\] of float32, expected \[6, 2, 3\]",
    ),
    "v dtype": ({"v": lambda x: x.double()}, r"v has shape .* of float64, expected .* of float32"),
    "strided table": ({"table": lambda x: x.mT}, r"table must be contiguous"),
    "half": (
        dict.fromkeys(("table", "m", "v", "grad"), lambda x: x.half()),
        r"table is float16, expected float32, bfloat16 or float64",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(changes, message):
    table, batches = adam_problem((2, 3), rows=6, touched=4, steps=1)
    arguments = dict(
        table=table,
        m=torch.zeros_like(table),
        v=torch.zeros_like(table),
        rows=batches[0][0],
        grad=batches[0][1],
        step=1,
    )
    before = table.clone()
    for name, change in changes.items():
        arguments[name] = change(arguments[name])
    with pytest.raises(RuntimeError, match=message):
        ops.row_adam_(**arguments, lr=0.1)
    assert torch.equal(table, before)

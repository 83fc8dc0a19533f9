"""Fused propagation, prediction layers and row optimizer beside torch on one device.

Operations and bytes are counted in `benchmarks.harness.operation_counts`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from typing import Any

import torch

from benchmarks.gpu.timing import replayed_seconds, seconds
from benchmarks.harness.operation_counts import attention_work, score_work
from benchmarks.harness.shapes import Shape, layers_problem, problem
from ekpnet_fast import ops
from ekpnet_fast.ops import Propagation, reference

SHAPES = (
    Shape("movielens step", 128, 64, 2, 32, 16, 12_000, compiled=True),
    Shape("movielens 262 k pairs", 4096, 64, 2, 32, 16, 182_011),
    Shape("book-crossing step", 1640, 5, 3, 32, 4, 40_000, compiled=True),
    Shape("wide 131 k pairs", 2048, 64, 2, 32, 64, 182_011),
    Shape("ranking 16 users", 16, 16_384, 2, 32, 16, 182_011),
)
SMALL_SHAPES = (Shape("small", 8, 5, 2, 8, 8, 50), Shape("narrow", 20, 3, 3, 4, 4, 50))


def passes(op: Callable[..., Any], given: Propagation) -> dict[str, Callable[[], object]]:
    """Passes of a module's `ripple_attention`: forward alone, and forward with backward."""
    leaves = [x.clone().requires_grad_() for x in given[:4]]
    with_leaves = Propagation(*leaves, *given[4:])
    with torch.no_grad():
        upstream = [torch.ones_like(x) for x in op(given)]

    def forward() -> object:
        with torch.no_grad():
            return op(given)

    def both() -> object:
        return torch.autograd.grad(op(with_leaves), leaves, upstream)

    return {"forward": forward, "both": both}


def attention(
    shape: Shape, device: torch.device, dtype: torch.dtype, ceilings: dict[str, float]
) -> dict[str, Any]:
    """Times of one shape against eager torch, and against the ceilings if both are known."""
    inputs = problem(shape, device, dtype)
    counted = attention_work(inputs)
    some, scale, part = _for_peers(shape, inputs)
    record: dict[str, Any] = {
        "shape": shape.name,
        "dtype": str(dtype).removeprefix("torch."),
        "peers_measured_on_groups": part,
        **{f"{step}_{what}": n for step, w in counted.items() for what, n in asdict(w).items()},
    }
    ours = passes(ops.ripple_attention, inputs)
    for name, call in ours.items():
        record[f"native_{name}_s"] = replayed_seconds(call, device)
        record[f"native_{name}_launched_s"] = seconds(call, device)
    record["native_backward_s"] = record["native_both_s"] - record["native_forward_s"]
    for name, call in passes(reference.ripple_attention, some).items():
        record[f"eager_{name}_s"] = scale * seconds(call, device, 7)
    if len(ceilings) < 2:
        return record
    for step, work in counted.items():
        floor = work.seconds(ceilings["float32_operations_per_s"], ceilings["copy_bytes_per_s"])
        record[f"{step}_floor_s"] = floor
        record[f"{step}_share_of_floor"] = floor / record[f"native_{step}_s"]
    return record


def compiled(shape: Shape, device: torch.device) -> dict[str, float]:
    """Times of one shape by compiled torch in float32."""
    some, scale, _ = _for_peers(shape, problem(shape, device, torch.float32))
    torch.compiler.reset()
    op = torch.compile(reference.ripple_attention)
    return {
        f"compiled_{name}_s": scale * seconds(call, device, 7)
        for name, call in passes(op, some).items()
    }


def layers(shape: Shape, device: torch.device, ceilings: dict[str, float]) -> dict[str, Any]:
    """Times of the prediction layers of a shape's pairs against eager torch.

    That computes in float32, and once more with products in TF32, which tells what tensor cores
    would be worth.
    """
    inputs = [x.to(device) for x in layers_problem(shape)]
    counted = score_work(*inputs[:2])
    record: dict[str, Any] = {"shape": shape.name, "pairs": len(inputs[0]), "K": inputs[0].shape[1]}

    def passes(score: Callable[..., torch.Tensor]) -> dict[str, Callable[[], object]]:
        leaves = [x.clone().requires_grad_() for x in inputs]
        upstream = torch.ones_like(inputs[0][:, 0])

        def forward() -> object:
            with torch.no_grad():
                return score(*inputs)

        def both() -> object:
            return torch.autograd.grad(score(*leaves), leaves, upstream)

        return {"forward": forward, "both": both}

    for name, call in passes(ops.deep_score).items():
        record[f"native_{name}_s"] = replayed_seconds(call, device)
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for key, allowed in (("eager", False), ("tf32", True)):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            for name, call in passes(reference.deep_score).items():
                record[f"{key}_{name}_s"] = replayed_seconds(call, device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    if len(ceilings) == 2:
        rates = ceilings["float32_operations_per_s"], ceilings["copy_bytes_per_s"]
        both = counted["forward"] + counted["backward"]
        record["both_share_of_floor"] = both.seconds(*rates) / record["native_both_s"]
    return record


def _for_peers(shape: Shape, inputs: Propagation) -> tuple[Propagation, float, int]:
    """Inputs that torch's operators can take, the factor up to all of them, and their groups."""
    # They keep [B, H, M, D] tensors: a part of the groups where those would not fit.
    share = min(1.0, 2**28 / (shape.groups * shape.pairs * shape.slots * shape.width))
    part = max(1, int(shape.groups * share))
    sets = (x[:part] for x in inputs[4:8])
    pairs = inputs.items[: part * shape.pairs]
    some = Propagation(*inputs[:4], *sets, inputs.group_indptr[: part + 1], pairs)
    return some, shape.groups / part, part


def row_adam(
    device: torch.device, rows: int, touched: int, width: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Times of Adam on the touched rows against torch's fused Adam over the whole table.

    That of float32, whatever the table's dtype: torch's has moments of the same.
    """
    dense = torch.randn(rows, 2, width, device=device)
    table = dense.to(dtype)
    m, v = torch.zeros_like(dense), torch.zeros_like(dense)
    # Each call touches other rows: the same ones again would stay in the second-level cache.
    shuffled, starts = torch.randperm(rows, device=device).int(), count()
    grad = torch.randn(touched, 2, width, device=device)
    step, l2 = torch.ones((), dtype=torch.int64), torch.zeros((), dtype=torch.float64)
    step, l2 = step.to(device), l2.to(device)

    def ours() -> object:
        begin = next(starts) % max(1, rows // touched) * touched
        at = shuffled[begin : begin + touched]
        return ops.row_adam_(table, m, v, at, grad, step=step, l2=l2, lr=1e-3)

    record: dict[str, Any] = {"rows": rows, "touched": touched, "width": width}
    record["dtype"] = str(dtype).removeprefix("torch.")
    record["row_adam_s"] = replayed_seconds(ours, device)
    # The gradient is read, moments and table are read and written.
    record["row_adam_bytes"] = touched * 2 * width * (5 * 4 + 2 * table.itemsize) + touched * 4
    dense.requires_grad_()
    dense.grad = torch.zeros_like(dense)
    optimizer = torch.optim.Adam([dense], lr=1e-3, fused=True, capturable=device.type == "cuda")
    record["dense_adam_s"] = replayed_seconds(optimizer.step, device)
    return record

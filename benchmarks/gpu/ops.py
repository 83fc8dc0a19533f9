"""The fused propagation, the prediction layers and the row optimizer against torch on one device.

Counted bytes are the fewest that must move: every row that a batch names once, every id, input and
output once. Counted operations are those of the equations: products, sums and exponentials; what
the backward pass recomputes of the forward pass counts, because its results are not stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.timing import replayed, seconds
from ekpnet_fast import ops, reference


@dataclass(frozen=True)
class Shape:
    """A batch: G groups of `pairs` pairs each, over a table of n rows."""

    name: str
    groups: int
    pairs: int
    hops: int
    slots: int
    width: int
    rows: int
    relations: int = 24
    compiled: bool = False  # whether torch.compile is a peer: it takes half a minute per shape


SHAPES = (
    Shape("movielens step", 128, 64, 2, 32, 16, 12_000, compiled=True),
    Shape("movielens 262 k pairs", 4096, 64, 2, 32, 16, 182_011),
    Shape("book-crossing step", 1640, 5, 3, 32, 4, 40_000, compiled=True),
    Shape("wide 131 k pairs", 2048, 64, 2, 32, 64, 182_011),
    Shape("ranking 16 users", 16, 16_384, 2, 32, 16, 182_011),
)
SMALL_SHAPES = (Shape("small", 8, 5, 2, 8, 8, 50), Shape("narrow", 20, 3, 3, 4, 4, 50))


def problem(shape: Shape, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Arguments of `ops.ripple_attention`; every slot valid, rows drawn uniformly."""
    draw = torch.Generator(device="cpu").manual_seed(0)
    G, H, M, D = shape.groups, shape.hops, shape.slots, shape.width

    def reals(*size: int) -> Tensor:
        return (torch.randn(size, generator=draw) * D**-0.5).to(device, dtype)

    def ids(limit: int, *size: int) -> Tensor:
        return torch.randint(limit, size, generator=draw, dtype=torch.int32).to(device)

    return [
        reals(shape.rows, 2, D),
        reals(shape.relations, 2, D),
        reals(D, D),
        reals(D),
        ids(shape.rows, G, H, M),
        ids(shape.relations, G, H, M),
        ids(shape.rows, G, H, M),
        torch.full((G, H), M, dtype=torch.int32, device=device),
        torch.arange(G + 1, device=device) * shape.pairs,
        ids(shape.rows, G * shape.pairs),
    ]


def work_counted(shape: Shape, inputs: Sequence[Tensor]) -> dict[str, dict[str, float]]:
    """Operations and bytes of the two passes."""
    G, B, H, M, D = shape.groups, shape.groups * shape.pairs, shape.hops, shape.slots, shape.width
    size = inputs[0].element_size()
    tile = G * H * M * 2 * (2 * D + D + D / 2)  # two projections, one sum per slot
    hop = 2 * M * D + 5 * M + 2 * M * D + 2 * D + 2 * D * D  # eq. 9, 10, 11, 14, 12
    forward = tile + B * (H * hop + 2 * D)
    undo = 2 * (2 * M * D) + 4 * M + 2 * (2 * M * D) + 2 * (2 * D * D) + 4 * D
    backward = forward + tile + B * H * undo + G * H * M * 14 * D
    named = [x.unique().numel() for x in (inputs[4], inputs[6], inputs[9])]
    rows = torch.cat([inputs[4].flatten(), inputs[6].flatten(), inputs[9]]).unique().numel()
    read = rows * 2 * D * size + sum(x.nbytes for x in inputs[1:])
    z = B * ((H + 1) * D + 1) * size
    gradients = (max(rows, *named) * 2 * D + inputs[1].numel() + D * D + D) * size
    return {
        "forward": {"operations": forward, "bytes": read + z},
        "backward": {"operations": backward, "bytes": read + z + gradients},
    }


def passes(module: Any, inputs: list[Tensor]) -> dict[str, Callable[[], object]]:
    """Forward alone, and forward with backward, of a module's `ripple_attention`."""
    leaves = [x.clone().requires_grad_() for x in inputs[:4]]
    arguments = [*leaves, *inputs[4:]]
    with torch.no_grad():
        upstream = [torch.ones_like(x) for x in module(*inputs)]

    def forward() -> object:
        with torch.no_grad():
            return module(*inputs)

    def both() -> object:
        return torch.autograd.grad(module(*arguments), leaves, upstream)

    return {"forward": forward, "both": both}


def attention(
    shape: Shape, device: torch.device, dtype: torch.dtype, ceilings: dict[str, float]
) -> dict[str, Any]:
    """Times of one shape against eager torch and, for some in float32, compiled torch."""
    inputs = problem(shape, device, dtype)
    counted = work_counted(shape, inputs)
    # Eager torch keeps [B, H, M, D] tensors: a part of the groups where they would not fit.
    share = min(1.0, 2**28 / (shape.groups * shape.pairs * shape.slots * shape.width))
    part = max(1, int(shape.groups * share))
    some = [*inputs[:4], *(x[:part] for x in inputs[4:8]), inputs[8][: part + 1]]
    some.append(inputs[9][: part * shape.pairs])
    scale = shape.groups / part
    record: dict[str, Any] = {
        "shape": shape.name,
        "dtype": str(dtype).removeprefix("torch."),
        "peers_measured_on_groups": part,
        **{f"{step}_{what}": n for step, w in counted.items() for what, n in w.items()},
    }
    ours = passes(ops.ripple_attention, inputs)
    for name, call in ours.items():
        record[f"native_{name}_s"] = seconds(replayed(call, device), device)
        record[f"native_{name}_launched_s"] = seconds(call, device)
    record["native_backward_s"] = record["native_both_s"] - record["native_forward_s"]
    for name, call in passes(reference.ripple_attention, some).items():
        record[f"eager_{name}_s"] = scale * seconds(call, device, 7)
    if shape.compiled and dtype == torch.float32:
        torch.compiler.reset()
        compiled = torch.compile(reference.ripple_attention)
        for name, call in passes(compiled, some).items():
            record[f"compiled_{name}_s"] = scale * seconds(call, device, 7)
    for step, work in counted.items():
        floor = max(
            work["operations"] / ceilings["float32_operations_per_s"],
            work["bytes"] / ceilings["copy_bytes_per_s"],
        )
        record[f"{step}_floor_s"] = floor
        record[f"{step}_share_of_floor"] = floor / record[f"native_{step}_s"]
    return record


def row_adam(device: torch.device, rows: int, touched: int, width: int) -> dict[str, Any]:
    """Adam on the touched rows against torch's fused Adam over the whole table."""
    table = torch.randn(rows, 2, width, device=device)
    m, v = torch.zeros_like(table), torch.zeros_like(table)
    at = torch.randperm(rows, device=device)[:touched].int()
    grad = torch.randn(touched, 2, width, device=device)
    step, l2 = torch.ones((), dtype=torch.int64), torch.zeros((), dtype=torch.float64)
    step, l2 = step.to(device), l2.to(device)

    def ours() -> object:
        return ops.row_adam_(table, m, v, at, grad, step=step, l2=l2, lr=1e-3)

    record: dict[str, Any] = {"rows": rows, "touched": touched, "width": width}
    record["row_adam_s"] = seconds(replayed(ours, device), device)
    record["row_adam_bytes"] = touched * 2 * width * 4 * 7 + touched * 4
    dense = table.clone().requires_grad_()
    dense.grad = torch.zeros_like(dense)
    optimizer = torch.optim.Adam([dense], lr=1e-3, fused=True, capturable=device.type == "cuda")
    record["dense_adam_s"] = seconds(replayed(optimizer.step, device), device)
    return record

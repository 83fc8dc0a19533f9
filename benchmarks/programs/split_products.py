"""Error of float32 products by tensor cores in TF32, of one product each or of three, on a CPU.

    python -m benchmarks.programs.split_products

A tensor core takes factors of 11 significant bits and adds up in float32. Three products of what is
left of the factors' 24 bits come near to float32 ("3xTF32"). Sums are modelled as cut off, which is
what measurements of tensor cores have found (Fasi et al., PeerJ Computer Science 7:e330, 2021);
fused multiply-adds are rounded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
STEP = 8  # terms that a tensor core adds at once


def tf32(x: Float32) -> Float32:
    """Values rounded to 11 significant bits, halves to even."""
    bits = x.view(np.uint32).astype(np.uint64)
    kept = (bits + 0xFFF + ((bits >> 13) & 1)) & ~np.uint64(0x1FFF)
    return kept.astype(np.uint32).view(np.float32)


def cut_off(x: NDArray[np.float64]) -> Float32:
    """The float32 next to x in the direction of 0."""
    y = x.astype(np.float32)
    return np.where(np.abs(y.astype(np.float64)) > np.abs(x), np.nextafter(y, np.float32(0)), y)


def fused(a: Float32, b: Float32) -> Float32:
    """Product [n, m] by fused multiply-adds."""
    total = np.zeros((len(a), b.shape[1]), np.float32)
    for k in range(len(b)):
        total = (total + np.outer(a[:, k].astype(np.float64), b[k])).astype(np.float32)
    return total


def by_tensor_cores(a: Float32, b: Float32, products: int) -> Float32:
    """Product [n, m] by one TF32 product or by three."""
    high_a, high_b = tf32(a), tf32(b)
    low_a, low_b = tf32(a - high_a), tf32(b - high_b)
    pairs = [(low_a, high_b), (high_a, low_b), (high_a, high_b)][-products:]
    total = np.zeros((len(a), b.shape[1]), np.float32)
    for k in range(0, len(b), STEP):
        for x, y in pairs:
            added = x[:, k : k + STEP].astype(np.float64) @ y[k : k + STEP].astype(np.float64)
            total = cut_off(total + added)
    return total


def main() -> None:
    """Print errors, relative to those of fused multiply-adds, by the length of a sum."""
    draw = np.random.default_rng(0)
    print("terms  3xTF32  TF32  (root mean square error, times that of fused multiply-adds)")
    for terms in (16, 32, 48, 192):
        a = draw.standard_normal((512, terms)).astype(np.float32)
        b = draw.standard_normal((terms, 64)).astype(np.float32)
        exact = a.astype(np.float64) @ b.astype(np.float64)
        found = (fused(a, b), by_tensor_cores(a, b, 3), by_tensor_cores(a, b, 1))
        base, three, one = (float(np.sqrt(np.mean((x - exact) ** 2))) for x in found)
        print(f"{terms:5d}  {three / base:6.1f}  {one / base:4.0f}")


if __name__ == "__main__":
    main()

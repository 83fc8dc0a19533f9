"""Bounds of logits that hold for every item: linear functions of the item's vector.

Of a product of vectors little more than the rounding is to bound; of EKPNet there is more to do.

An `Enclosure` contains a vector that depends on the item: its centre, plus symbols in [-1, 1] times
a spread, plus a slack for what rounding may add (a zonotope: Singh et al., Fast and Effective
Robustness Certification, NeurIPS 2018). The first D symbols say where in the box of all item
vectors an item lies; every step that is not linear adds symbols for what its linear part leaves
over. What is computed in float32 is enclosed, not only what real numbers would give. Through the
layers the spread is in float32 too, and the slack covers that: `_rounding` is twice the usual bound
of the rounding error of a sum of n terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ekpnet_fast.ops import Propagation

__all__ = ["UNIT", "LinearBounds", "bounds_of_layers", "bounds_of_products"]

UNIT = 2.0**-23  # twice the rounding unit of float32
LARGEST = 1e30  # beyond this float32 may overflow, and nothing is bounded
SMALLEST = 1e-9  # more than underflow, and the rounding of float64 here, can amount to
SUMMED = 1 + 1e-4  # a sum of up to 1,000 sizes in float32 is smaller by less than this factor
FARTHEST = 40.0  # change of a score from where on weights may change by any factor
GROUPS_AT_ONCE = 128  # whose symbols stay in a cache; of fewer, calls take longer than sums


@dataclass(frozen=True, eq=False)
class LinearBounds:
    """Linear bounds of logits: |logit - (height + slope . v)| <= error for item vectors v.

    Attributes:
        vectors: [I, D] float32 of the items.
        slope: [G, D] float64.
        height: [G] float64.
        error: [G] float64; infinite or NaN where nothing is known.
    """

    vectors: Tensor
    slope: Tensor
    height: Tensor
    error: Tensor


@dataclass(frozen=True, eq=False)
class Enclosure:
    """Enclosure of a vector of n numbers for each of G groups.

    Attributes:
        centre: [G, n] float64.
        slack: [G, n] float64, at least 0.
        spread: [G, S_k, n] float64 or float32, by symbol; enclosures of a group share the symbols
            of part k, and do not depend on those of parts that they lack.
        own: [G, n] float64, spread of a further symbol for each number alone.
    """

    centre: Tensor
    slack: Tensor
    spread: tuple[Tensor, ...] = ()
    own: Tensor | None = None

    @cached_property
    def radius(self) -> Tensor:
        """Largest distance [G, n] from the centre without slack."""
        found = torch.zeros_like(self.centre) if self.own is None else self.own
        for part in self.spread:
            found = found + part.abs().sum(1).double() * SUMMED
        return found

    @cached_property
    def magnitude(self) -> Tensor:
        """Largest absolute value [G, n]."""
        return self.centre.abs() + self.radius + self.slack

    def plus(self, other: Enclosure) -> Enclosure:
        """Enclosure of a sum in float32."""
        slack = self.slack + other.slack + _rounding(1, self.magnitude + other.magnitude)
        shared = min(len(self.spread), len(other.spread))
        spread = (
            *(a + b for a, b in zip(self.spread, other.spread, strict=False)),
            *self.spread[shared:],
            *other.spread[shared:],
        )
        return Enclosure(self.centre + other.centre, slack, spread)

    def times(self, matrix: Tensor, bias: Tensor) -> Enclosure:
        """Enclosure of the product with a matrix [n, n'], plus a bias [n'], in float32."""
        absolute = matrix.abs()
        terms = self.magnitude @ absolute + bias.abs()
        # Of the vector, and of its spread.
        slack = self.slack @ absolute + _rounding(2 * (len(matrix) + 2), terms)
        parts = [part @ matrix.to(part.dtype) for part in self.spread]
        if self.own is not None:
            parts.append(self.own.float().unsqueeze(2) * matrix.float())
        return Enclosure(self.centre @ matrix + bias, slack, tuple(parts))

    def where(self, kept: Tensor) -> Enclosure:
        """Enclosure of the vector in some groups [G], and of 0 in the others."""
        at = kept.unsqueeze(1)
        return Enclosure(
            torch.where(at, self.centre, 0.0),
            torch.where(at, self.slack, 0.0),
            tuple(torch.where(at.unsqueeze(2), part, 0.0) for part in self.spread),
        )


def _joined(found: list[Enclosure]) -> Enclosure:
    """Enclosure of vectors side by side, its spread one part in float32.

    The last vector has the most symbols; the others lack the last ones.
    """
    symbols = sum(part.shape[1] for part in found[-1].spread)
    columns = []
    for x in found:
        rows = torch.cat(x.spread, 1).float()
        columns.append(torch.nn.functional.pad(rows, (0, 0, 0, symbols - rows.shape[1])))
    centre, slack = torch.cat([x.centre for x in found], 1), torch.cat([x.slack for x in found], 1)
    joined = Enclosure(centre, slack, (torch.cat(columns, 2),))
    return Enclosure(centre, slack + _rounding(1, joined.radius), joined.spread)


def bounds_of_products(users: Tensor, vectors: Tensor) -> LinearBounds:
    """Bounds of logits u . v that are summed up in float32, in any order.

    Args:
        users: [G, D] float32.
        vectors: [I, D] float32, of the items.
    """
    slope = users.double()
    terms = slope.abs() @ vectors.abs().amax(0).double()
    error = _rounding(vectors.shape[1] + 1, terms) + SMALLEST
    return LinearBounds(vectors, slope, torch.zeros_like(terms), error)


def bounds_of_layers(
    given: Propagation,
    layers: tuple[Tensor, Tensor, Tensor, Tensor],
    activation: str,
) -> LinearBounds:
    """Bounds of the logits of eq. 18 for all of some items, for every group.

    Args:
        given: whole tables, the groups' ripple sets, and the items [I]; `group_indptr` plays no
            part.
        layers: weights [L - 1, K, K], biases [L - 1, K], w_out [K] and b_out [1] (eq. 17, 18).
        activation: "tanh", "relu" or "sigmoid".
    """
    vectors = given.entity[given.items.long(), 0]
    low, high = (x.double() for x in torch.aminmax(vectors, dim=0))
    middle = (low + high) / 2
    # Half the box's width, from the middle as it was rounded.
    half = torch.maximum(high - middle, middle - low)
    groups = len(given.counts)
    # In parts of one size: of a small rest most of the time would go to calls.
    size = -(-groups // -(-groups // GROUPS_AT_ONCE))
    found = [
        _bounds(given, slice(first, first + size), middle, half, layers, activation)
        for first in range(0, groups, size)
    ]
    return LinearBounds(vectors, *(torch.cat(parts) for parts in zip(*found, strict=True)))


def _bounds(
    given: Propagation,
    groups: slice,
    middle: Tensor,  # [D], of the items' vectors
    half: Tensor,  # [D]
    layers: tuple[Tensor, Tensor, Tensor, Tensor],
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Slope [G, D], height [G] and error [G] for some groups."""
    counts = given.counts[groups]
    (G, H), D, M = counts.shape, len(middle), given.heads.shape[2]
    W_e, b_e = given.W_e.double(), given.b_e.double()
    none = middle.new_zeros(G, D)
    o = Enclosure(middle.expand(G, D), none, (torch.diag(half).expand(G, D, D),))
    xi = Enclosure(none, none)
    z = []
    for hop in range(H):
        reached = counts[:, hop] > 0
        valid = torch.arange(M, device=counts.device) < counts[:, hop, None].clamp(min=1)
        heads, relations, tails = (
            ids[groups, hop].masked_fill(~valid | ~reached[:, None], 0).long()
            for ids in (given.heads, given.relations, given.tails)
        )
        h, r, t = given.entity[heads], given.relation[relations], given.entity[tails]
        rho = _attended(o, _key(h.double(), r.double()), _value(t.double(), r.double()), valid)
        rho = rho.where(reached)
        xi, o = xi.plus(rho), o.plus(rho).times(W_e, b_e)
        z.append(xi)
    y = _joined([*z, o])
    weights, biases, w_out, b_out = (x.double() for x in layers)
    for weight, bias in zip(weights, biases, strict=True):
        y = _activated(y.times(weight, bias), activation)
    y = y.times(w_out.unsqueeze(1), b_out)
    spread = torch.cat(y.spread, 1)[:, :, 0].double()  # [G, S], first of the items' symbols
    slope = torch.where(half > 0, spread[:, :D] / half, 0.0)
    error = spread[:, D:].abs().sum(1) + y.slack[:, 0] + SMALLEST
    return slope, y.centre[:, 0] - slope @ middle, error


def _key(h: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Keys [G, M, D] (eq. 9) of heads and relations [G, M, C, D], and their terms' sizes."""
    if h.shape[2] == 1:
        return h[:, :, 0] + r[:, :, 0], h[:, :, 0].abs() + r[:, :, 0].abs()
    keys, terms = _value(h, r)
    return keys + r[:, :, 0], terms + r[:, :, 0].abs()


def _value(t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Values [G, M, D] (eq. 8) of tails and relations [G, M, C, D], and their terms' sizes."""
    if t.shape[2] == 1:
        return t[:, :, 0], t[:, :, 0].abs()
    factor = (r[:, :, 1] * t[:, :, 0]).sum(2, keepdim=True)
    size = (r[:, :, 1] * t[:, :, 0]).abs().sum(2, keepdim=True)
    return t[:, :, 1] * factor, t[:, :, 1].abs() * size


def _attended(
    o: Enclosure,
    key: tuple[Tensor, Tensor],  # [G, M, D] each: keys, and the sizes of their terms
    value: tuple[Tensor, Tensor],  # [G, M, D] each
    valid: Tensor,  # [G, M] bool, of at least one slot
) -> Enclosure:
    """Enclosure of rho, the values weighed by softmax(key . o), with a part more than `o`.

    With alpha the weights at the centre, rho's derivative there is the covariance of values and
    keys under alpha. The second derivative along a change x [M] of the scores is at most the range
    of the values times the variance of x, under the weights on the way; and that is at most the
    largest (x - mean)^2, and at most its mean under alpha times e^(range of x), by which weights
    can change.
    """
    (keys, key_terms), (values, value_terms) = key, value
    M, D = keys.shape[1:]
    score = (keys @ o.centre.unsqueeze(2)).squeeze(2).masked_fill(~valid, -torch.inf)
    alpha = torch.softmax(score, 1)
    rho = (alpha.unsqueeze(1) @ values).squeeze(1)
    mean_key = (alpha.unsqueeze(1) @ keys).squeeze(1)
    away = (keys - mean_key.unsqueeze(1)).masked_fill(~valid.unsqueeze(2), 0)
    changes = (away.abs() @ o.slack.unsqueeze(2)).squeeze(2)
    for part in o.spread:
        changes = changes + (part @ away.mT).abs().sum(1)
    largest = changes.amax(1)
    weighed = torch.exp(2 * largest) * (alpha * changes.square()).sum(1)
    variance = torch.where(
        largest < FARTHEST, torch.minimum(largest.square(), weighed), largest.square()
    )
    at = valid.unsqueeze(2)
    width = values.masked_fill(~at, -torch.inf).amax(1) - values.masked_fill(~at, torch.inf).amin(1)
    rest = width * (variance / 2).unsqueeze(1)
    slope = away.mT @ (alpha.unsqueeze(2) * (values - rho.unsqueeze(1)))  # [G, D, D]
    # rho is among the values whatever the weights are.
    slope = torch.where((rest > width).unsqueeze(1), 0.0, slope)
    rest = torch.minimum(rest, width)
    # Rounding: of keys and values, of scores, of the softmax, and of the sum over slots.
    reach = o.magnitude.unsqueeze(2)
    scores = (key_terms.masked_fill(~at, 0) @ reach).squeeze(2).amax(1)
    wrong = _rounding(2 * D + 8, scores)
    share = torch.expm1(2 * wrong) + _rounding(1, 2 * scores) + _rounding(2 * M + 32, 1.0)
    # Weights as computed add up to 1 too, but for rounding.
    share = torch.where(wrong.isfinite(), share.clamp(max=3.0), torch.inf)
    terms = value_terms.masked_fill(~at, 0).amax(1)
    slack = share.unsqueeze(1) * terms + _rounding(D + 8, terms)
    slack += (o.slack.unsqueeze(1) @ slope.abs()).squeeze(1)
    spread = (*(part @ slope for part in o.spread), torch.diag_embed(rest))
    return Enclosure(rho, slack, spread)


def _activated(y: Enclosure, activation: str) -> Enclosure:
    """Enclosure of tanh, relu or sigmoid of a vector, without slack."""
    low, high = y.centre - y.radius, y.centre + y.radius
    steepest = 1.0
    if activation == "relu":
        slope, middle, rest = _relu(low, high)
    elif activation == "tanh":
        slope, middle, rest = _tanh(low, high)
    else:  # (1 + tanh(y / 2)) / 2
        slope, middle, rest = _tanh(low / 2, high / 2)
        slope, middle, rest, steepest = slope / 4, (1 + middle) / 2, rest / 2, 0.25
    # Of the function's argument, of its value, which is no larger than 1 or its argument, and of
    # the spread.
    rest = rest + steepest * y.slack + _rounding(16, 1 + y.magnitude)
    centre = slope * y.centre + middle
    at = slope.unsqueeze(1).float()
    return Enclosure(centre, torch.zeros_like(centre), tuple(part * at for part in y.spread), rest)


def _tanh(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slope a, middle b and rest c with |tanh(x) - a x - b| <= c from low to high."""
    width = high - low
    chord = (torch.tanh(high) - torch.tanh(low)) / width
    slope = torch.where(width > 1e-6, chord, 1 - torch.tanh(low).square())
    # The ends, and the two places where tanh is as steep as that.
    turn = torch.atanh(torch.sqrt((1 - slope).clamp(0, 1 - 1e-15)))
    turns = (-turn, turn)
    places = torch.stack([low, high, *(torch.clamp(x, low, high) for x in turns)])
    over = torch.tanh(places) - slope * places
    least, most = over.amin(0), over.amax(0)
    return slope, (least + most) / 2, (most - least) / 2


def _relu(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slope a, middle b and rest c with |relu(x) - a x - b| <= c from low to high."""
    bent = (low < 0) & (high > 0)
    slope = torch.where(bent, high / (high - low), (low >= 0).double())
    rest = torch.where(bent, -slope * low / 2, 0.0)
    return slope, rest, rest


def _rounding(n: int, terms: Tensor | float) -> Tensor:
    """Rounding error of a sum of n terms in float32, from the sum of their sizes."""
    terms = torch.as_tensor(terms, dtype=torch.float64)
    return torch.where(terms < LARGEST, n * UNIT * terms, torch.inf)

"""Weights of the wide part for lists: held-out clicks against what the signals put first.

Drawn negatives are mostly items that no signal names, so weights fitted to them tell a click from
these and say little about the order among the first hundred, which is all that a list shows. Here
every held-out click competes with the *candidates* of its user, the items that some affinity puts
among its first `CANDIDATES`, in a softmax of its own:

    sum_u n_u^(-1/2) sum_i -log(e^(s_i) / (e^(s_i) + sum_c e^(s_c)))

over the number of users, i being u's n_u clicks and c the other candidates. Clicks that are no
candidate are left out: they could only be gained by giving up the order of the others. Weights may
be negative, so curves may fall: candidates are compared with each other under the same user and the
same clicks, where a negative weight corrects what two signals count twice. Against drawn negatives
it would learn how these were drawn instead (see `docs/ekpnet_plus.md`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.models.wide.affinity import Affinities, Curved
from ekpnet_fast.models.wide.curves import fit_curves, ramps
from ekpnet_fast.models.wide.signals import feature_names
from ekpnet_fast.sampling.histories import Histories

__all__ = ["CandidateRows", "candidate_rows", "fit_lists", "logistic_line"]

CANDIDATES = 100  # of each affinity that nominates
BLOCK = 256  # histories whose candidates are found at a time
AT_ONCE = 1 << 15  # rows in memory at a time, beside the ramps
ROUNDS, HALVINGS = 40, 20
TOLERANCE = 1e-7  # of the loss, by which a round must improve it
L2 = 1e-4  # of weights of ramps with standard deviation 1


@dataclass(frozen=True)
class CandidateRows:
    """Candidates of some users, with the clicks among them.

    Attributes:
        features: [F, N] float32.
        indptr: [U + 1] int64, rows of each user; every user has a click and another candidate.
        clicked: [N] bool.
    """

    features: Tensor
    indptr: Tensor
    clicked: Tensor

    def __len__(self) -> int:
        """Number of rows N."""
        return len(self.clicked)

    @classmethod
    def joined(cls, parts: list[CandidateRows]) -> CandidateRows:
        """Rows of some parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        lengths = torch.cat([part.indptr.diff() for part in parts])
        return cls(
            torch.cat([part.features for part in parts], 1),
            torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
            torch.cat([part.clicked for part in parts]),
        )


def candidate_rows(
    affinities: Affinities,
    histories: Histories,  # [U]
    clicks: Histories,  # [U], held out
    most: int,
) -> CandidateRows:
    """Rows of users who have a click among their candidates.

    Args:
        affinities: without the held-out clicks.
        histories: what the users' candidates follow from; none of their items is one.
        clicks: of the same users.
        most: rows, about: of more users evenly spread ones are taken.
    """
    nominating = _nominating(affinities)
    asked = torch.nonzero((clicks.indptr.diff() > 0) & (histories.indptr.diff() > 0)).squeeze(1)
    # Candidates of several affinities are mostly the same, and most users have no click among them.
    asked = _spread(asked, 4 * most // (CANDIDATES * len(nominating)))
    found = [
        _candidates(nominating, histories.of(ids), clicks.of(ids))
        for ids in torch.split(asked, BLOCK)
    ]
    lengths = torch.cat([x[0] for x in found] or [torch.zeros(0, dtype=torch.int64)])
    known = torch.nonzero(lengths).squeeze(1)
    chosen = torch.zeros(len(lengths), dtype=torch.bool)
    rows_of_user = int(lengths.sum()) // max(len(known), 1)
    chosen[_spread(known, most // max(rows_of_user, 1))] = True
    kept = chosen.repeat_interleave(lengths)
    items, clicked = (
        torch.cat([x[part] for x in found])[kept] if found else torch.zeros(0) for part in (1, 2)
    )
    ends = lengths[chosen].cumsum(0)
    indptr = torch.cat([ends.new_zeros(1), ends])
    features = affinities.features(histories.of(asked[chosen]), indptr, items.int())
    return CandidateRows(features, indptr, clicked.bool())


def _spread(ids: Tensor, count: int) -> Tensor:
    """Evenly spread ones [count] of ids, at least one if there are any."""
    if len(ids) <= count:
        return ids
    return ids[torch.linspace(0, len(ids) - 1, max(count, 1)).round().long()]


def _nominating(affinities: Affinities) -> list[Curved]:
    """Affinities, each as the logits of a model of it alone, that candidates are taken from.

    Those by clicks, and the match in the graph as a whole; of projections the finest.
    """
    options = affinities.options
    names = {"co-click", "EASE", "far co-click", "item kNN", "ridge", "user kNN"}
    names |= {f"low-pass {max(options.low_pass)}"} if options.low_pass else set()
    names |= {"KG match"} if affinities.knowledge.match.nnz else set()
    F, alone = len(feature_names(options)), len(affinities.item_features)
    first_by_mean = F - len(options.names)
    knots = torch.tensor([-1e3, 1e3]).repeat(F, 1)
    found = []
    for at, name in enumerate(options.names):
        if name in names:
            weight = torch.zeros(F, 1)
            weight[first_by_mean + at] = 2e3  # the feature itself
            found.append(affinities.curved(knots, weight, 0.0))
    assert alone <= first_by_mean
    return found


def _candidates(
    nominating: list[Curved], histories: Histories, clicks: Histories
) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers [U], items [N] and clicks [N] of the candidates of some users, rising.

    Users with no click or nothing but clicks among them have none.
    """
    tops = []
    for curved in nominating:
        logits = curved.logits(histories)
        I = logits.shape[1]  # noqa: E741
        found = ops.top_items(logits, histories.indptr, histories.items, min(CANDIDATES, I))
        tops.append(found.long())
    items = torch.cat(tops, 1)
    users = torch.arange(len(items)).unsqueeze(1).expand_as(items)
    keys = torch.unique((users * I + items)[items >= 0])
    owners = torch.repeat_interleave(torch.arange(len(clicks)), clicks.indptr.diff())
    clicked = torch.isin(keys, owners * I + clicks.items)
    users = keys // I
    positive = torch.bincount(users[clicked], minlength=len(items))
    lengths = torch.bincount(users, minlength=len(items))
    told = (positive > 0) & (positive < lengths)
    kept = told[users]
    return torch.where(told, lengths, 0), (keys % I)[kept], clicked[kept]


def fit_lists(
    rows: CandidateRows,
    knots: Tensor,  # [F, P + 1]
) -> NDArray[np.float64]:
    """Weights [F, P] of least loss + L2 / 2 |w|^2, w of ramps with standard deviation 1.

    Newton's method; the loss is convex. A step is halved until it improves the loss. Sums are in
    the order of the rows.
    """
    F, P = len(knots), knots.shape[1] - 1
    blocks = list(_blocks(rows, knots))
    total = torch.stack([b.design.double().sum(0) for b in blocks]).sum(0)
    squares = torch.stack([b.design.double().square().sum(0) for b in blocks]).sum(0)
    spread = (squares / len(rows) - (total / len(rows)).square()).clamp(min=0).sqrt()
    used = spread > 1e-6
    scale = torch.where(used, 1 / spread, 0).float()
    for block in blocks:
        block.design.mul_(scale)
    users = len(rows.indptr) - 1
    w = torch.zeros(F * P, dtype=torch.float64)
    loss = _loss(blocks, w) / users
    for _ in range(ROUNDS):
        gradient, hessian = _slope(blocks, w)
        gradient = gradient / users + L2 * w
        hessian = hessian / users
        # The trace bounds the largest eigenvalue, and with it what rounding may take from the
        # smallest. Only the step is damped, not the loss.
        damping = L2 + torch.finfo(torch.float32).eps * float(hessian.trace())
        hessian.diagonal().add_(damping)
        step = torch.cholesky_solve(-gradient.unsqueeze(1), torch.linalg.cholesky(hessian))
        step = step.squeeze(1)
        before = loss
        for _ in range(HALVINGS):
            after = _loss(blocks, w + step) / users + L2 / 2 * float((w + step) @ (w + step))
            if after <= loss:
                w, loss = w + step, after
                break
            step = step / 2
        if before - loss < TOLERANCE:
            break
    found: NDArray[np.float64] = (w * scale.double()).view(F, P).numpy()
    return found


class _Block(NamedTuple):
    """Rows of some users.

    Attributes:
        design: [n, F P] ramps.
        owner: [n] int64, the user of each row, from 0.
        users: their number.
        clicked: [n] bool.
        share: [n] of a click, n_u^(-1/2); 0 of other rows.
    """

    design: Tensor
    owner: Tensor
    users: int
    clicked: Tensor
    share: Tensor

    def sums(self, of_rows: Tensor) -> Tensor:
        """Sums over each user's rows."""
        shape = (self.users, *of_rows.shape[1:])
        return torch.zeros(shape, dtype=of_rows.dtype).index_add_(0, self.owner, of_rows)

    def margins(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax over the user's other candidates, and logits above the log of their sum.

        Both [n] float64; the softmax is 0 for clicks. e^s of the others is taken below their own
        largest s, so that their sum is at least 1 however far above a click is.
        """
        s = (self.design @ w.float()).double()
        of_others = torch.where(self.clicked, -torch.inf, s)
        top = torch.full((self.users,), -torch.inf, dtype=torch.float64)
        top = top.scatter_reduce(0, self.owner, of_others, "amax")
        e = (of_others - top[self.owner]).exp()
        total = self.sums(e)
        return e / total[self.owner], s - (top + total.log())[self.owner]


def _blocks(rows: CandidateRows, knots: Tensor) -> Iterator[_Block]:
    indptr = rows.indptr
    first, last = 0, len(indptr) - 1
    while first < last:
        stop = int(torch.searchsorted(indptr, indptr[first] + AT_ONCE, right=True)) - 1
        stop = min(max(stop, first + 1), last)
        part = slice(int(indptr[first]), int(indptr[stop]))
        owner = torch.repeat_interleave(torch.arange(stop - first), indptr[first : stop + 1].diff())
        clicked = rows.clicked[part]
        design = ramps(rows.features[:, part], knots).flatten(0, 1).T.contiguous()
        per_user = torch.bincount(owner[clicked], minlength=stop - first).double()
        share = torch.where(clicked, per_user[owner] ** -0.5, 0.0)
        yield _Block(design, owner, stop - first, clicked, share)
        first = stop


def _loss(blocks: list[_Block], w: Tensor) -> float:
    total = 0.0
    for block in blocks:
        _, margin = block.margins(w)
        total += float((block.share * torch.nn.functional.softplus(-margin)).sum())
    return total


def _slope(blocks: list[_Block], w: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient [F P] and Hessian [F P, F P] of the summed loss.

    With m the mean ramps of the user's other candidates under their own softmax q, a click i whose
    chance against them is p, and a its share, they are

        -a (1 - p) (x_i - m)
        a (1 - p) sum_c q_c (x_c - m) (x_c - m)^T + a p (1 - p) (x_i - m) (x_i - m)^T

    summed over clicks. No term of the second is negative: as the difference of sums about 0 it
    could have a negative eigenvalue by rounding, larger than what L2 adds where rows are few.
    """
    gradient = torch.zeros(len(w), dtype=torch.float64)
    hessian = torch.zeros(len(w), len(w), dtype=torch.float64)
    for block in blocks:
        q, margin = block.margins(w)
        missed = block.share * torch.sigmoid(-margin)  # 0 of other candidates
        mean = block.sums(block.design * q.float().unsqueeze(1))
        centred = block.design - mean[block.owner]
        gradient -= (missed.float() @ centred).double()
        curvature = torch.where(
            block.clicked, missed * torch.sigmoid(margin), q * block.sums(missed)[block.owner]
        )
        centred.mul_(curvature.sqrt().float().unsqueeze(1))
        hessian += (centred.T @ centred).double()
    return gradient, hessian


def logistic_line(
    logits: Tensor,  # [N]
    labels: Tensor,  # [N] 0 or 1
) -> tuple[float, float]:
    """Slope, at least 0, and height of the line through logits of least mean cross-entropy."""
    x = logits.double()
    middle, spread = float(x.mean()), max(float(x.std(correction=0)), 1e-12)
    features = ((x - middle) / spread).float().unsqueeze(0)
    weight, bias = fit_curves(features, torch.tensor([[0.0, 1.0]]), labels)
    slope = float(weight[0, 0]) / spread
    return slope, bias - slope * middle

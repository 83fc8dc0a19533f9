"""Reasons: the paths of the ripple sets, weighed by the score's loss without them; and a wide part.

A ripple set holds triples hop by hop. Each triple ends a path that leads back, hop by hop, to an
item of the history. Its *effect* is measured and not estimated: the item is scored again without
the triple, for all triples in one call, as many user groups of one pair. Attention (eq. 10) says
how much of a hop's answer a triple makes up; the effect says what that does to this item. The logit
of a model with a wide part is also told as a sum: see `telling.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ekpnet_fast.recommender.answers import Explanation
from ekpnet_fast.recommender.paths import Reason, RippleTriple, Step
from ekpnet_fast.recommender.query import Query
from ekpnet_fast.recommender.state import QueryBatch, State
from ekpnet_fast.recommender.telling import Telling, node_of
from ekpnet_fast.sampling.ripple_sets import RippleSets


@dataclass(frozen=True)
class RipplePath:
    """Path through the ripple set, by its end: a distinct triple of a hop.

    Attributes:
        hop: from 0.
        head, relation, tail: the triple, as it is walked.
        slots: where the hop holds it; several where short hops are filled by repetition.
        attention: its share of the hop, None where the model has none.
        effect: by how much the logit falls without it.
    """

    hop: int
    head: int
    relation: int
    tail: int
    slots: tuple[int, ...]
    attention: float | None
    effect: float


def paths_of(
    state: State, query: QueryBatch, sets: RippleSets, entity: int
) -> tuple[float, list[RipplePath]]:
    """Logit of an item for one user or history, and all paths, by falling effect.

    Args:
        state: the recommender's state.
        query: one user or history.
        sets: its ripple sets.
        entity: the item's entity.
    """
    triples = _triples(sets)
    logits = masked_logits(
        state,
        query,
        sets,
        entity,
        [[], *([(hop, slot) for slot in slots] for (hop, *_), slots in triples.items())],
    ).tolist()
    weights = _attention(state, query, sets, entity)
    paths = []
    for (key, slots), without in zip(triples.items(), logits[1:], strict=True):
        attention = None if weights is None else sum(weights[key[0]][slot] for slot in slots)
        paths.append(RipplePath(*key, slots, attention, logits[0] - without))
    paths.sort(key=lambda path: -path.effect)
    return logits[0], paths


def masked_logits(
    state: State,
    query: QueryBatch,
    sets: RippleSets,
    entity: int,
    masks: Sequence[Sequence[tuple[int, int]]],
) -> Tensor:
    """Logits [G] of an item, on the CPU, without the slots (hop, slot) that each mask names."""
    groups = len(masks)
    keep = torch.ones(groups, *sets.heads.shape[1:], dtype=torch.bool)
    gone = [(i, *slot) for i, mask in enumerate(masks) for slot in mask]
    keep[torch.tensor(gone, dtype=torch.int64).view(-1, 3).unbind(1)] = False
    masked = _masked(sets, keep)
    entities = torch.full((groups,), entity, dtype=torch.int32, device=state.device)
    pairs = state.scorer.pairs(state.groups(query, masked), torch.arange(groups + 1), entities)
    return state.scorer.logits(pairs).cpu()


def explain(query: Query, item: int, *, top: int, hops: bool = False) -> Explanation:
    """Explain an item by its reasons.

    Args:
        query: a user or a history.
        item: the item's number.
        top: reasons, at most.
        hops: whether the whole ripple set is wanted, too.
    """
    state, batch = query.state, query.batch()
    entity = int(state.catalogue[item])
    sets = state.ripple_sets(batch)
    logit, paths = paths_of(state, batch, sets, entity)
    shown = [path for path in paths[:top] if path.effect > 0]
    tree = _Tree(state, batch, paths)
    reasons = tuple(tree.reason(path, entity) for path in shown)
    without_paths, without_shown = (
        masked_logits(state, batch, sets, entity, [slots_of(paths), slots_of(shown)]).tolist()
        if paths
        else (logit, logit)
    )
    told = tell(state, batch, entity, logit, without_paths, len(paths))
    parts = () if told is None else told.parts(top)
    base, covered = (without_paths, logit - without_shown) if state.model.ripple else (None, None)
    if told is not None:
        base, covered = told.base, sum(part.effect for part in parts)
    notes: tuple[str, ...] = ()
    if told is not None and not told.shares:
        notes = ("nothing that was learned speaks for the item or against it",)
    if not state.model.ripple and told is None:
        notes = (f"model {state.model.name} does not look at paths of the graph",)
    elif state.model.ripple and not state.graph.num_triples:
        # The parts are told all the same; without them nothing is, and this says why.
        if told is None:
            notes = ("there is no graph, by whose paths the item could be explained",)
    elif state.model.ripple and not paths:
        notes += ("no path of the graph leads away from the history",)
    elif state.model.ripple and not reasons:
        notes += (f"none of the {len(paths)} paths speaks for the item",)
    user, history = query.subject
    return Explanation(
        user=user,
        history=history,
        item=node_of(state, entity),
        score=float(torch.sigmoid(torch.tensor(logit))),
        logit=logit,
        reasons=reasons,
        paths=len(paths),
        notes=notes,
        hops=tree.hops(paths, sets.heads.shape[1]) if hops else None,
        base=base,
        covered=covered,
        parts=parts,
        all_parts=0 if told is None else len(told.shares),
        signals={} if told is None else told.signals,
    )


def tell(
    state: State,
    query: QueryBatch,
    entity: int,
    logit: float,
    without_paths: float,
    paths: int,
) -> Telling | None:
    """Tell the logit of an item as a sum; None for a model without a wide part.

    Args:
        state: the recommender's state.
        query: one user or history.
        entity: the item's entity.
        logit: as the model scores the pair.
        without_paths: the same without any path.
        paths: how many there are.
    """
    shares = state.scorer.model.shares(query.entities, entity)
    return None if shares is None else Telling(state, shares, logit, without_paths, paths)


def slots_of(paths: Sequence[RipplePath]) -> list[tuple[int, int]]:
    """Slots (hop, slot) of some paths' last triples."""
    return [(path.hop, slot) for path in paths for slot in path.slots]


def _triples(sets: RippleSets) -> dict[tuple[int, int, int, int], tuple[int, ...]]:
    """Distinct triples (hop, head, relation, tail) of one user's sets, and their slots."""
    found: dict[tuple[int, int, int, int], tuple[int, ...]] = {}
    heads, relations, tails = (x[0].tolist() for x in (sets.heads, sets.relations, sets.tails))
    for hop, count in enumerate(sets.counts[0].tolist()):
        for slot in range(count):
            key = (hop, heads[hop][slot], relations[hop][slot], tails[hop][slot])
            found[key] = (*found.get(key, ()), slot)
    return found


def _masked(sets: RippleSets, keep: Tensor) -> RippleSets:
    """Copies of one user's sets, for each of [G, H, M] with the kept slots moved to the front."""
    slots = torch.arange(keep.shape[2])
    keep = keep & (slots < sets.counts.unsqueeze(-1))
    order = (~keep).to(torch.uint8).argsort(dim=2, stable=True)
    counts = keep.sum(2, dtype=torch.int32)
    left = slots < counts.unsqueeze(-1)
    heads, relations, tails = (
        x.expand(keep.shape).gather(2, order) * left
        for x in (sets.heads, sets.relations, sets.tails)
    )
    return RippleSets(heads, relations, tails, counts)


def _attention(
    state: State, query: QueryBatch, sets: RippleSets, entity: int
) -> list[list[float]] | None:
    """Attention of an item over the slots, by hop; None where the model has none."""
    entities = torch.tensor([entity], dtype=torch.int32, device=state.device)
    scorer = state.scorer
    pairs = scorer.pairs(state.groups(query, sets), torch.tensor([0, 1]), entities)
    with torch.no_grad():
        found = scorer.model.attention(scorer.backend, scorer.tables, pairs)
    if found is None:
        return None
    weights: list[list[float]] = found[0].tolist()
    return weights


class _Tree:
    """Tree of paths that leads back to the history."""

    def __init__(self, state: State, query: QueryBatch, paths: Sequence[RipplePath]) -> None:
        self.state = state
        self.history = set(query.entities.tolist())
        self.ends: dict[tuple[int, int], RipplePath] = {}  # the best path to a tail, by hop
        for path in paths:
            key = (path.hop, path.tail)
            best = self.ends.get(key)
            if best is None or (path.attention or 0.0) > (best.attention or 0.0):
                self.ends[key] = path

    def reason(self, path: RipplePath, entity: int) -> Reason:
        """Reason for an item, from a path."""
        chain = [path]
        while chain[0].hop > 0 and chain[0].head not in self.history:
            chain.insert(0, self.before(chain[0]))
        steps = tuple(self.step(p.head, p.relation, p.tail, p.attention) for p in chain)
        if path.tail == entity:
            return Reason(steps, "is", None, path.effect)
        relation = self.link(path.tail, entity)
        if relation is None:
            return Reason(steps, "alike", None, path.effect)
        link = self.step(path.tail, relation[0], entity, None, backwards=relation[1])
        return Reason(steps, "linked", link, path.effect)

    def hops(self, paths: Sequence[RipplePath], count: int) -> tuple[tuple[RippleTriple, ...], ...]:
        """Triples by hop, in the order of the paths that they end."""
        found: list[list[RippleTriple]] = [[] for _ in range(count)]
        for path in paths:
            step = self.step(path.head, path.relation, path.tail, path.attention)
            found[path.hop].append(
                RippleTriple(
                    step.start, step.relation, step.end, step.backwards, step.attention, path.effect
                )
            )
        return tuple(map(tuple, found))

    def before(self, path: RipplePath) -> RipplePath:
        """Path that reaches the head of another; a hop may be a copy of the one before it."""
        hops = range(path.hop - 1, -1, -1)
        return next(self.ends[p, path.head] for p in hops if (p, path.head) in self.ends)

    def step(
        self,
        start: int,
        relation: int,
        end: int,
        attention: float | None,
        backwards: bool = False,
    ) -> Step:
        """Step of a triple as it is walked; inverse relations are those of the graph, backwards."""
        names = self.state.relations
        if relation >= len(names):
            relation, backwards = relation - len(names), not backwards
        nodes = node_of(self.state, start), node_of(self.state, end)
        return Step(nodes[0], names.shown(relation), nodes[1], backwards, attention)

    def link(self, start: int, end: int) -> tuple[int, bool] | None:
        """Relation of a triple that joins two entities, and whether it points back."""
        for head, tail, backwards in ((start, end, False), (end, start, True)):
            found = self.state.graph.relations_between(head, tail)
            if found:
                return found[0], backwards
        return None

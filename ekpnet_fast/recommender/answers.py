"""Answers of a recommender: lists of items, and the reasons for one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

from ekpnet_fast.recommender.drawing import svg_of
from ekpnet_fast.recommender.names import Id
from ekpnet_fast.recommender.paths import Node, Reason, RippleTriple, with_lists

__all__ = [
    "Explanation",
    "Fidelity",
    "Recall",
    "Recommendation",
    "Recommendations",
    "SimilarItem",
]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Item of a recommendation list.

    Attributes:
        item: its id.
        name: its name, None where the data set has none.
        score: the predicted probability of a click, between 0 and 1.
    """

    item: Id
    name: str | None
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Values as JSON has them."""
        return {"item": self.item, "name": self.name, "score": self.score}


@dataclass(frozen=True, slots=True)
class SimilarItem:
    """Item like another one.

    Attributes:
        item: its id.
        name: its name, None where the data set has none.
        similarity: cosine of the two items' vectors, between -1 and 1.
    """

    item: Id
    name: str | None
    similarity: float

    def to_dict(self) -> dict[str, Any]:
        """Values as JSON has them."""
        return {"item": self.item, "name": self.name, "similarity": self.similarity}


@dataclass(frozen=True, slots=True)
class Recommendations(Sequence[Recommendation]):
    """List of the best items for a user or a history, best first, each a `Recommendation`.

    Attributes:
        user: the user; None where a history was given.
        history: the items that were given; None where a user was.
        items: the list, shorter than k where no more items are left.
        notes: remarks, such as that the graph has no triple of the history.
    """

    user: Id | None
    history: tuple[Id, ...] | None
    items: tuple[Recommendation, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of items."""
        return len(self.items)

    def __iter__(self) -> Iterator[Recommendation]:
        """Iterate over the items, best first."""
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> Recommendation: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Recommendation, ...]: ...
    def __getitem__(self, index: int | slice) -> Recommendation | tuple[Recommendation, ...]:
        """Item by rank from 0."""
        return self.items[index]

    def to_dict(self) -> dict[str, Any]:
        """Values as JSON has them."""
        return {
            "user": self.user,
            "history": None if self.history is None else list(self.history),
            "items": [item.to_dict() for item in self.items],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """Explanation of a recommended item, or of any item's score.

    Attributes:
        user, history: as in `Recommendations`.
        item: the item.
        score: the predicted probability of a click.
        logit: the same before the sigmoid; effects are differences of it.
        reasons: paths by falling effect, those that speak for the item only.
        paths: how many there are, those that speak against it too.
        notes: remarks.
        hops: the whole ripple set if requested, by hop and falling effect; else None.
    """

    user: Id | None
    history: tuple[Id, ...] | None
    item: Node
    score: float
    logit: float
    reasons: tuple[Reason, ...]
    paths: int
    notes: tuple[str, ...] = ()
    hops: tuple[tuple[RippleTriple, ...], ...] | None = None

    @property
    def subject(self) -> str:
        """User or history that it is for, in words."""
        if self.history is None:
            return f"user {self.user}"
        some = ", ".join(map(str, self.history[:5]))
        return f"history {some}{', ...' if len(self.history) > 5 else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Values as JSON has them; `hops` only if requested."""
        found: dict[str, Any] = with_lists(asdict(self))
        if self.hops is None:
            del found["hops"]
        return found

    def to_json(self, indent: int | None = 2) -> str:
        """Text in JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def to_text(self) -> str:
        """Text for people."""
        lines = [f"{self.item} ({self.item.id}) for {self.subject}: {self.score:.4f}"]
        for rank, reason in enumerate(self.reasons, 1):
            weights = [step.attention for step in reason.steps]
            shown = ", ".join("-" if w is None else f"{w:.3f}" for w in weights)
            path = str(reason).replace("{item}", str(self.item))
            lines.append(f"{rank:3}. {path}")
            lines.append(f"     effect {reason.effect:+.4f}, attention by hop {shown}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def to_svg(self) -> str:
        """Drawing of the paths, a column per hop."""
        about = f"score {self.score:.4f}; {len(self.reasons)} of {self.paths} paths"
        return svg_of(
            self.reasons,
            self.item,
            title=f"{self.item} for {self.subject}",
            about="; ".join((about, *self.notes)),
            description=self.to_text(),
        )


@dataclass(frozen=True, slots=True)
class Recall:
    """Recall of lists by candidates: the share of the exact lists' items that they hold.

    Attributes:
        mean: over the users, between 0 and 1.
        lowest: of a user.
        users: that were measured.
        k: length of the lists.
        candidates: items that got exact scores, besides the representatives.
        representatives: of the index, which got them too.
        items: of the catalogue.
        seconds: for a list by candidates, the median.
        exact_seconds: for an exact list, the median.
    """

    mean: float
    lowest: float
    users: int
    k: int
    candidates: int
    representatives: int
    items: int
    seconds: float
    exact_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Values as JSON has them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Fidelity of reasons: whether the scores rest on them.

    Of recommended items, the mean fall of the logit where some paths' last triples are masked.

    Attributes:
        pairs: users and items that were measured.
        masked: paths that are masked at once, at most.
        top: fall without the first reasons.
        attention: fall without the paths of most attention, whatever their effect; None where the
            model has none.
        random: fall without as many random paths, mean over several draws.
        larger: share of the pairs where `top` is above `random`.
    """

    pairs: int
    masked: int
    top: float
    attention: float | None
    random: float
    larger: float

    def to_dict(self) -> dict[str, Any]:
        """Values as JSON has them."""
        return asdict(self)

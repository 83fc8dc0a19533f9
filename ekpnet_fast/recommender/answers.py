"""Answers of a recommender: lists of items, and the reasons for one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, overload

from ekpnet_fast.errors import visible
from ekpnet_fast.recommender.drawing import svg_of
from ekpnet_fast.recommender.names import Id
from ekpnet_fast.recommender.parts import Part
from ekpnet_fast.recommender.paths import Node, Reason, RippleTriple, with_lists

__all__ = [
    "Change",
    "Explanation",
    "Fidelity",
    "Recall",
    "Recommendation",
    "Recommendations",
    "SimilarItem",
]


@dataclass(frozen=True, slots=True)
class Change:
    """What a change did, and what it left.

    Attributes:
        users, clicks, items, entities: that were added.
        triples: that were added or removed.
        as_fitted: what stays as it was fitted until `Recommender.refresh`, in words.
    """

    users: int = 0
    clicks: int = 0
    items: int = 0
    entities: int = 0
    triples: int = 0
    as_fitted: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Values as JSON has them."""
        values: dict[str, Any] = with_lists(asdict(self))
        return values


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
        base: the logit that reasons come on top of: without any path; of a model with a wide part
            that of an item that nobody clicked and that shares nothing. None where there is none.
        covered: how much of `logit` - `base` the reasons that are shown make up: the parts, or
            where there are none the paths, masked together. None without a base.
        parts: the logit's largest parts, of a model with a wide part; others have none.
        all_parts: how many there are.
        signals: what each signal adds to the base, by name; they add up to the logit.
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
    base: float | None = None
    covered: float | None = None
    parts: tuple[Part, ...] = ()
    all_parts: int = 0
    signals: Mapping[str, float] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """User or history that it is for, in words."""
        if self.history is None:
            return f"user {self.user}"
        some = ", ".join(map(str, self.history[:5]))
        return f"history {some}{', ...' if len(self.history) > 5 else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Values as JSON has them, with `rest`; `hops` only if requested."""
        found: dict[str, Any] = {**with_lists(asdict(self)), "rest": self.rest}
        if self.hops is None:
            del found["hops"]
        return found

    def to_json(self, indent: int | None = 2) -> str:
        """Text in JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    @property
    def rest(self) -> float | None:
        """What is left of the logit above the base beside what is covered; None without a base."""
        if self.base is None or self.covered is None:
            return None
        return self.logit - self.base - self.covered

    @property
    def sum_in_words(self) -> str | None:
        """How much of the logit the reasons make up, on a line; None without a base."""
        if self.base is None or self.covered is None or self.rest is None:
            return None
        above = self.logit - self.base
        share = f" ({100 * self.covered / above:.0f} %)" if above > 0 else ""
        of_parts = bool(self.signals)
        of_base = "of any item" if of_parts else "without paths"
        others = self.all_parts - len(self.parts) if of_parts else self.paths - len(self.reasons)
        more = f", {self.rest:+.4f} by {others:,} more" if others else ""
        these = f", {self.covered:+.4f} by these{share}" if self.parts or self.reasons else ""
        return f"logit {self.logit:+.4f} = {self.base:+.4f} {of_base}{these}{more}"

    def to_text(self) -> str:
        """Text for people."""
        name, known = str(self.item), str(self.item.id)
        shown = name if name == known else f"{name} ({known})"
        lines = [visible(f"{shown} for {self.subject}: {self.score:.4f}")]
        for rank, part in enumerate(self.parts, 1):
            lines.append(visible(f"{rank:3}. {part.effect:+.4f} {part.text}"))
        if self.signals and self.sum_in_words is not None:
            lines.append(f"     {self.sum_in_words}")
        if self.signals and self.reasons:
            lines.append("paths of the graph, by what the logit would lose without each:")
        for rank, reason in enumerate(self.reasons, 1):
            weights = [step.attention for step in reason.steps]
            shown = ", ".join("-" if w is None else f"{w:.3f}" for w in weights)
            path = str(reason)
            if reason.link is None and reason.match != "is":
                path = path.removesuffix("{item}") + str(self.item)
            lines.append(f"{rank:3}. {visible(path)}")
            lines.append(f"     effect {reason.effect:+.4f}, attention by hop {shown}")
        if not self.signals and self.reasons and self.sum_in_words is not None:
            lines.append(f"     {self.sum_in_words}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def to_svg(self) -> str:
        """Drawing of the parts as bars, and of the paths, a column per hop."""
        about = f"score {self.score:.4f}; {len(self.reasons)} of {self.paths} paths"
        if self.signals:
            about = f"score {self.score:.4f}; {self.sum_in_words}"
        return svg_of(
            self.reasons,
            self.item,
            parts=self.parts,
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

    Of recommended items, the mean fall of the logit where some reasons are masked: paths' last
    triples, or with a wide part what the parts of the logit name.

    Attributes:
        pairs: users and items that were measured.
        masked: reasons that are masked at once, at most.
        top: fall without the first reasons.
        attention: fall without the paths of most attention, whatever their effect; None where the
            model has none, or parts.
        random: fall without as many random reasons, mean over several draws.
        larger: share of the pairs where `top` is above `random`.
        said: sum of the first reasons' effects, each of which is told alone.
        covered: share of the logits above their base that the first reasons cover, all pairs
            together; None where there is nothing above it.
    """

    pairs: int
    masked: int
    top: float
    attention: float | None
    random: float
    larger: float
    said: float
    covered: float | None

    def to_dict(self) -> dict[str, Any]:
        """Values as JSON has them."""
        return asdict(self)

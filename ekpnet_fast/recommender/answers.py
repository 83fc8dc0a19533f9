"""What a recommender answers: lists of items, and the reasons for one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, overload

from ekpnet_fast.recommender.names import Id

__all__ = [
    "Explanation",
    "Fidelity",
    "Node",
    "Reason",
    "Recommendation",
    "Recommendations",
    "SimilarItem",
    "Step",
]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An item of a list.

    Attributes:
        item: its id.
        name: its name, None where the data set has none.
        score: the predicted probability of a click, between 0 and 1.
    """

    item: Id
    name: str | None
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"item": self.item, "name": self.name, "score": self.score}


@dataclass(frozen=True, slots=True)
class SimilarItem:
    """An item like another one.

    Attributes:
        item: its id.
        name: its name, None where the data set has none.
        similarity: cosine of the two items' vectors, between -1 and 1.
    """

    item: Id
    name: str | None
    similarity: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"item": self.item, "name": self.name, "similarity": self.similarity}


@dataclass(frozen=True, slots=True)
class Recommendations(Sequence[Recommendation]):
    """The best items for somebody, best first; a sequence of `Recommendation`.

    Attributes:
        user: whom they are for; None where a history was given.
        history: the items that were given; None where a user was.
        items: the list, shorter than asked for where no more items are left.
        notes: what the reader should know, such as that the graph says nothing about the history.
    """

    user: Id | None
    history: tuple[Id, ...] | None
    items: tuple[Recommendation, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many there are."""
        return len(self.items)

    def __iter__(self) -> Iterator[Recommendation]:
        """Best first."""
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> Recommendation: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Recommendation, ...]: ...
    def __getitem__(self, index: int | slice) -> Recommendation | tuple[Recommendation, ...]:
        """By rank from 0."""
        return self.items[index]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, such as for JSON."""
        return {
            "user": self.user,
            "history": None if self.history is None else list(self.history),
            "items": [item.to_dict() for item in self.items],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Node:
    """An entity on a path.

    Attributes:
        id: of an item the item's id, else the entity's.
        name: its name, None where the data set has none.
        kind: "item" or "entity".
    """

    id: Id
    name: str | None
    kind: Literal["item", "entity"]

    def __str__(self) -> str:
        """The name, or the id where there is none."""
        return self.name or str(self.id)


@dataclass(frozen=True, slots=True)
class Step:
    """A triple on a path, walked from `start` to `end`.

    Attributes:
        start, end: what it joins.
        relation: its relation.
        backwards: whether the graph has it as (end, relation, start).
        attention: the weight that the model gives it among the triples of its hop (eq. 10), which
            sum to 1; None where a model has no such weight.
    """

    start: Node
    relation: str
    end: Node
    backwards: bool
    attention: float | None

    def __str__(self) -> str:
        """The arrow, such as `-[starring]->`."""
        return f"<-[{self.relation}]-" if self.backwards else f"-[{self.relation}]->"


@dataclass(frozen=True, slots=True)
class Reason:
    """A path from an item of the history, and what it does for the recommended item.

    Attributes:
        steps: the path; its first start is an item of the history.
        match: how its end meets the recommended item: it "is" the item, it is "linked" to it by a
            triple, or the model finds them "alike".
        link: of a "linked" one, the triple that joins the end and the item.
        effect: by how much the logit of the item falls where the path's last triple is masked.
    """

    steps: tuple[Step, ...]
    match: Literal["is", "linked", "alike"]
    link: Step | None
    effect: float

    @property
    def attention(self) -> float | None:
        """The attention of the last triple among those of its hop."""
        return self.steps[-1].attention

    def __str__(self) -> str:
        """The path on one line."""
        path = str(self.steps[0].start)
        for step in self.steps:
            path += f" {step} {step.end}"
        if self.link is not None:
            return f"{path} {self.link} {self.link.end}"
        return path if self.match == "is" else f"{path} ~ {{item}}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an item is recommended, or how it scores.

    Attributes:
        user, history: whom it is for, as in `Recommendations`.
        item: the item.
        score: the predicted probability of a click.
        logit: the same before the sigmoid; effects are differences of it.
        reasons: paths by falling effect, those that speak for the item only.
        paths: how many there are, those that speak against it too.
        notes: what the reader should know.
    """

    user: Id | None
    history: tuple[Id, ...] | None
    item: Node
    score: float
    logit: float
    reasons: tuple[Reason, ...]
    paths: int
    notes: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """Whom it is for, in words."""
        if self.history is None:
            return f"user {self.user}"
        some = ", ".join(map(str, self.history[:5]))
        return f"history {some}{', ...' if len(self.history) > 5 else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, such as for JSON."""
        found: dict[str, Any] = _plain(asdict(self))
        return found

    def to_json(self, indent: int | None = 2) -> str:
        """JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def to_text(self) -> str:
        """Lines for people."""
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
        """A drawing of the paths, a column per hop."""
        from ekpnet_fast.recommender.drawing import svg_of

        return svg_of(self)


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Whether the reasons given are what the scores rest on.

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
        """Plain values."""
        return asdict(self)


def _plain(value: Any) -> Any:
    """Lists for tuples, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value

"""Paths of the graph, from an item of a history to a recommended one, in the user's own ids."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ekpnet_fast.recommender.names import Id

__all__ = ["Node", "Reason", "RippleTriple", "Step"]


@dataclass(frozen=True, slots=True)
class Node:
    """Node of a path: an entity.

    Attributes:
        id: of an item the item's id, else the entity's.
        name: its name, None where the data set has none.
        kind: "item" or "entity".
    """

    id: Id
    name: str | None
    kind: Literal["item", "entity"]

    def __str__(self) -> str:
        """Name, or the id where there is none."""
        return self.name or str(self.id)


@dataclass(frozen=True, slots=True)
class Step:
    """Step of a path: a triple, walked from `start` to `end`.

    Attributes:
        start, end: the entities that it joins.
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
        """Arrow such as `-[starring]->`."""
        return f"<-[{self.relation}]-" if self.backwards else f"-[{self.relation}]->"


@dataclass(frozen=True, slots=True)
class RippleTriple(Step):
    """Triple of the ripple set, as it is walked, whether it speaks for the item or against it.

    Attributes:
        start, relation, end, backwards, attention: as of a step.
        effect: by how much the logit of the item falls where the triple is masked.
    """

    effect: float


@dataclass(frozen=True, slots=True)
class Reason:
    """Reason: a path from an item of the history, and its effect on the recommended item.

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
        """Attention of the last triple among those of its hop."""
        return self.steps[-1].attention

    def __str__(self) -> str:
        """Path on one line."""
        path = str(self.steps[0].start)
        for step in self.steps:
            path += f" {step} {step.end}"
        if self.link is not None:
            return f"{path} {self.link} {self.link.end}"
        return path if self.match == "is" else f"{path} ~ {{item}}"

    def to_dict(self) -> dict[str, Any]:
        """Values as JSON has them."""
        found: dict[str, Any] = with_lists(asdict(self))
        return found


def with_lists(value: Any) -> Any:
    """Copy of a value with lists for tuples, as JSON has them."""
    if isinstance(value, dict):
        return {key: with_lists(item) for key, item in value.items()}
    return [with_lists(item) for item in value] if isinstance(value, list | tuple) else value

"""Parts of a logit: what each signal and each item of the history adds to it, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from ekpnet_fast.recommender.paths import Node, with_lists

__all__ = ["Fact", "Part", "PartKind", "distinct", "facts_in_words", "relation_in_words"]

NAMED = 3  # facts of a part that its text names

PartKind: TypeAlias = Literal[
    "popularity", "neighbours", "clicks", "joint", "walk", "taste", "match", "paths", "item"
]
"""What a part follows from: the item's clicks; those of its neighbours in the graph; who clicked
both it and an item of the history; clicks and graph at once; what it shares with what is clicked
with items like that; how well its facts go with those of that, by what was clicked; what it shares
with that itself; EKPNet's paths; EKPNet's vector of the item.
"""


@dataclass(frozen=True, slots=True)
class Fact:
    """Fact about the item that a part rests on: a triple of the graph.

    Attributes:
        relation: its relation.
        end: the entity that it joins with the item.
        backwards: whether the graph has it as (end, relation, item).
        effect: its share of the part's effect.
    """

    relation: str
    end: Node
    backwards: bool
    effect: float

    def __str__(self) -> str:
        """Words such as `director John Lasseter`, or `relation 3 to 1441` where it has no name."""
        known = not self.relation.isdecimal()
        relation = relation_in_words(self.relation) if known else f"relation {self.relation}"
        if self.backwards:
            return f"{self.end} ({relation})"
        return f"{relation} {self.end}" if known else f"{relation} to {self.end}"


@dataclass(frozen=True, slots=True)
class Part:
    """Part of a logit; all parts and the base add up to it.

    Attributes:
        kind: what it follows from.
        because: the item of the history; None where it follows from the item alone or from paths.
        text: the part in words.
        effect: how much it adds; below 0 it speaks against the item.
        signals: the same by the name of the signal.
        shared: facts that a part of the graph rests on, largest first; of "taste" those that
            speak as the part does.
    """

    kind: PartKind
    because: Node | None
    text: str
    effect: float
    signals: Mapping[str, float]
    shared: tuple[Fact, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Values as JSON has them."""
        found: dict[str, Any] = with_lists(asdict(self))
        return found


def relation_in_words(relation: str) -> str:
    """Relation as people say it: `film.film.directed_by` as `directed by`.

    What has blanks is words already, and what ends in a number (`attribute.1`, `v1.0`) no path of
    names. The page does the same, in `relationWords`.
    """
    last = re.split("[./#]", relation)[-1].replace("_", " ").strip()
    named = any(map(str.isalpha, last)) and not last[0].isdecimal()
    return last if named and not re.search(r"\s", relation) else relation


def distinct(facts: Sequence[Fact]) -> list[str]:
    """Words of facts, each once."""
    return list(dict.fromkeys(map(str, facts)))


def facts_in_words(facts: Sequence[Fact]) -> str:
    """List of the largest facts, such as `director John Lasseter, genre comedy and 2 more`."""
    words = distinct(facts)
    named, more = words[:NAMED], len(words) - NAMED
    if more > 0:
        named.append(f"{more} more")
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)

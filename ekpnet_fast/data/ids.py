"""Ids of users, items, entities and relations: in files, as numbers, as display names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ekpnet_fast.data.tables import Dataset, Int32
from ekpnet_fast.errors import DataError, quote

__all__ = ["IdMaps", "Ids", "id_maps"]


@dataclass(frozen=True, eq=False)
class Ids:
    """Users, items, entities or relations of a data set, by number.

    Attributes:
        kind: "user", "item", "entity" or "relation".
        ids: [n] ids as in the files; "" where there is none (an item without an entity).
        names: [n] display names, "" where there is none; None where the files have no names.
    """

    kind: str
    ids: tuple[str, ...]
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """Number of ids."""
        return len(self.ids)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.ids) if name}

    def __contains__(self, name: object) -> bool:
        """Whether the id is known."""
        return name in self._numbers

    def find(self, name: str) -> int | None:
        """Number of an id, None where the id is not known."""
        return self._numbers.get(name)

    def number(self, name: str) -> int:
        """Number of an id.

        Raises:
            DataError: no such id; names those that come close.
        """
        found = self._numbers.get(name)
        if found is None:
            close = difflib.get_close_matches(name, self.ids[:100_000], n=3)
            shown = ", ".join(map(quote, close or [key for key in self.ids[:20] if key][:3]))
            raise DataError(
                f"{self.kind}: found {quote(name)}, expected one of {len(self._numbers):,} ids"
                f" such as {shown}"
            )
        return found

    def numbers(self, names: Iterable[str]) -> Int32:
        """Numbers [n] int32 of several ids; raises like :meth:`number`."""
        return np.array([self.number(name) for name in names], dtype=np.int32)

    def name(self, number: int) -> str:
        """Display name, or the id where there is none."""
        return (self.names[number] if self.names is not None else "") or self.ids[number]


@dataclass(frozen=True, slots=True)
class IdMaps:
    """Ids of a data set, by kind."""

    users: Ids
    items: Ids
    entities: Ids
    relations: Ids


def id_maps(dataset: Dataset) -> IdMaps:
    """Ids of a data set; where its files hold numbers only, these are the ids."""

    def ids(
        kind: str, count: int, found: tuple[str, ...] | None, names: tuple[str, ...] | None
    ) -> Ids:
        return Ids(kind, found if found is not None else tuple(map(str, range(count))), names)

    relation_ids = dataset.relation_ids or dataset.relation_names
    return IdMaps(
        ids("user", dataset.num_users, dataset.user_ids, dataset.user_names),
        ids("item", dataset.num_items, dataset.item_ids, dataset.item_names),
        ids("entity", dataset.num_entities, dataset.entity_ids, dataset.entity_names),
        ids("relation", dataset.num_relations, relation_ids, dataset.relation_names),
    )

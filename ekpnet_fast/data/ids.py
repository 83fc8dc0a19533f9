"""Ids of users, items, entities and relations: in files, as numbers, as display names."""

from __future__ import annotations

import re
from array import array
from bisect import bisect, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote

import numpy as np

from ekpnet_fast.data.tables import Dataset, Int32
from ekpnet_fast.errors import DataError, quote

__all__ = ["IdMaps", "Ids", "id_maps", "label_of"]

_NEIGHBORS = 8  # ids that are looked at on each side of an unknown one, in each of two orders
_COMPARED = 64  # characters of an id that are
_ALIKE = 0.6  # share of characters in common from which an id comes close
_STEPS = (1, -1)  # texts are ordered as they read forwards, and as they read backwards
_IRI = re.compile(r"<?[A-Za-z][A-Za-z0-9+.-]*://(?P<host>[^/]*)/(?P<path>[^>]*)>?")
_DBPEDIA = re.compile(r"(?:[a-z0-9-]+\.)*dbpedia\.org", re.IGNORECASE)
_OF_DBPEDIA = re.compile(r"(?:resource|ontology|property)/(?=.)")


@dataclass(frozen=True, eq=False)
class Ids:
    """Users, items, entities or relations of a data set, by number.

    Attributes:
        kind: "user", "item", "entity" or "relation".
        ids: [n] ids as in the files; "" where there is none (an item without an entity).
        names: [n] display names, "" where there is none; None where the files have no names.
    """

    kind: str
    ids: Sequence[str]
    names: Sequence[str] | None = None

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
            raise DataError(
                f"{self.kind}: found {quote(name)}, expected one of {len(self._numbers):,} ids"
                f" such as {self.such_as(name)}"
            )
        return found

    def numbers(self, names: Iterable[str]) -> Int32:
        """Numbers [n] int32 of several ids; raises like :meth:`number`."""
        return np.array([self.number(name) for name in names], dtype=np.int32)

    def such_as(self, text: str) -> str:
        """Ids that a text which is none may stand for, in words: the close ones, or the first."""
        some = self.close(text) or [name for name in self.ids[:20] if name][:3]
        return ", ".join(map(quote, some))

    def close(self, text: str, most: int = 3) -> list[str]:
        """Ids that come close to a text, which need not be one, the closest first.

        These are ids that begin as the text does and end as it does, so that one wrong, missing or
        added character is found anywhere. Only neighbours in the orders of `prepare` are compared:
        it takes as long for a million ids as for a hundred.
        """
        text = text[:_COMPARED]
        near: set[int] = set()
        for order, step in zip(self._orders, _STEPS, strict=True):
            place = bisect(order, text[::step], key=self._reader(step))
            near.update(order[max(0, place - _NEIGHBORS) : place + _NEIGHBORS])
        alike = ((_alike(text, self.ids[i][:_COMPARED]), -i) for i in near)
        best = sorted((found for found in alike if found[0] >= _ALIKE), reverse=True)
        return [self.ids[-i] for _, i in best[:most]]

    def prepare(self) -> None:
        """Make what `find` and `close` look in, which otherwise the first call makes."""
        self._numbers  # noqa: B018 - kept from here on
        self._orders  # noqa: B018

    def with_more(self, ids: Iterable[str], names: Sequence[str] | None) -> Ids:
        """Copy with ids behind these, and with other names.

        Args:
            ids: the new ones.
            names: of the old and the new ones.
        """
        new = Ids(self.kind, (*self.ids, *ids), names)
        if "_numbers" in vars(self):
            more = zip(new.ids[len(self) :], range(len(self), len(new)), strict=True)
            vars(new)["_numbers"] = {**self._numbers, **{name: at for name, at in more if name}}
        if "_orders" in vars(self):
            vars(new)["_orders"] = orders = tuple(order[:] for order in self._orders)
            for order, step in zip(orders, _STEPS, strict=True):
                for number in range(len(self), len(new)):
                    insort(order, number, key=new._reader(step))
        return new

    @cached_property
    def _orders(self) -> tuple[array[int], ...]:
        """Numbers of the ids, by their texts forwards and backwards."""
        some = [number for number, name in enumerate(self.ids) if name]
        return tuple(array("i", sorted(some, key=self._reader(step))) for step in _STEPS)

    def _reader(self, step: int) -> Callable[[int], str]:
        return lambda number: self.ids[number][::step]

    def name(self, number: int) -> str:
        """Display name, or the id where there is none."""
        return (self.names[number] if self.names is not None else "") or self.ids[number]


def _alike(a: str, b: str) -> float:
    """Share of two texts that they have in common at their beginnings and ends."""
    start = _same(a, b)
    end = _same(a[start:][::-1], b[start:][::-1])
    return 2 * (start + end) / (len(a) + len(b))


def _same(a: str, b: str) -> int:
    """Number of characters that two texts begin with both."""
    differs = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differs, min(len(a), len(b)))


@dataclass(frozen=True, slots=True)
class IdMaps:
    """Ids of a data set, by kind."""

    users: Ids
    items: Ids
    entities: Ids
    relations: Ids


def label_of(text: str) -> str:
    """Part of an IRI that names what it stands for, "" where the text is none or has no such part.

    It is what follows "#", else the last part of the path; of DBpedia's all that follows
    ``resource/``, because its titles may hold slashes. Percent signs are decoded and underscores
    are blanks: ``http://dbpedia.org/resource/The_Matrix`` is "The Matrix". Blanks alone are none.
    """
    found = _IRI.fullmatch(text)
    if found is None:
        return ""
    path, mark, fragment = found["path"].rpartition("#")
    if not mark or not fragment:
        path = (path if mark else fragment).rstrip("/")
        start = _OF_DBPEDIA.match(path) if _DBPEDIA.fullmatch(found["host"]) else None
        fragment = path[start.end() :] if start else path.rpartition("/")[2]
    plain = " ".join(fragment.replace("_", " ").split())
    try:
        decoded = unquote(plain, errors="strict").strip()
    except UnicodeDecodeError:
        return plain
    return decoded if decoded.isprintable() else plain


def id_maps(dataset: Dataset) -> IdMaps:
    """Ids of a data set; where its files hold numbers only, these are the ids."""

    def ids(kind: str, count: int, found: Sequence[str] | None, names: Sequence[str] | None) -> Ids:
        return Ids(kind, found if found is not None else tuple(map(str, range(count))), names)

    relation_ids = dataset.relation_ids or dataset.relation_names
    return IdMaps(
        ids("user", dataset.num_users, dataset.user_ids, dataset.user_names),
        ids("item", dataset.num_items, dataset.item_ids, dataset.item_names),
        ids("entity", dataset.num_entities, dataset.entity_ids, dataset.entity_names),
        ids("relation", dataset.num_relations, relation_ids, dataset.relation_names),
    )

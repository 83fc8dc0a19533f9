"""Ids of the user's files, their numbers and names, in tables that can grow."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from ekpnet_fast.data.ids import Ids, label_of
from ekpnet_fast.errors import DataError, quote

Id: TypeAlias = str | int
"""An id of the user's own: text as in the files, or a number where the files hold numbers."""


_DIGITS = 4000  # of a number that Python writes out


def text_of(given: object) -> str:
    """Text of an id, of a number too long to be written out its hexadecimal form."""
    try:
        return str(given)
    except ValueError:
        return hex(operator.index(given))  # type: ignore[arg-type]


class Names:
    """Names of users, items, entities or relations by number. Immutable: `with_more` makes a copy.

    Ids that are numbers in the files are numbers here, and "7" is taken for 7; where the files have
    texts, 7 is taken for "7".

    Args:
        ids: the ids and names, all texts.
        numbered: whether the files hold the numbers themselves, so that the ids are these.
    """

    def __init__(self, ids: Ids, *, numbered: bool) -> None:
        self.ids = ids
        self.numbered = numbered

    def __len__(self) -> int:
        """Number of ids."""
        return len(self.ids)

    @property
    def kind(self) -> str:
        """Kind of the ids: "user", "item", "entity" or "relation"."""
        return self.ids.kind

    def find(self, given: object) -> int | None:
        """Find the number of an id, None where there is no such id.

        Raises:
            DataError: neither a text nor a whole number.
        """
        if isinstance(given, str):
            text = str(given)  # of NumPy's texts, too
        elif isinstance(given, bool) or not hasattr(given, "__index__"):
            raise DataError(
                f"{self.kind}: found {given!r} ({type(given).__name__}), expected an id: a text or"
                " a whole number"
            )
        else:
            number = operator.index(given)
            if (
                self.numbered
                and 0 <= number < len(self.ids)
                and self.ids.ids[number] == str(number)
            ):
                return number
            text = text_of(number)
        return self.ids.find(text)

    def number(self, given: object, argument: str = "") -> int:
        """Number of an id.

        Args:
            given: the id.
            argument: the caller's name of it; the kind without.

        Raises:
            DataError: no such id, or no id at all; says which come close.
        """
        found = self.find(given)
        if found is not None:
            return found
        place = argument if argument in ("", self.kind) else f"{argument}: {self.kind}"
        text = text_of(given)
        raise DataError(
            f"{place or self.kind}: found {quote(text)}, expected one of {len(self):,} ids such as"
            f" {self.ids.such_as(text)}"
        )

    def numbers(self, given: Iterable[object], argument: str = "") -> list[int]:
        """Numbers of some ids, in their order; raises as `number`."""
        find = self.ids.find
        return [
            # Lists may be long, so the usual types are looked up at once.
            number
            if type(each) in (str, int) and (number := find(text_of(each))) is not None
            else self.number(each, argument)
            for each in given
        ]

    def id(self, number: int) -> Id:
        """Id of a number."""
        text = self.ids.ids[number]
        # One that was added later may be a text among numbers, such as "007" beside 7.
        numeral = self.numbered and text.isdecimal() and len(text) <= _DIGITS
        return int(text) if numeral and str(int(text)) == text else text

    def given(self, number: int) -> str | None:
        """Name that the data set has, None where that is none, or an IRI."""
        name = self.ids.names[number] if self.ids.names is not None else ""
        return name if name and not label_of(name) else None

    def name(self, number: int) -> str | None:
        """Name for people: the data set's, else the part of an IRI that says one, else None."""
        return self.given(number) or label_of(self.ids.name(number)) or None

    def shown(self, number: int) -> str:
        """Name, or the id where there is none."""
        return self.name(number) or self.ids.ids[number]

    def with_more(self, ids: Iterable[Id], names: Mapping[Id, str] | None = None) -> Names:
        """Copy with new ids behind these."""
        new = [text_of(given) for given in ids]
        given_names = {text_of(key): value for key, value in (names or {}).items()}
        old = self.ids.names
        if old is None and given_names:
            old = ("",) * len(self)
        named = None if old is None else (*old, *(given_names.get(text, "") for text in new))
        return Names(self.ids.with_more(new, named), numbered=self.numbered)

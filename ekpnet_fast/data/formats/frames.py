"""Columns of a table in memory: texts, each distinct one held once, and numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.tables import Int32

__all__ = ["Frame", "Texts"]


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Column of texts.

    Attributes:
        codes: [n] position in ``distinct``, -1 where there is no text.
        distinct: the texts, none twice; there may be some that do not occur.
    """

    codes: Int32
    distinct: Sequence[str]

    @classmethod
    def of(cls, values: Iterable[str | None]) -> Texts:
        """Column of these texts, numbered by first appearance."""
        table: dict[str, int] = {}
        codes = [-1 if v is None else table.setdefault(v, len(table)) for v in values]
        return cls(np.array(codes, dtype=np.int32), list(table))

    @classmethod
    def of_numbers(cls, numbers: NDArray[Any]) -> Texts:
        """Column of whole numbers [n] as texts."""
        values, codes = np.unique(numbers, return_inverse=True)
        return cls(codes.astype(np.int32), [str(value) for value in values.tolist()])

    @classmethod
    def join(cls, columns: Sequence[Texts]) -> Texts:
        """Column of all texts of several, one after the other."""
        if len(columns) == 1:
            return columns[0]
        table: dict[str, int] = {}
        parts = [
            column.through([table.setdefault(text, len(table)) for text in column.distinct])
            for column in columns
        ]
        return cls(np.concatenate(parts), list(table))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.codes)

    def __getitem__(self, row: int) -> str | None:
        """Text of a row, None where there is none."""
        code = int(self.codes[row])
        return None if code < 0 else self.distinct[code]

    def to_list(self) -> list[str | None]:
        """Texts of all rows."""
        table = [*self.distinct, None]  # -1 is the last one
        return [table[code] for code in self.codes.tolist()]

    def take(self, index: NDArray[Any]) -> Texts:
        """Rows at ``index``: [k] positions, or an [n] boolean mask."""
        return Texts(self.codes[index], self.distinct)

    def map(self, change: Callable[[str], str]) -> Texts:
        """Column with every text changed."""
        table: dict[str, int] = {}
        codes = [table.setdefault(change(text), len(table)) for text in self.distinct]
        return Texts(self.through(codes), list(table))

    def through(self, numbers: Sequence[int] | NDArray[Any]) -> Int32:
        """Number [n] of each row, given those of the distinct texts; -1 where there is no text."""
        table = np.full(len(self.distinct) + 1, -1, dtype=np.int32)  # -1 is the last one
        table[:-1] = numbers
        return table[self.codes]

    def index_in(self, table: Mapping[str, int]) -> Int32:
        """Number [n] of each row's text in a table, -1 where it is not there."""
        return self.through([table.get(text, -1) for text in self.distinct])

    def order(self) -> Int32:
        """Codes that occur, in order of first appearance."""
        codes = self.codes
        first = np.full(len(self.distinct) + 1, len(codes), dtype=np.int64)
        # Written backwards, so that of several places the first one stays.
        first[codes[::-1]] = np.arange(len(codes))[::-1]
        first[-1] = len(codes)
        occurring = np.flatnonzero(first < len(codes))
        return occurring[np.argsort(first[occurring])].astype(np.int32)

    def seen(self) -> list[str]:
        """Distinct texts that occur, in order of first appearance."""
        return [self.distinct[code] for code in self.order().tolist()]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Table in memory.

    Attributes:
        texts: columns of texts by name.
        numbers: columns of numbers by name: [n] int32 or float64.
    """

    texts: dict[str, Texts]
    numbers: dict[str, NDArray[Any]]

    @classmethod
    def stack(cls, frames: Sequence[Frame]) -> Frame:
        """Rows of all frames, which have the same columns."""
        if len(frames) == 1:
            return frames[0]
        return cls(
            {name: Texts.join([f.texts[name] for f in frames]) for name in frames[0].texts},
            {name: np.concatenate([f.numbers[name] for f in frames]) for name in frames[0].numbers},
        )

    def __len__(self) -> int:
        """Number of rows."""
        return next((len(column) for d in (self.texts, self.numbers) for column in d.values()), 0)

    def __contains__(self, name: str) -> bool:
        """Whether there is such a column."""
        return name in self.texts or name in self.numbers

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, texts first."""
        return (*self.texts, *self.numbers)

    def named(self, names: Mapping[str, str]) -> Frame:
        """Those columns that have a new name, under it."""
        return Frame(
            {names[name]: column for name, column in self.texts.items() if name in names},
            {names[name]: column for name, column in self.numbers.items() if name in names},
        )

    def take(self, index: NDArray[Any]) -> Frame:
        """Rows at ``index``: [k] positions, or an [n] boolean mask."""
        return Frame(
            {name: column.take(index) for name, column in self.texts.items()},
            {name: column[index] for name, column in self.numbers.items()},
        )

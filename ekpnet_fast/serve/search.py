"""Search for users and items by a part of their name, or by their id."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.serve.schemas import Match, Matches


class Index:
    """Index of ids and names in the order of their clicks, folded for comparing.

    Args:
        ids: [n], as answers give them.
        names: [n], None where there is none.
        clicks: [n].
    """

    def __init__(
        self,
        ids: Sequence[int | str],
        names: Sequence[str | None],
        clicks: NDArray[np.integer],
    ) -> None:
        order = np.argsort(-clicks.astype(np.int64), kind="stable").tolist()
        self._matches = [Match(id=ids[i], name=names[i], clicks=int(clicks[i])) for i in order]
        self._ids = [fold(str(ids[i])) for i in order]
        self._names = [fold(names[i] or str(ids[i])) for i in order]

    def __len__(self) -> int:
        """Number of ids."""
        return len(self._matches)

    def find(self, query: str, skip: int, limit: int) -> Matches:
        """Find matches of a query: first by id, then by the start of the name, then by its words.

        Every word of the query must occur in the name, or the query be the id; the id is the name
        where there is none. Those that fit equally well are by falling clicks; without a query
        all are.
        """
        words = fold(query).split()
        if not words:
            return Matches(matches=self._matches[skip : skip + limit], total=len(self))
        text = " ".join(words)
        found: tuple[list[Match], ...] = ([], [], [])
        for match, known, name in zip(self._matches, self._ids, self._names, strict=True):
            if known == text:
                found[0].append(match)
            elif name.startswith(text):
                found[1].append(match)
            elif all(word in name for word in words):
                found[2].append(match)
        matches = [match for some in found for match in some]
        return Matches(matches=matches[skip : skip + limit], total=len(matches))


def fold(text: str) -> str:
    """Fold a text: without case and accents."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(part for part in parts if not unicodedata.combining(part)).casefold()

"""Ids and names in files of a data set, which are read when somebody asks for one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, overload

from ekpnet_fast.data.formats.parquet import read_texts
from ekpnet_fast.errors import DataError
from ekpnet_fast.storage.seals import check_files

__all__ = ["StoredTexts"]


class StoredTexts(Sequence[str]):
    """Texts of a column, by number; "" where there is none.

    A walk over all of them holds a block at a time; asking for one keeps all in memory.

    Args:
        manifest: the file that holds the seals, beside the file.
        seals: as they were when the data set was opened.
        file: name of the Parquet file.
        column: "id" or "name".
        count: rows that it has.
    """

    def __init__(
        self, manifest: Path, seals: Mapping[str, Any], file: str, column: str, count: int
    ) -> None:
        self._manifest, self._seals = manifest, dict(seals)
        self._file, self._column, self._count = file, column, count

    def __len__(self) -> int:
        """Number of texts, which is known without the file."""
        return self._count

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[str, ...]: ...
    def __getitem__(self, at: int | slice) -> str | tuple[str, ...]:
        """Text of a number; raises DataError where the file is damaged."""
        return self._texts[at]

    def __iter__(self) -> Iterator[str]:
        """Texts in turn; raises DataError where the file is damaged."""
        if "_texts" in vars(self):
            return iter(self._texts)
        return chain.from_iterable(self._blocks())

    def __eq__(self, other: object) -> bool:
        """Whether another sequence has the same texts."""
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        return tuple(chain.from_iterable(self._blocks()))

    def _blocks(self) -> Iterator[list[str]]:
        check_files(self._manifest, self._seals, [self._file])
        path, found = self._manifest.with_name(self._file), 0
        for block in read_texts(path, self._column, "what an import writes; import again"):
            found += len(block)
            yield block
        if found != self._count:
            expected = f"{self._count} as in {self._manifest.name}"
            raise DataError.about(path, None, f"{found} rows", expected)

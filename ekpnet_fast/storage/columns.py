"""Columns of numbers in NumPy's own format (.npy), written block by block and mapped when read.

A mapped column takes no time to open and no memory but that of pages, which the system shares
between processes and gives up when it needs them.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ekpnet_fast.errors import DataError, reason

__all__ = ["ColumnWriter", "map_column", "write_column"]

_HUGE_PAGE = 1 << 21  # bytes


class ColumnWriter:
    """Context that writes a column of known length, block by block.

    Args:
        path: the file, which is replaced.
        kind: type of the values.
        count: their number.
    """

    def __init__(self, path: Path, kind: DTypeLike, count: int) -> None:
        self.kind = np.dtype(kind).newbyteorder("<")
        self._left = count
        self._file = path.open("wb", buffering=_HUGE_PAGE)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": self.kind.str, "fortran_order": False, "shape": (count,)}
        )

    def add(self, values: NDArray[Any]) -> None:
        """Write the next values."""
        self._left -= len(values)
        data = np.ascontiguousarray(values, dtype=self.kind).view(np.uint8).data
        # Written by whole huge pages, because Linux keeps a file in pages that are no larger than
        # what was written at once, and maps it by such until it reads it from the disk again.
        first = min(-self._file.tell() % _HUGE_PAGE, len(data))
        last = len(data) - (len(data) - first) % _HUGE_PAGE
        for piece in (data[:first], data[first:last], data[last:]):
            self._file.write(piece)

    def __enter__(self) -> ColumnWriter:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Close the file; a column of another length than was said is a fault of the caller."""
        self._file.close()
        if error is None and self._left:
            raise ValueError(f"{self._left} values of a column were not written, or too many")


def write_column(path: Path, kind: DTypeLike, count: int, blocks: Iterable[NDArray[Any]]) -> None:
    """Write a column of blocks; raises OSError."""
    with ColumnWriter(path, kind, count) as column:
        for block in blocks:
            column.add(block)


def map_column(
    path: Path, kind: DTypeLike | None = None, *, scattered: bool = False
) -> NDArray[Any]:
    """Map a column; what is written into the array stays in the process.

    Args:
        path: the file.
        kind: type that it must have; any without.
        scattered: it is read here and there, not from end to end.

    Raises:
        DataError: no such file, or no column of this type.
    """
    expected = "a column" if kind is None else f"a column of {np.dtype(kind)}"
    try:
        # Not "r": torch warns of arrays that cannot be written to.
        values = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError.about(path, None, reason(error), f"{expected} in a .npy file") from None
    if values.ndim != 1 or (kind is not None and values.dtype != np.dtype(kind)):
        found = f"{list(values.shape)} of {values.dtype}"
        raise DataError.about(path, None, found, expected)
    if scattered and values.nbytes <= _memory() // 4:
        _advise_huge_pages(values)
    column: NDArray[Any] = values.view(np.ndarray)
    return column


def _memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _advise_huge_pages(values: NDArray[Any]) -> None:
    """Ask for pages of 2 MiB, because looking up small ones takes longer than to read from them.

    Files that do not fit beside others are left out: each read would bring a whole such page. The
    system may decline; then pages stay small and nothing else changes.
    """
    mapping = getattr(values, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            mapping.madvise(mmap.MADV_HUGEPAGE)

"""Columns of numbers, written block by block."""

from __future__ import annotations

import numpy as np
import pytest

from ekpnet_fast.storage import columns
from ekpnet_fast.storage.columns import ColumnWriter, map_column, write_column


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.int32, np.float64])
@pytest.mark.parametrize("lengths", [[], [0, 0], [1], [300, 1, 0, 7, 128, 129], [1000]])
def test_blocks_make_up_the_column(tmp_path, monkeypatch, kind, lengths):
    monkeypatch.setattr(columns, "_HUGE_PAGE", 128)
    values = np.random.default_rng(1).integers(0, 100, sum(lengths)).astype(kind)
    blocks = np.split(values, np.cumsum(lengths)[:-1]) if lengths else []
    write_column(tmp_path / "column.npy", kind, len(values), blocks)
    found = map_column(tmp_path / "column.npy", kind)
    assert found.dtype == kind and np.array_equal(found, values)


def test_files_are_written_by_whole_huge_pages(tmp_path, monkeypatch):
    """A huge page that two writes share would be kept in small ones."""
    monkeypatch.setattr(columns, "_HUGE_PAGE", 128)
    path, sizes = tmp_path / "column.npy", []
    with ColumnWriter(path, np.int32, 500) as writer:
        for length in (3, 200, 1, 296):
            writer.add(np.zeros(length, dtype=np.int32))
            sizes.append(path.stat().st_size)
    assert all(size % 128 == 0 for size in sizes) and sizes[-1] > 1900
    assert path.stat().st_size == 128 + 4 * 500


def test_another_length_than_was_said_is_a_fault(tmp_path):
    with pytest.raises(ValueError, match="1 values of a column were not written"):
        write_column(tmp_path / "column.npy", np.int8, 3, [np.zeros(2, dtype=np.int8)])

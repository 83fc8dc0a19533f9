"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets; skips where there is none."""
    named = os.environ.get("EKPNET_DATA")
    root = Path(named) if named else Path(__file__).parents[1].parent / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"no real data: {root} is no folder (set EKPNET_DATA)")
    return root


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's threads; afterwards there are as many as before."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)

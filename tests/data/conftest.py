"""Folders of real data, and small hand-made ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets; skips where there is none."""
    named = os.environ.get("EKPNET_DATA")
    root = Path(named) if named else Path(__file__).parents[2].parent / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"no real data: {root} is no folder (set EKPNET_DATA)")
    return root


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, str | bytes]], Path]:
    """Write files by relative name into a fresh folder and return the folder."""

    def write_files(files: dict[str, str | bytes]) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path

    return write_files

"""Programs that tests run, and the time limit of one that hangs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

# Seconds. An end for a program that hangs, not a mark: the machine may do other things too.
PATIENCE = 1800


def tool(*names: str) -> str:
    """Path of the first of the programs that there is; skips without any."""
    for name in names:
        # Beside this Python first: an environment need not be on PATH to be in use.
        found = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
        if found:
            return found
    pytest.skip(f"no {' or '.join(names)} here")

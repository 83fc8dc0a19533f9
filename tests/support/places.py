"""Places: the repository, the package under test, a module of tests by its file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import ekpnet_fast

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]  # the repository, whose package need not be the one under test
PACKAGE = Path(ekpnet_fast.__file__).parent


def module_of(path: str) -> ModuleType:
    """Module of tests, for a process of its own: pytest's names of them cannot be imported.

    Modules beside it can be imported by it, as under pytest.
    """
    sys.path.insert(0, str(Path(path).parent))
    spec = importlib.util.spec_from_file_location("module_under_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

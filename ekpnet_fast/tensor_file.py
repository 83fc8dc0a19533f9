"""Tensors with a few facts in one safetensors file, as graphs and models are stored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ekpnet_fast.errors import DataError

# One entry, because safetensors writes several in an order that differs from run to run, and the
# same content should be the same bytes.
_ENTRY = "ekpnet_fast"


def write(
    path: str | os.PathLike[str], kind: str, tensors: dict[str, Tensor], facts: dict[str, Any]
) -> None:
    """Write tensors and JSON-serialisable facts; `kind` says what the file holds."""
    entry = json.dumps({"kind": kind, **facts}, sort_keys=True)
    save_file(tensors, path, metadata={_ENTRY: entry})


def read(
    path: str | os.PathLike[str], kind: str, origin: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file; the tensors are mapped, so this takes milliseconds.

    Raises:
        DataError: the file is missing, damaged, or of another kind; says that one from `origin`
            was expected.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file, expected a {kind} written by {origin}")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
            if facts.get("kind") != kind:
                raise DataError(f"{path}: holds no {kind}, expected a file written by {origin}")
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a readable {kind} file ({error})") from error

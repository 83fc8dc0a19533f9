"""Tensors with a few facts in one safetensors file, as graphs and models are stored."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
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
    path: str | os.PathLike[str],
    kind: str,
    origin: str,
    *,
    tensors: Sequence[str] = (),
    facts: Sequence[str] = (),
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file; the tensors are mapped, so this takes milliseconds.

    Args:
        path, kind: what to read.
        origin: what writes such files, for messages.
        tensors, facts: names that must be there.

    Raises:
        DataError: the file is missing, damaged, incomplete, or of another kind.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file, expected a {kind} written by {origin}")
    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
            if not isinstance(found, dict) or found.get("kind") != kind:
                raise DataError(f"{path}: holds no {kind}, expected a file written by {origin}")
            names = set(file.keys())
            missing = [name for name in tensors if name not in names]
            missing += [name for name in facts if name not in found]
            if missing:
                raise DataError(f"{path}: has no {', '.join(missing)}, expected in a {kind} file")
            return {name: file.get_tensor(name) for name in names}, found
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a readable {kind} file ({error})") from error

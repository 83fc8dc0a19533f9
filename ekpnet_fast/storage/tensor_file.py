"""Tensors with a few facts in one safetensors file, as graphs and models are stored."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ekpnet_fast.errors import DataError, reason, told

# One entry, because safetensors writes several in an order that differs from run to run, and the
# same content should be the same bytes.
_ENTRY = "ekpnet_fast"


def write(
    path: str | os.PathLike[str], kind: str, tensors: dict[str, Tensor], facts: dict[str, Any]
) -> None:
    """Write tensors and JSON-serialisable facts, with a hash of both; `kind` says what they are."""
    content = {"kind": kind, **facts}
    entry = json.dumps({**content, "sha256": _hash(tensors, content)}, sort_keys=True)
    save_file(tensors, path, metadata={_ENTRY: entry})


def read(
    path: str | os.PathLike[str],
    kind: str,
    origin: str,
    *,
    tensors: Sequence[str] = (),
    facts: Sequence[str] = (),
    checked: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file; the tensors are mapped, so this takes milliseconds.

    Args:
        path, kind: what to read.
        origin: what writes such files, for messages.
        tensors, facts: names that must be there.
        checked: that the file is as it was written is known already.

    Raises:
        DataError: the file is missing, damaged, incomplete, or of another kind.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file, expected a {kind} written by {origin}")
    with told(path, f"a {kind} written by {origin}"):
        try:
            with safe_open(path, framework="pt") as file:
                found = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
                mapped = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise DataError(f"{path}: not a readable {kind} file ({reason(error)})") from error
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise DataError(f"{path}: holds no {kind}, expected a file written by {origin}")
    missing = [name for name in tensors if name not in mapped]
    missing += [name for name in facts if name not in found]
    if missing:
        raise DataError(f"{path}: has no {', '.join(missing)}, expected in a {kind} file")
    written = found.pop("sha256", None)
    if not checked and written != _hash(mapped, found):
        raise DataError(
            f"{path}: damaged, its hash is another; expected a {kind} as it was written"
        )
    return mapped, found


def _hash(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """SHA-256 of names, types, shapes and values, and of the facts."""
    shapes = {name: [str(x.dtype), list(x.shape)] for name, x in sorted(tensors.items())}
    digest = hashlib.sha256(json.dumps([facts, shapes], sort_keys=True).encode())
    for _, x in sorted(tensors.items()):
        flat = x.detach().cpu().contiguous().flatten()
        if flat.numel() < 2:  # whose stride may be any
            flat = flat.clone(memory_format=torch.contiguous_format)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()

"""Files that are written whole or not at all, and stay written when the machine goes down."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ekpnet_fast.errors import ConfigError

# Names of unfinished files: ours, and those of safetensors, which writes beside them once more.
_PART = ".part"
_LEFTOVER = re.compile(r".*\.part|\.tmp\w{6}")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the target, then rename; the content is on the disk before the name is.

    Args:
        path: the file, in a folder that exists.
        write: writes the content to the path that it is given.

    Raises:
        ConfigError: it cannot be written, as on a full disk; an earlier file is as before.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}{_PART}")
    try:
        part.touch()
        mode = part.stat().st_mode  # what the user's umask gives; safetensors makes files private
        write(part)
        part.chmod(mode)
        _sync(part)
        part.replace(path)
        _sync(path.parent)  # the new name, too
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} cannot be written ({reason})") from error
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder that has no other writer."""
    for path in folder.iterdir():
        if _LEFTOVER.fullmatch(path.name):
            path.unlink()


def to_json(value: Any) -> Any:
    """Strict JSON form of a value: keys are text, numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

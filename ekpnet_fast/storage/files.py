"""Files that are written whole or not at all, and stay written when the machine goes down."""

from __future__ import annotations

import math
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ekpnet_fast.errors import ConfigError, EkpnetError, reason
from ekpnet_fast.storage.parts import beside, sync


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the target, then rename; the content is on the disk before the name is.

    A link stays, and the file that it leads to is replaced. What is no file, such as a device or a
    pipe, is written to, never replaced.

    Args:
        path: the file, in a folder that exists.
        write: writes the content to the path that it is given.

    Raises:
        ConfigError: it cannot be written, as on a full disk; an earlier file is as before.
    """
    try:
        if _is_special(path):
            with tempfile.TemporaryDirectory() as temporary:
                part = Path(temporary) / "content"
                write(part)
                with path.open("wb", buffering=0) as special:
                    special.write(part.read_bytes())
            return
        place = path.resolve()
        with beside(place) as folder:
            part = folder / place.name
            part.touch()
            mode = part.stat().st_mode  # by the user's umask; safetensors makes files private
            write(part)
            part.chmod(mode)
            sync(part)
            os.replace(part, place)
            sync(place.parent)  # the new name, too
    except EkpnetError:
        raise
    except Exception as error:  # of the system, or of the library that writes
        raise ConfigError(f"{path} cannot be written ({reason(error)})") from error


def _is_special(path: Path) -> bool:
    """Whether a path leads to what is neither a file nor a folder, nor to be one."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    # The shell goes on with the file that it has opened, whatever has its name.
    given = path.parts[1:3] in (("dev", "fd"), ("dev", "stdout"), ("dev", "stderr"))
    return given or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; what is no Unicode becomes a question mark.

    Raises:
        ConfigError: it cannot be written.
    """
    content = text.encode("utf-8", errors="replace")
    write_whole(path, lambda part: part.write_bytes(content))


def to_json(value: Any) -> Any:
    """Strict JSON form of a value: keys are text, numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

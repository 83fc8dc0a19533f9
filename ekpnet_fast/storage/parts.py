"""Unfinished files and folders beside their places, and what dead writers left of them.

A writer holds a lock on the folder that it writes in, whatever machine or container it is in, so
that a folder nobody holds is one whose writer is dead. What is in it is removed by name: files of
others may be there, as it was the old folder once it was exchanged for the new one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ekpnet_fast.errors import ConfigError, reason

__all__ = ["beside", "place_of", "recover", "remove_unfinished", "replaced_folder", "sync"]

Owned = Callable[[str], bool]
"""Whether a file of this name in a folder is one of its writer's."""

_FILE, _FOLDER, _ASIDE = ".tmp", ".part", ".old"  # a file being written, a folder, the old folder
_LETTERS = 40  # of a place's name, because a file system has room for 255 bytes
_OF_SAFETENSORS = re.compile(r"\.tmp\w{6}")  # it writes a file beside the file once more


# ---- files ---------------------------------------------------------------------------------------


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """Folder beside a file's place to write it in; it is removed in the end."""
    _remove_dead(place, _FILE, lambda part: shutil.rmtree(part, ignore_errors=True))
    part, held = _made(place, _FILE)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(held)


def remove_unfinished(folder: Path) -> None:
    """Remove what dead writers of files left in a folder."""
    for part in _parts(folder, rf"\..{{1,{_LETTERS}}}\.[0-9a-f]+{re.escape(_FILE)}"):
        with _lock(part) as dead:
            if dead:
                shutil.rmtree(part, ignore_errors=True)


# ---- folders -------------------------------------------------------------------------------------


def place_of(folder: Path) -> Path:
    """Place of a folder to write, links followed.

    Raises:
        ConfigError: no path, the root, or the folder that the process works in.
    """
    try:
        place = folder.resolve()
        working = place.is_dir() and place.samefile(Path.cwd())
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, or links in a circle
        raise ConfigError(f"{folder}: found no path of a folder ({reason(error)})") from error
    if working or not place.name:
        found = "the folder that the process works in" if working else "the root"
        raise ConfigError(f"{folder}: found {found}, expected one that can be replaced")
    return place


@contextmanager
def replaced_folder(place: Path, owned: Owned) -> Iterator[Path]:
    """Folder to write, which then takes a place at once: the old or the new one is always there.

    The content is on the disk before. Files of others in the old folder move into the new one.

    Args:
        place: of the folder, as `place_of` gives it.
        owned: the names of the writer's files.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    recover(place)
    _remove_dead(place, _FOLDER, lambda part: _dissolve(part, place, owned))
    part, held = _made(place, _FOLDER)
    try:
        yield part
        for file in part.iterdir():
            sync(file)
        sync(part)
        if place.is_dir():
            part.chmod(place.stat().st_mode)
            _exchange(part, place)
        else:
            os.rename(part, place)
        sync(place.parent)
    finally:
        _dissolve(part, place, owned)
        os.close(held)


def recover(place: Path) -> None:
    """Put a folder back that a dead writer had moved aside, where it could not be exchanged."""
    if not place.exists() and place.parent.is_dir():
        for aside in _parts(place.parent, _pattern(place, _ASIDE)):
            with _lock(aside) as dead:
                if dead and not place.exists():
                    os.rename(aside, place)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(part: Path, place: Path) -> None:
    """Let two folders change their names."""
    at_working_folder, exchange = -100, 2
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    failed = errno.ENOSYS
    if rename is not None:
        names = (os.fsencode(part), os.fsencode(place))
        if rename(at_working_folder, names[0], at_working_folder, names[1], exchange) == 0:
            return
        failed = ctypes.get_errno()
    if failed not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        raise OSError(failed, os.strerror(failed), str(place))
    # A file system without it: for a moment nothing is at the place, which `recover` mends.
    aside = part.with_suffix(_ASIDE)
    os.rename(place, aside)
    try:
        os.rename(part, place)
    except OSError:
        os.rename(aside, place)
        raise
    os.rename(aside, part)


def _dissolve(part: Path, place: Path, owned: Owned) -> None:
    """Remove a folder's own files, and move those of others to the place."""
    if not part.is_dir():
        return
    for entry in part.iterdir():
        with suppress(OSError):
            if owned(entry.name) or _OF_SAFETENSORS.fullmatch(entry.name):
                entry.unlink()
            elif place.is_dir() and not os.path.lexists(place / entry.name):
                os.rename(entry, place / entry.name)
    with suppress(OSError):
        part.rmdir()


# ---- both ----------------------------------------------------------------------------------------


def _made(place: Path, kind: str) -> tuple[Path, int]:
    """Make a folder beside a place; returns it, and the descriptor that holds its lock."""
    while True:
        part = place.with_name(f".{place.name[:_LETTERS]}.{os.urandom(6).hex()}{kind}")
        part.mkdir()
        try:
            held = os.open(part, os.O_RDONLY)
        except FileNotFoundError:
            continue  # somebody took it for a dead writer's
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            continue
        except OSError:
            pass  # a file system that cannot lock: nobody there removes what others left
        return part, held


def _remove_dead(place: Path, kind: str, remove: Callable[[Path], None]) -> None:
    for part in _parts(place.parent, _pattern(place, kind)):
        with _lock(part) as dead:
            if dead:
                remove(part)


def _pattern(place: Path, kind: str) -> str:
    return rf"\.{re.escape(place.name[:_LETTERS])}\.[0-9a-f]+{re.escape(kind)}"


def _parts(folder: Path, pattern: str) -> list[Path]:
    with os.scandir(folder) as entries:
        return [
            Path(entry.path)
            for entry in entries
            if re.fullmatch(pattern, entry.name, re.DOTALL) and entry.is_dir(follow_symlinks=False)
        ]


@contextmanager
def _lock(part: Path) -> Iterator[bool]:
    """Context that holds a folder whose writer is dead; gives whether it is."""
    try:
        held = os.open(part, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its writer holds it, or nobody can tell
            yield False
        else:
            yield True
    finally:
        os.close(held)

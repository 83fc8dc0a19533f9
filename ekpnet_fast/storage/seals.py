"""Seals: size and SHA-256 of every file that belongs to another one, and of that one itself.

What was cut, has rotted or is a file of something else is found before anything reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ekpnet_fast.errors import DataError, reason, told
from ekpnet_fast.storage.json_objects import NamedTwiceError, object_of

__all__ = [
    "check_files",
    "file_hash",
    "read_json",
    "read_sealed",
    "seal_files",
    "sealed",
    "text_hash",
]

_BLOCK = 1 << 20


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest, buffer = hashlib.sha256(), bytearray(_BLOCK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def text_hash(content: Any) -> str:
    """SHA-256 of a value's JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def seal_files(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256, by name, of those of some files that are there."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_hash(folder / name)}
        for name in names
        if (folder / name).is_file()
    }


def check_files(
    manifest: Path, seals: object, names: Iterable[str], *, hashed: int | None = None
) -> None:
    """Check that files are as they were when they were sealed.

    Args:
        manifest: the file that holds the seals, beside the files.
        seals: as `seal_files` gave them.
        names: of the files; each has to be there.
        hashed: bytes of a file beyond which only its size is compared; None to hash all.

    Raises:
        DataError: one is not; names it.
    """
    known = seals if isinstance(seals, dict) else {}
    for name in names:
        path, seal = manifest.with_name(name), known.get(name)
        if not path.is_file():
            raise DataError(f"{path}: no such file, expected the one that {manifest.name} names")
        if not isinstance(seal, dict):
            raise DataError(
                f"{path}: found no hash of it in {manifest.name}, expected the file that was"
                " written with it"
            )
        try:
            size = path.stat().st_size
            if size != seal.get("bytes"):
                raise DataError(f"{path}: found {size} bytes, expected {seal.get('bytes')}")
            if hashed is not None and size > hashed:
                continue
            if file_hash(path) != seal.get("sha256"):
                raise DataError(
                    f"{path}: damaged, its hash is another than in {manifest.name}; or it is a file"
                    " of something else"
                )
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({reason(error)})") from error


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """JSON object with the hash of itself; what no text file can hold of a name becomes "?"."""
    written = json.dumps(content, ensure_ascii=False).encode(errors="replace")
    content = json.loads(written)
    return {**content, "sha256": text_hash(content)}


def read_json(path: Path, expected: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        expected: what it is, for messages.

    Raises:
        DataError: there is no such file, or it is none.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file, expected {expected}")
    with told(path, expected):
        try:
            found = json.loads(path.read_bytes(), object_pairs_hook=object_of)
        except NamedTwiceError as error:
            raise DataError(f"{path}: found {error} twice, expected distinct names") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not valid JSON ({reason(error)})") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: found {type(found).__name__}, expected a JSON object")
    return found


def read_sealed(path: Path, expected: str, **facts: Any) -> dict[str, Any]:
    """Read a JSON object that `sealed` made.

    Args:
        path: the file.
        expected: what it is, for messages.
        facts: that it has to have, such as format and version.

    Raises:
        DataError: there is no such file, or it is another, or not as it was written.
    """
    content = read_json(path, expected)
    found = {name: content.get(name) for name in facts}
    if found != facts:
        shown, wanted = (
            ", ".join(f"{name} {value!r}" for name, value in some.items())
            for some in (found, facts)
        )
        raise DataError(f"{path}: found {shown}, expected {wanted}; write it again")
    if content.pop("sha256", None) != text_hash(content):
        raise DataError(f"{path}: found other text than was written, expected its hash to fit")
    return content

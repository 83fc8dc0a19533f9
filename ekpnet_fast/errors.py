"""Errors that a user can cause: each says on one line what was found and what was expected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from unicodedata import category

__all__ = [
    "ConfigError",
    "DataError",
    "EkpnetError",
    "NativeLibraryError",
    "TrainingError",
    "quote",
    "reason",
    "told",
    "visible",
]

_SHOWN = 60
_LONGEST, _END = 2000, 500  # characters of a message, and those of its end that are kept of one

_JOINERS = "\u200c\u200d"  # Persian and Indian words are spelt with them


class _Shown(dict[int, str]):
    """Characters as a terminal may show them: `str.translate`'s table, filled as it is asked.

    Written out is what a terminal obeys instead of showing it, what makes text read in another
    order, and what is there but not seen: two ids that differ by it must look different.
    """

    def __missing__(self, code: int) -> str:
        shown = chr(code)
        if category(shown) in ("Cc", "Cf", "Cs", "Zl", "Zp") and shown not in _JOINERS:
            shown = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
        return self.setdefault(code, shown)


_SHOWN_IN_LINE = _Shown()
_SHOWN_IN_LINES = _Shown({ord("\n"): "\n"})


class EkpnetError(Exception):
    """Base of every error a user can cause. ``str(error)`` is one line, fit for a terminal."""

    def __init__(self, message: str) -> None:
        """Keep the message, white space squeezed onto one line, control characters written out."""
        text = visible(" ".join(message.split()))
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST - _END]} ... {text[-_END:]}"
        super().__init__(text)


class DataError(EkpnetError, ValueError):
    """Input data that cannot be used; names the file and line, or the argument."""

    @classmethod
    def at(
        cls, path: str | PathLike[str], line: int | None, found: object, expected: str
    ) -> DataError:
        """Error at a place in a file.

        Args:
            path: the file.
            line: 1-based line (row, in a binary file), or None for the file as a whole.
            found: offending value; strings are quoted and cut to 60 characters.
            expected: what would have been right there.
        """
        shown = quote(found) if isinstance(found, str | bytes) else str(found)
        return cls.about(path, line, shown, expected)

    @classmethod
    def about(
        cls, path: str | PathLike[str], line: int | None, found: str, expected: str
    ) -> DataError:
        """Error at a place in a file like `at`, but ``found`` is in our own words: not quoted."""
        place = f"{path}" if line is None else f"{path}, line {line}"
        return cls(f"{place}: found {found}, expected {expected}")


class ConfigError(EkpnetError, ValueError):
    """Option or combination of options that cannot be used; names the option."""


def visible(text: str, *, lines: bool = False) -> str:
    """Text of data as a terminal may show it: what is not seen is written out, as `\\x1b`.

    Args:
        text: of data.
        lines: whether it has lines, the ends of which are kept.
    """
    return text.translate(_SHOWN_IN_LINES if lines else _SHOWN_IN_LINE)


def reason(error: BaseException) -> str:
    """First line of what a library says, which names an operating system's error by its text."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, MemoryError):
        return "too large for the memory"
    said = str(error).strip().splitlines()
    return said[0][:200] if said else type(error).__name__


@contextmanager
def told(path: str | PathLike[str], expected: str) -> Iterator[None]:
    """Context that reads a file: whatever a library raises about it becomes one DataError.

    Libraries raise dozens of kinds, and panics of Rust, which are no `Exception`.

    Args:
        path: the file.
        expected: what would have been right, and what to do.
    """
    try:
        yield
    except (EkpnetError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise DataError.about(
            path, None, f"no readable file ({reason(error)})", expected
        ) from error


def quote(text: str | bytes) -> str:
    """``repr`` of the text, cut to 60 characters, so that a broken file cannot flood a message."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."


class NativeLibraryError(EkpnetError, ImportError):
    """Native code that is missing or does not fit; names what it was built for and what runs."""


class TrainingError(EkpnetError, RuntimeError):
    """Run that cannot go on, such as a loss that is not finite; names the step and the term."""

"""Errors that a user can cause: each says on one line what was found and what was expected."""

from __future__ import annotations

from os import PathLike

__all__ = ["ConfigError", "DataError", "EkpnetError", "NativeLibraryError", "TrainingError"]

_SHOWN = 60


class EkpnetError(Exception):
    """Base of every error a user can cause. ``str(error)`` is one line, fit for a terminal."""

    def __init__(self, message: str) -> None:
        """Keep the message, white space squeezed onto one line."""
        super().__init__(" ".join(message.split()))


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


def quote(text: str | bytes) -> str:
    """``repr`` of the text, cut to 60 characters, so that a broken file cannot flood a message."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."


class NativeLibraryError(EkpnetError, ImportError):
    """Native code that is missing or does not fit; names what it was built for and what runs."""


class TrainingError(EkpnetError, RuntimeError):
    """Run that cannot go on, such as a loss that is not finite; names the step and the term."""

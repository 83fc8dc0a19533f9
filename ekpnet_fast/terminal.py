"""Output of commands: exit status, errors on one line, text of data as it is."""

from __future__ import annotations

import functools
import gc
import json
import os
import signal
import sys
import traceback
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ekpnet_fast.errors import EkpnetError, reason, visible

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "TRACEBACK_VARIABLE",
    "guarded",
    "importing",
    "json_text",
    "make_console",
    "path_argument",
    "say",
]

TRACEBACK_VARIABLE = "EKPNET_TRACEBACK"
_ALONE = "torch" not in sys.modules  # whether this process is there for a command


class Main(Protocol):
    """Function `main` of a command: takes its words, those of the process without, and returns its
    exit status.
    """

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command."""


# Characters that JSON may hold as they are and a terminal would obey.
_ESCAPED = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), *range(0x2028, 0x202F))}


def guarded(main: Main) -> Main:
    """Make a command's `main` end as a shell expects, whatever is raised in it.

    The exit status is 2 for an error that the user can mend, a full device or too little memory
    among them, 130 after Ctrl-C, 141 where what reads the output is gone, and 1 for what nobody
    foresaw. All but the last two say so on one line of stderr; EKPNET_TRACEBACK=1 adds where it
    came from. Characters that the output's encoding does not have are replaced.
    """

    @functools.wraps(main)
    def command(arguments: Sequence[str] | None = None) -> int:
        _soften()
        try:
            try:
                code = main(arguments)
            except SystemExit:  # of a parser, which has said why
                _flush()
                raise
            _flush()
            return code
        except SystemExit:
            raise
        except BaseException as error:
            return _ended(error)

    return command


@contextmanager
def importing() -> Iterator[None]:
    """Import inside the block without a search for garbage, in the process of a command.

    torch makes half a million objects that stay. Python would look through them again and again
    while they are made, and once more when the process ends, for a third of the CPU time of a short
    command. What is there at the end of the block is left out of later searches.
    """
    if not (_ALONE and gc.isenabled()):
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _ended(error: BaseException) -> int:
    """Exit status of a command that something was raised in, told on one line."""
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error)
    if isinstance(error, BrokenPipeError):
        _abandon()
        return 128 + signal.SIGPIPE
    if isinstance(error, KeyboardInterrupt):
        _tell(str(error) or "interrupted")
        return 128 + int(getattr(error, "signum", signal.SIGINT))
    if isinstance(error, EkpnetError):
        _tell(f"error: {error}")
        return 2
    if isinstance(error, OSError):
        _abandon()
        _tell(f"error: {error.filename or 'the output'}: {reason(error)}")
        return 2
    if isinstance(error, MemoryError | RecursionError):
        _tell(f"error: found input {reason(error)}")
        return 2
    if _no_room_on_gpu(error):
        _tell(
            f"error: {reason(error).rstrip('.')}; expected work that fits on the GPU: a smaller"
            " --shape.width or batch_size, --shape.table_dtype bfloat16, or --device cpu"
        )
        return 2
    _tell(
        f"error: {type(error).__name__}: {reason(error)}; this was not foreseen,"
        f" {TRACEBACK_VARIABLE}=1 shows where it comes from"
    )
    return 1


def _no_room_on_gpu(error: BaseException) -> bool:
    """Whether the error is torch's own, which is not imported to tell."""
    kind = getattr(sys.modules.get("torch"), "OutOfMemoryError", None)
    return kind is not None and isinstance(error, kind)


def path_argument(text: str) -> Path:
    """Path that an argument names; an empty one would be the folder that the process works in."""
    if not text:
        raise ArgumentTypeError("found nothing, expected the name of a file or folder")
    return Path(text)


def say(text: str = "") -> None:
    """Print lines in which text of data may be, control characters written out."""
    print(visible(text, lines=True))


def json_text(value: Any) -> str:
    """JSON for a terminal or a pipe, in ASCII where the output cannot show it otherwise."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return json.dumps(value, indent=2)
    return text.translate(_ESCAPED)


def make_console(*, stderr: bool = False) -> Console:
    """Make a console that shows text as it is: no markup, no emoji, no control characters."""
    from rich.console import Console
    from rich.text import Text

    class PlainConsole(Console):
        def render_str(self, text: str, **how: Any) -> Text:
            return super().render_str(
                visible(text, lines=True), **{**how, "markup": False, "emoji": False}
            )

    return PlainConsole(stderr=stderr, soft_wrap=True, markup=False, emoji=False, highlight=False)


def _soften() -> None:
    """Let the output replace characters that its encoding does not have."""
    stream = sys.stdout
    if getattr(stream, "errors", None) in ("strict", "surrogateescape"):
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _abandon() -> None:
    """Send what is left of the output nowhere, or the interpreter would fail on it at its end."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        return
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _tell(line: str) -> None:
    with suppress(OSError, ValueError):
        print(visible(line), file=sys.stderr, flush=True)

"""How commands end: exit status, one line, and output that cannot take everything."""

from __future__ import annotations

import errno
import io
import json
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import torch

from ekpnet_fast.errors import ConfigError, DataError, EkpnetError, told, visible
from ekpnet_fast.terminal import TRACEBACK_VARIABLE, guarded, json_text, make_console, path_argument


class PanicError(BaseException):
    """What a panic of Rust is to Python: no Exception."""


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("--seed is -1"), 2, "error: --seed is -1"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 141, ""),
        (OSError(errno.ENOSPC, "No space left"), 2, "error: the output: No space left"),
        (PermissionError(errno.EACCES, "Denied", "f"), 2, "error: f: Denied"),
        (MemoryError(), 2, "error: found input too large for the memory"),
        (RecursionError(), 2, "error: found input nested too deep"),
        (
            torch.OutOfMemoryError("CUDA out of memory. It has 9 GiB.\nmore"),
            2,
            "error: CUDA out of memory. It has 9 GiB; expected work that fits on the GPU: a",
        ),
        (PanicError("byte 3\nmore"), 1, "error: PanicError: byte 3; this was not foreseen"),
    ],
)
def test_what_is_raised(capsys, error, status, line):
    def main(arguments=None):
        raise error

    assert guarded(main)([]) == status
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(line) and err.count("\n") == (1 if line else 0)


def test_where_it_was_raised_is_said_if_asked_for(capsys, monkeypatch):
    def main(arguments=None):
        raise KeyError("x")

    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    assert guarded(main)([]) == 1
    assert "in main" in capsys.readouterr().err


def test_what_a_library_raises_about_a_file():
    expected = r"^f: found no readable file \(odd\), expected a graph$"
    with pytest.raises(DataError, match=expected), told("f", "a graph"):
        raise PanicError("odd\nbacktrace")
    with pytest.raises(KeyboardInterrupt), told("f", "a graph"):
        raise KeyboardInterrupt


def test_an_empty_name_is_no_path():
    assert path_argument("a b\nc") == Path("a b\nc")
    with pytest.raises(ArgumentTypeError, match="found nothing, expected the name of a file"):
        path_argument("")


def test_messages_are_short_and_hold_no_control_characters():
    text = str(EkpnetError("a\x1b[2J\nb " + "x" * 5000 + " the end"))
    assert text.startswith(r"a\x1b[2J b xxx") and text.endswith("the end") and len(text) < 2010


def test_visible():
    assert visible("a\tb\x9b\u202ec\n") == r"a\x09b\x9b\u202ec\x0a"
    assert visible("a\nb\x07", lines=True) == "a\nb\\x07"
    assert visible("\ufeff1\u200b2\xad3\udc80") == r"\ufeff1\u200b2\xad3\udc80"
    assert (
        visible("می\u200cروم 本\u30003\xa0ü 👩\u200d👧") == "می\u200cروم 本\u30003\xa0ü 👩\u200d👧"
    )


def test_text_is_no_markup(monkeypatch):
    console = make_console()
    console.file = io.StringIO()
    console.print("[b]x[/b] :smile: [/nothing] \x1b[2J")
    assert console.file.getvalue() == "[b]x[/b] :smile: [/nothing] \\x1b[2J\n"


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_json_in_any_encoding(monkeypatch, encoding):
    value = {"name": "日本 \U0001f600 \x9b é"}
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    text = json_text(value)
    assert json.loads(text.encode(encoding)) == value and "\x9b" not in text

"""People's files as UTF-8 text: packed or not, in any encoding, with any line ends.

What a file is follows from its first bytes, never from its name. A name is never a pattern either,
because readers get a descriptor of the open file in place of it.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from ekpnet_fast.errors import ConfigError, DataError, EkpnetError

__all__ = [
    "ENDINGS",
    "UTF8",
    "Opened",
    "PlainText",
    "as_text",
    "check_encoding",
    "expect_text",
    "open_file",
    "open_text",
    "packed_or_not",
    "place",
]

UTF8 = "utf-8"
_CHUNK = 1 << 20
_HEAD = 4 << 20  # bytes that the form of a text is told from
_START = 1000  # bytes in which UTF-16 without a mark shows

_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
ENDINGS = ("", ".gz", ".bz2", ".xz", ".zst")
"""Of names of files that are not packed, or are."""
_OTHERS = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "a zip file, perhaps an Excel one",
    b"\xd0\xcf\x11\xe0": "an old Excel file",
    b"\x93NUMPY": "a NumPy file",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite file",
    b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file",
    b"ARROW1": "an Arrow file",
    b"%PDF": "a PDF file",
    b"7z\xbc\xaf\x27\x1c": "a 7z file",
    b"Rar!": "a RAR file",
}
_MARKS = (  # the longer ones first, because one begins as another
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True, slots=True)
class Opened:
    """File that is open, unpacked.

    Attributes:
        path: the file.
        file: its bytes, read as far as ``head``.
        head: the first ones.
        packed: whether it was packed, so that no name leads to its bytes.
    """

    path: Path
    file: IO[bytes]
    head: bytes
    packed: bool

    @property
    def content(self) -> str:
        """What it holds by its first bytes: "text", "Parquet" or another format in words."""
        return next((what for mark, what in _OTHERS.items() if self.head.startswith(mark)), "text")

    @contextmanager
    def on_disk(self) -> Iterator[IO[bytes]]:
        """Context of the file, unpacked into one without a name if it was packed."""
        if not self.packed:
            self.file.seek(0)
            yield self.file
            return
        with tempfile.TemporaryFile() as copy:
            copy.write(self.head)
            shutil.copyfileobj(self.file, copy, _CHUNK)
            copy.flush()
            copy.seek(0)
            yield cast(IO[bytes], copy)


@dataclass(frozen=True, slots=True)
class PlainText:
    """Text file as readers get it: UTF-8 with LF or CRLF line ends, on a disk.

    Attributes:
        path: the file that was asked for, for messages.
        file: the text, open and seekable.
        head: its first bytes, of whole lines unless one is longer than that.
        notes: what was taken off, in words.
    """

    path: Path
    file: IO[bytes]
    head: bytes
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Name under which a reader can open it."""
        return place(self.file)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Number and content of every line, without its end."""
        self.file.seek(0)
        for number, raw in enumerate(self.file, start=1):
            line = raw.removesuffix(b"\n").removesuffix(b"\r")
            yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def packed_or_not(folder: Path, name: str) -> Path:
    """File of a name, or of that name and the ending of a packed one; the first that is there."""
    paths = [folder / f"{name}{ending}" for ending in ENDINGS]
    return next((path for path in paths if path.is_file()), paths[0])


def place(file: IO[bytes]) -> str:
    """Name of an open file that has no character with a meaning in patterns."""
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    return f"{folder}/{file.fileno()}"


def check_encoding(name: str) -> str:
    """Python's name of a text encoding.

    Raises:
        ConfigError: there is none of this name.
    """
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        found = None
    if found is None or not getattr(found, "_is_text_encoding", True) or name == "undefined":
        raise ConfigError(
            f"--encoding: found {name[:60]!r}, expected one such as utf-8, cp1252, utf-16"
        )
    return UTF8 if found.name == "utf-8-sig" else found.name


@contextmanager
def open_file(path: Path) -> Iterator[Opened]:
    """Context of a file, unpacked if it is a gzip, bzip2, xz or zstd file.

    Raises:
        DataError: no file that can be read; in the context, a file that turns out damaged.
    """
    packing = ""
    with ExitStack() as stack:
        try:
            # A pipe without a writer would be waited for.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            file: IO[bytes] = stack.enter_context(open(descriptor, "rb"))
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISFIFO(mode) and _is_given(path):
                os.set_blocking(descriptor, True)
                copy = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(file, copy, _CHUNK)
                file = cast(IO[bytes], copy)
                file.seek(0)
            elif not stat.S_ISREG(mode):
                what = "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
                raise DataError.about(path, None, what, "a file")
            head = file.read(16)
            file.seek(0)
            packing = next((name for mark, name in _PACKED.items() if head.startswith(mark)), "")
            if packing:
                file = stack.enter_context(_unpacked(file, packing))
            yield Opened(path, file, file.read(_HEAD), bool(packing))
        except EkpnetError:
            raise
        except Exception as error:
            if not isinstance(error, _DAMAGE) and type(error).__name__ != "ZstdError":
                raise
            raise _unreadable(path, error, packing) from None


@contextmanager
def as_text(opened: Opened, encoding: str = UTF8) -> Iterator[PlainText]:
    """Context of a file as text, see `PlainText`; what is not that already is copied for the time.

    Args:
        opened: the file.
        encoding: of the file, unless a byte order mark says otherwise.

    Raises:
        DataError: no text, or none in this encoding, with the line.
        ConfigError: there is no such encoding.
    """
    encoding = check_encoding(encoding)
    path, head = opened.path, opened.head
    if opened.content != "text":
        raise DataError.about(path, None, opened.content, "text, such as CSV")
    notes: list[str] = []
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), "")
    if marked and encoding == UTF8:
        encoding = marked
        if marked != UTF8:
            notes.append(f"read as {marked.upper()}, as its byte order mark says")
    if encoding == UTF8 and b"\0" in head[:_START]:
        raise _zero_bytes(path, head[:_START])
    old_ends = b"\r" in head and b"\n" not in head
    if encoding == UTF8 and not old_ends:
        with opened.on_disk() as file:
            yield PlainText(path, file, _whole_lines(head), tuple(notes))
        return
    with tempfile.TemporaryFile() as copy:
        _recode(opened, encoding, cast(IO[bytes], copy))
        copy.seek(0)
        head = copy.read(_HEAD)
        yield PlainText(path, cast(IO[bytes], copy), _whole_lines(head), tuple(notes))


@contextmanager
def open_text(path: Path, encoding: str = UTF8) -> Iterator[PlainText]:
    """Context of a text file: `open_file`, `as_text`."""
    with open_file(path) as opened, as_text(opened, encoding) as text:
        yield text


def expect_text(path: Path, number: int, raw: bytes) -> str:
    """Text of a line in UTF-8; DataError with its number if it is none."""
    try:
        return raw.decode(UTF8)
    except UnicodeDecodeError:
        raise DataError.at(
            path, number, raw, "UTF-8 text; --encoding says if it is another"
        ) from None


def _zero_bytes(path: Path, head: bytes) -> DataError:
    """Error of a text with zero bytes: at every other place they are those of UTF-16."""
    first = head.index(0)
    if head.count(0) > len(head) // 20 and 0 not in head[1 - first % 2 :: 2]:
        wide = "utf-16-le" if first % 2 else "utf-16-be"
        found = f"zero bytes, as in {wide.upper()}"
        return DataError.about(path, 1, found, f"UTF-8 text; --encoding {wide} reads the other")
    return DataError.about(path, head.count(b"\n", 0, first) + 1, "a zero byte", "UTF-8 text")


def _whole_lines(head: bytes) -> bytes:
    """The head without a byte order mark, and without a last line that is cut."""
    if len(head) >= _HEAD and b"\n" in head:
        head = head[: head.rindex(b"\n") + 1]
    return head.removeprefix(codecs.BOM_UTF8)


def _recode(opened: Opened, encoding: str, copy: IO[bytes]) -> None:
    """Write a text as UTF-8, with LF line ends where it has CR ones."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, chunk, ends, first = 1, opened.head, "", True
    while True:
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeError as error:
            found: object = str(error)
            if isinstance(error, UnicodeDecodeError):
                with suppress(UnicodeError):  # of encodings that replace nothing, such as idna
                    before = error.object[: error.start].decode(encoding, "replace")
                    line += before.count("\n") or before.count("\r")
                found = error.object[max(0, error.start - 20) : error.end + 20]
            raise DataError.at(opened.path, line, found, f"{encoding.upper()} text") from None
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        if not ends and text:
            ends = "\r" if "\r" in text and "\n" not in text else "\n"
        if ends == "\r":
            text = text.replace("\r", "\n")
        line += text.count("\n")
        copy.write(text.encode(UTF8, "surrogatepass"))
        if not chunk:
            return
        chunk = opened.file.read(_CHUNK)


def _unpacked(raw: IO[bytes], packing: str) -> IO[bytes]:
    if packing == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    if packing == "bzip2":
        return bz2.BZ2File(raw)
    if packing == "xz":
        return lzma.LZMAFile(raw)
    from backports import zstd

    return cast(IO[bytes], zstd.ZstdFile(raw))


def _is_given(path: Path) -> bool:
    """Whether a pipe is one that the shell made for this process, such as of ``<(...)``."""
    return path.is_absolute() and path.parts[1] in ("dev", "proc")


def _unreadable(path: Path, error: Exception, packing: str) -> DataError:
    found = getattr(error, "strerror", None) or str(error) or "an error"
    if packing:
        found = f"damaged {packing} data ({found})"
    return DataError.about(path, None, found, "a file that can be read")

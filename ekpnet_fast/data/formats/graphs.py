"""RDF graphs: N-Triples, N-Quads, Turtle, TriG, RDF/XML and JSON-LD."""

from __future__ import annotations

import codecs
import io
import re
from array import array
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from ekpnet_fast.data.formats.frames import Frame, Texts
from ekpnet_fast.data.formats.opened import Opened
from ekpnet_fast.data.tables import Int32
from ekpnet_fast.errors import DataError, quote

__all__ = ["RdfGraph", "graph_form", "read_graph"]

LABELS = frozenset(
    {
        "http://www.w3.org/2000/01/rdf-schema#label",
        "http://www.w3.org/2004/02/skos/core#prefLabel",
        "http://schema.org/name",
        "https://schema.org/name",
    }
)
_SUFFIXES = {
    ".nt": "N-Triples",
    ".ntriples": "N-Triples",
    ".nq": "N-Quads",
    ".nquads": "N-Quads",
    ".ttl": "Turtle",
    ".turtle": "Turtle",
    ".n3": "N3",
    ".trig": "TriG",
    ".rdf": "RDF/XML",
    ".owl": "RDF/XML",
    ".jsonld": "JSON-LD",
}
_FORMATS = {
    "N-Triples": "N_TRIPLES",
    "N-Quads": "N_QUADS",
    "Turtle": "TURTLE",
    "N3": "N3",
    "TriG": "TRIG",
    "RDF/XML": "RDF_XML",
    "JSON-LD": "JSON_LD",
}
_LINE = re.compile(  # a statement on a line of its own
    r"\s*(?:<[^<>\s]*>|_:\S+)\s*<[^<>\s]*>\s*(?:<[^<>]*>|_:\S+|\".*\"\S*)\s*"
    r"(?P<graph><[^<>]*>|_:\S+)?\s*\.\s*(?:#.*)?$"
)
_PACKED_ENDINGS = (".gz", ".bz2", ".xz", ".zst")
_DIRECTIVE = re.compile(r"\s*@?(?:prefix|base)\s", re.IGNORECASE)
_SHOWN = 3  # of the lines that were left out


@dataclass(frozen=True, slots=True, eq=False)
class RdfGraph:
    """Triples and labels of an RDF file.

    Attributes:
        triples: head, relation, tail: IRIs without angle brackets, blank nodes as ``_:name``.
        labels: id and name, one for each resource that has an rdfs:label, skos:prefLabel or
            schema:name.
        literals: number of statements with a literal as object; they are no edges and are left out.
        nested: number of statements about statements, left out too.
        skipped: number of places that could not be read, left out.
        reasons: the first of them, in words.
    """

    triples: Frame
    labels: dict[str, str]
    literals: int
    nested: int
    skipped: int
    reasons: tuple[str, ...]


def graph_form(path: Path, head: bytes) -> str | None:
    """Name of the format of an RDF file, None for another file.

    It follows from the ending where that says enough, else from the first lines.
    """
    ending = next((s for s in reversed(path.suffixes) if s.lower() not in _PACKED_ENDINGS), "")
    told = _SUFFIXES.get(ending.lower())
    text = head[:65536].decode("utf-8", "replace").removeprefix("\ufeff")
    if told in ("RDF/XML", None) or not text.strip():
        lines = [line for line in text.splitlines() if line.strip()]
        first = next((line for line in lines if not line.lstrip().startswith("#")), "").lstrip()
        if first.startswith("<?xml") or first.startswith("<rdf:RDF"):
            return "RDF/XML" if told or "rdf:RDF" in text or "rdf-syntax-ns" in text else None
        if _DIRECTIVE.match(first):
            return "TriG" if re.search(r"^[^#\"'<]*\{", text, re.MULTILINE) else "Turtle"
        line = _LINE.match(first)
        if line:
            return "N-Quads" if line["graph"] else "N-Triples"
    return told


def read_graph(
    opened: Opened, form: str, language: str = "en", *, lenient: bool = False
) -> RdfGraph:
    """Read an RDF file.

    Args:
        opened: the file.
        form: name of its format, see `graph_form`.
        language: of the labels preferred; next come those without a language, then the others.
        lenient: take IRIs as they are, and leave out what cannot be read.

    Raises:
        DataError: the first place that cannot be read, or no triple between resources at all.
    """
    import pyoxigraph as ox

    marked = opened.head.startswith(codecs.BOM_UTF8)
    opened.file.seek(len(codecs.BOM_UTF8) if marked else 0)
    stream: Any = opened.file
    if lenient:
        stream = io.BufferedReader(_Replaced(opened.file), 1 << 16)
    reader = iter(ox.parse(stream, getattr(ox.RdfFormat, _FORMATS[form]), lenient=lenient))
    ids: dict[str, int] = {}
    names: dict[str, int] = {}
    heads, relations, tails = array("i"), array("i"), array("i")
    labels: dict[str, tuple[int, str]] = {}
    literals = nested = skipped = 0
    last: int | None = -1
    reasons: list[str] = []
    wanted = language.lower()
    node, blank, literal = ox.NamedNode, ox.BlankNode, ox.Literal
    while True:
        try:
            for quad in reader:
                head, relation, tail = quad.subject, quad.predicate.value, quad.object
                head_text = head.value if type(head) is node else str(head)
                kind = type(tail)
                if kind is node or kind is blank:
                    tail_text = tail.value if kind is node else str(tail)
                    heads.append(ids.setdefault(head_text, len(ids)))
                    tails.append(ids.setdefault(tail_text, len(ids)))
                    relations.append(names.setdefault(relation, len(names)))
                elif kind is literal:
                    literals += 1
                    if relation in LABELS:
                        spoken = tail.language
                        rank = 1 if spoken is None else 0 if spoken.lower() == wanted else 2
                        known = labels.get(head_text)
                        if known is None or rank < known[0]:
                            labels[head_text] = rank, tail.value
                else:
                    nested += 1
            break
        except SyntaxError as error:
            if not lenient:
                raise _told(opened, error, form) from None
            if error.lineno != last:  # what follows from an error is none of its own
                skipped += 1
                if len(reasons) < _SHOWN:
                    reasons.append(str(_told(opened, error, form)))
            last = error.lineno
    if not heads:
        raise DataError.about(opened.path, None, "no triple between resources", "at least one")
    entities = list(ids)
    triples = Frame(
        {
            "head": Texts(_int32(heads), entities),
            "relation": Texts(_int32(relations), list(names)),
            "tail": Texts(_int32(tails), entities),
        },
        {},
    )
    found = {key: name for key, (_, name) in labels.items()}
    return RdfGraph(triples, found, literals, nested, skipped, tuple(reasons))


class _Replaced(io.RawIOBase):
    """Bytes of a file, with U+FFFD in place of those that are no UTF-8."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file, self._rest = file, b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; returns the number of bytes, 0 at the end."""
        while not self._rest:
            chunk = self._file.read(1 << 20)
            self._rest = self._decoder.decode(chunk, final=not chunk).encode("utf-8")
            if not chunk:
                break
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _told(opened: Opened, error: SyntaxError, form: str) -> DataError:
    """The parser's error, with the part of the file that it is about."""
    reason = re.sub(r"^Parser error .*?: ", "", str(error.args[0])) if error.args else str(error)
    line, start, stop = error.lineno, error.offset, error.end_offset
    found = reason
    if line is not None and not opened.packed:
        shown = _part(opened, line, start or 1, stop if error.end_lineno == line else None)
        found = f"{quote(shown)} ({reason})" if shown.strip() else reason
    return DataError.about(
        opened.path, line, found, f"{form}; --lenient leaves out what cannot be read"
    )


def _part(opened: Opened, line: int, start: int, stop: int | None) -> str:
    """Text of a line from one column to another, both counted from 1."""
    place = opened.file.tell()
    try:
        opened.file.seek(0)
        raw = next(islice(opened.file, line - 1, line), b"")
    finally:
        opened.file.seek(place)
    text = raw.decode("utf-8", "replace").rstrip()
    part = text[start - 1 : stop - 1 if stop else None]
    return part if len(part) > 1 else text[max(0, start - 20) : start + 20]


def _int32(values: array[int]) -> Int32:
    return np.frombuffer(values, dtype=np.int32) if values else np.empty(0, dtype=np.int32)

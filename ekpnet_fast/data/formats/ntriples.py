"""N-Triples files: a triple a line, ``<subject> <predicate> <object> .``"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ekpnet_fast.data.formats.parse import numbered_lines
from ekpnet_fast.errors import DataError

__all__ = ["NTriples", "read_ntriples"]

LABELS = (
    "http://www.w3.org/2000/01/rdf-schema#label",
    "http://www.w3.org/2004/02/skos/core#prefLabel",
    "http://schema.org/name",
    "https://schema.org/name",
)
_IRI = r'<([^<>"{}|^`\x00-\x20]*)>'
_BLANK = r"(_:[^\s<>\"]*[^\s<>\".])"
_LITERAL = r'"((?:[^"\\]|\\.)*)"(?:@([A-Za-z0-9-]+)|\^\^<[^<>\s]*>)?'
_GAP = r"[ \t]*"
_OBJECT = rf"(?:{_IRI}|{_BLANK}|{_LITERAL})"
_TRIPLE = rf"^{_GAP}(?:{_IRI}|{_BLANK}){_GAP}{_IRI}{_GAP}{_OBJECT}{_GAP}\.{_GAP}(?:#.*)?\r?$"
_NO_TRIPLE = r"^\s*(?:#.*)?$"
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_ESCAPED = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f"}


@dataclass(frozen=True, slots=True, eq=False)
class NTriples:
    """Triples and labels of an N-Triples file.

    Attributes:
        triples: head, relation, tail: IRIs without angle brackets, blank nodes as ``_:name``.
        labels: id and name, one for each resource that has an rdfs:label, skos:prefLabel or
            schema:name.
        literals: number of triples with a literal as object; they are no edges and are left out.
    """

    triples: pl.DataFrame
    labels: pl.DataFrame
    literals: int


def read_ntriples(path: Path, language: str = "en") -> NTriples:
    """Read an N-Triples file, a ``.gz`` one too.

    Args:
        path: the file.
        language: of the labels preferred; next come those without a language, then the others.

    Raises:
        DataError: the first line that is no triple, or no triple between resources at all.
    """
    names = ("subject", "blank", "relation", "object", "blank_object", "literal", "language")
    try:
        lines = pl.scan_csv(
            path,
            separator="\x01",  # a character that no line may contain
            has_header=False,
            schema={"line": pl.String},
            quote_char=None,
        )
        found = (
            lines.filter(~pl.col("line").str.contains(_NO_TRIPLE))
            .select(pl.col("line").str.extract_groups(_TRIPLE).struct.rename_fields(names))
            .unnest("line")
            .select(
                head=pl.coalesce("subject", "blank"),
                relation="relation",
                tail=pl.coalesce("object", "blank_object"),
                # Other literals are only counted, so their text is dropped.
                literal=pl.when(pl.col("relation").is_in(LABELS) | pl.col("literal").is_null())
                .then("literal")
                .otherwise(pl.lit("")),
                language="language",
            )
            .collect(engine="streaming")
        )
    except OSError as error:
        raise DataError.about(path, None, error.strerror or "an error", "a readable file") from None
    except pl.exceptions.PolarsError:
        raise _broken(path) from None
    if found["head"].null_count():
        raise _broken(path)
    literal = found["literal"].is_not_null()
    triples = found.filter(~literal).select("head", "relation", "tail")
    if not len(triples):
        raise DataError.about(path, None, "no triple between resources", "at least one")
    labels = found.filter(literal & found["relation"].is_in(LABELS))
    rank = (
        pl.when(pl.col("language").str.to_lowercase() == language.lower())
        .then(0)
        .when(pl.col("language").is_null())
        .then(1)
        .otherwise(2)
    )
    labels = (
        labels.with_columns(rank=rank)
        .sort("rank", maintain_order=True)
        .unique("head", keep="first", maintain_order=True)
    )
    return NTriples(
        pl.DataFrame([_unescaped(column) for column in triples]),
        pl.DataFrame({"id": _unescaped(labels["head"]), "name": _unescaped(labels["literal"])}),
        int(literal.sum()),
    )


def _broken(path: Path) -> DataError:
    """Error at the first line that is no triple."""
    triple, nothing = re.compile(_TRIPLE), re.compile(_NO_TRIPLE)
    for number, line in numbered_lines(path):
        if not triple.match(line) and not nothing.match(line):
            return DataError.at(path, number, line, "<subject> <predicate> <object> .")
    return DataError.about(path, None, "lines that cannot be read", "N-Triples")


def _unescaped(values: pl.Series) -> pl.Series:
    r"""The column with ``\uXXXX`` and the like resolved."""
    escaped = values.str.contains("\\", literal=True)
    if not escaped.any():
        return values
    table = values.filter(escaped).unique()
    resolved: pl.Series = values.replace(
        table, pl.Series([_unescape(text) for text in table], dtype=pl.String)
    )
    return resolved


def _unescape(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        code = found[1] or found[2]
        return chr(int(code, 16)) if code else _ESCAPED.get(found[3], found[3])

    return _ESCAPE.sub(one, text)

"""Form of a text table: its separator, quotes, header and first lines, from many of its lines."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from ekpnet_fast.data.formats.opened import PlainText, expect_text
from ekpnet_fast.data.formats.parse import Form, long_fields
from ekpnet_fast.data.importing.columns import TABLES, plain
from ekpnet_fast.errors import ConfigError, DataError, quote

__all__ = ["Sniffed", "check_separator", "find_form"]

_MARKS = ("::", "\t", ";", ",", "|")
_MOST = 1000  # records that are looked at
_FEWEST = 3  # values that a column must have to tell of a header
_NEARLY = 0.9  # share of lines that a separator of triples must cut alike to be taken unasked
_EXCEL = re.compile(r'"?sep=(.{1,4}?)"?', re.IGNORECASE)
_COMMENTS = ("#", "%")
_WORDS = {name for roles in TABLES.values() for role in roles for name in role.known}
_ODD = {ord("\r"): " ", ord("\0"): " "}
_SPELLED = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";", "pipe": "|"}


@dataclass(frozen=True, slots=True)
class Sniffed:
    """Form of a text table.

    Attributes:
        form: how it is read.
        names: of its columns, "column 1" and so on where it has none.
        notes: what was left out, in words.
    """

    form: Form
    names: tuple[str, ...]
    notes: tuple[str, ...]


def check_separator(separator: str) -> str:
    """The separator that is meant.

    Raises:
        ConfigError: none, or one that cannot be.
    """
    meant = _SPELLED.get(separator.lower(), separator)
    if not 1 <= len(meant.encode()) <= 4 or any(mark in meant for mark in '"\r\n\0'):
        raise ConfigError(
            f"--separator: found {quote(separator)}, expected one to four characters such as ',' or"
            " '::', or the word tab"
        )
    return meant


def find_form(
    text: PlainText,
    table: str,
    told: Sequence[str],
    suffix: str,
    *,
    separator: str | None = None,
    header: bool | None = None,
) -> Sniffed:
    """Form of a text table by what most of its first thousand lines agree on.

    Args:
        text: the file.
        table: name in ``TABLES``.
        told: names or places of columns that the user gave.
        suffix: of the file's name, in lower case.
        separator: of the user; found where None.
        header: whether the first record holds names; found where None.

    Raises:
        DataError: no rows, or none with columns; says which line.
    """
    lines = [
        expect_text(text.path, number, raw)
        for number, raw in enumerate(text.head.split(b"\n"), start=1)
    ]
    lines = [line.removesuffix("\r") for line in lines]
    skip, excel, comments = _leading(lines)
    if not any(line.strip() for line in lines[skip:]):
        raise DataError.about(text.path, None, "no rows", f"rows of {table}")
    needed = sum(role.required for role in TABLES[table])
    body = lines[skip:]
    mark = separator or excel or None
    if mark is None and table == "kg":
        mark = _tab_or_blanks(body, suffix)
    if mark is None:
        mark = _separator(body, suffix, needed)
    if mark is None:
        number = next(n for n, line in enumerate(body, skip + 1) if line.strip())
        raise DataError.at(
            text.path,
            number,
            lines[number - 1],
            "columns between tabs, commas, ';', '|', '::' or blanks, or --separator",
        )
    quoted = _quoted(body, mark)
    rows = _records(body, mark, quoted)
    width = Counter(map(len, rows)).most_common(1)[0][0]
    # A comment that has the columns of the rows is not one: it names them, or is a row.
    if comments and comments[-1] == skip - 1:
        above = _records([lines[skip - 1]], mark, quoted)[0]
        if len(above) == width and width > 1:
            bare = [above[0].lstrip("#% "), *above[1:]]
            named = _names_columns(table, bare, rows, told)
            if named or above[0][1:2] != " ":
                skip, rows = skip - 1, [bare if named else above, *rows]
                comments = comments[:-1]
    if len(rows[0]) != width:
        number = next(n for n, line in enumerate(lines[skip:], skip + 1) if line.strip())
        found = f"{len(rows[0])} column{'s' * (len(rows[0]) != 1)} in {quote(lines[number - 1])}"
        raise DataError.about(text.path, number, found, f"{width} as in the lines after it")
    if header is None:
        header = _names_columns(table, rows[0], rows[1:], told)
    names = [f"column {place}" for place in range(1, width + 1)]
    if header:
        names = [name.strip() or place for name, place in zip(rows[0], names, strict=True)]
    notes = []
    if excel:
        notes.append(f"line {quote(f'sep={excel}')}, left out")
    if comments:
        shown = quote(lines[comments[0]])
        notes.append(f"{len(comments):,} lines of comments at the start, left out: {shown}")
    return Sniffed(Form(mark, header, quoted, skip), tuple(names), tuple(notes))


def _leading(lines: Sequence[str]) -> tuple[int, str, list[int]]:
    """Number of lines before the first record, Excel's separator, and lines that are comments."""
    excel, comments, skip = "", [], 0
    for place, line in enumerate(lines):
        said = _EXCEL.fullmatch(line.strip(" ")) if not excel else None
        if said:
            excel = said[1]
        elif line.startswith(_COMMENTS):
            comments.append(place)
        elif line.strip():
            break
        skip = place + 1
    if skip == len(lines) and comments:  # then these are rows
        return comments[0], excel, []
    return skip, excel, comments


def _separator(lines: Sequence[str], suffix: str, needed: int) -> str | None:
    """The separator that most lines have equally often, None for no columns."""
    shares: dict[str, float] = {}
    for mark in _MARKS:
        rows = _records(lines, mark, _quoted(lines, mark))
        width, count = Counter(map(len, rows)).most_common(1)[0]
        if width > 1:
            shares[mark] = count / len(rows) - (width < needed)
    if suffix in (".tsv", ".tab") and "\t" in shares:
        return "\t"
    best = max(shares.values(), default=-1.0)
    marks = [mark for mark, share in shares.items() if share == best]
    if suffix == ".csv" and {",", ";"} & {*marks}:
        marks = [mark for mark in marks if mark in (",", ";")]
    if marks:
        # Of several that fit, the others stand inside fields, and so behind it in most lines.
        firsts = Counter(
            min(there, key=line.index)
            for line in islice((line for line in lines if line.strip()), _MOST)
            if (there := [mark for mark in marks if mark in line])
        )
        return firsts.most_common(1)[0][0]
    blanks = Counter(len(line.split()) for line in islice(lines, _MOST) if line.strip())
    if blanks.most_common(1)[0][0] > 1:
        return " "
    return "\t" if needed == 1 else None


def _tab_or_blanks(lines: Sequence[str], suffix: str) -> str | None:
    """Tab or blanks where they cut nearly all lines of triples or edges alike, else None.

    The ids of graphs often hold commas (`Chicago,_Illinois`), and seldom tabs or blanks.
    """
    if _width(_records(lines, "\t", _quoted(lines, "\t"))) > 1:
        return "\t"
    rows = _records(lines, " ", False)
    width = _width(rows)
    if width not in (2, 3):
        return None
    if suffix == ".edgelist":
        return " "
    for mark in _MARKS:
        others = _records(lines, mark, _quoted(lines, mark))
        if _width(others) > 1 and _is_before_blanks(lines, mark, width, rows, others, suffix):
            return None
    return " "


def _is_before_blanks(
    lines: Sequence[str],
    mark: str,
    width: int,
    rows: Sequence[Sequence[str]],
    others: Sequence[Sequence[str]],
    suffix: str,
) -> bool:
    """Whether a mark is likelier to separate than blanks, where both cut nearly all lines alike.

    `rows` are the fields between blanks, of which there are `width`, and `others` the mark's.
    """
    if suffix == ".csv" and mark in (",", ";"):
        return True
    some = list(islice((line for line in lines if line.strip()), _MOST))
    cut = (any(f.endswith(mark) or f.count('"') % 2 for f in row[:-1]) for row in rows)
    if sum(cut) >= _NEARLY * len(rows):
        return True  # `a, b, c` or `"a b",c`
    inside = [line.replace(f"{mark}_", "") for line in some]  # `_` is the blank of such ids
    if _width(_records(inside, mark, _quoted(inside, mark))) < 2:
        return False
    wide = _width(others)
    if width == 3 and wide == 3:  # the fewer relations
        by_mark, by_blanks = ({row[1] for row in way if len(row) == 3} for way in (others, rows))
        return len(by_mark) <= len(by_blanks)
    if width == 3 and wide == 2:
        return False
    # What stands inside fields is behind the separator in most lines.
    ahead = sum(line.lstrip().split()[0].find(mark) > 0 for line in some)
    return 2 * ahead > len(some)


def _width(rows: Sequence[Sequence[str]]) -> int:
    """Number of columns of nearly all rows, 0 where they differ."""
    width, count = next(iter(Counter(map(len, rows)).most_common(1)), (0, 0))
    return width if count >= _NEARLY * len(rows) else 0


def _quoted(lines: Sequence[str], mark: str) -> bool:
    """Whether quotes around fields are no part of them.

    Between commas and their like they never are. Files with tabs often hold bare quotes, so there
    every field of a column must be in quotes, or one must be that would need them.
    """
    if mark in (",", ";", "|"):
        return True
    rows = _records(lines, mark, False)
    width = Counter(map(len, rows)).most_common(1)[0][0]
    rows = [row for row in rows if len(row) == width]
    whole = re.compile(r'"(?:[^"]|"")*"')
    fields = [field for row in rows for field in row if field.startswith('"')]
    if not fields or not all(whole.fullmatch(field) for field in fields):
        return False
    if any('""' in field[1:-1] for field in fields):
        return True
    return any(
        all(row[place].startswith('"') for row in rows if row[place]) for place in range(width)
    ) and any(len(row) > 0 for row in rows)


def _records(lines: Sequence[str], mark: str, quoted: bool) -> list[list[str]]:
    """Fields of the first records that are not blank."""
    some = (line for line in lines if line.strip())
    if mark == " ":
        return [line.split() for line in islice(some, _MOST)]
    if not quoted or len(mark) > 1:
        rows = [line.split(mark) for line in islice(some, _MOST)]
        if quoted:
            rows = [[field.strip('"').replace('""', '"') for field in row] for row in rows]
        return rows
    with long_fields():
        # A line's own CR, or in Python 3.10 a NUL, would end in an error without its line.
        plain_lines = (line.translate(_ODD) + "\n" for line in lines)
        reader = csv.reader(plain_lines, delimiter=mark)
        return list(islice((row for row in reader if any(f.strip() for f in row)), _MOST))


def _names_columns(
    table: str, first: Sequence[str], rest: Sequence[Sequence[str]], told: Sequence[str]
) -> bool:
    """Whether a record holds the names of columns.

    It does with a name that the user gave. Else none of its fields may occur again below, and it
    must have a name that is known for the table, or words above values that all hold digits.
    """
    if any(field.strip() in told and not field.strip().isdecimal() for field in first):
        return True
    rows = [row for row in rest if len(row) == len(first)]
    if any(row == list(first) for row in rows):
        rows = [row for row in rows if row != list(first)]  # of files that were joined
    below = [{row[place] for row in rows} for place in range(len(first))]
    if any(field in values for field, values in zip(first, below, strict=True) if field.strip()):
        return False
    known = {name for role in TABLES[table] for name in role.known}
    found = sum(plain(field) in known for field in first)
    number = any(re.fullmatch(r"\s*[+-]?[0-9]+(?:[.][0-9]*)?\s*", field) for field in first)
    if found > 1 or (found and not number):
        return True
    if table == "kg" and len(first) == 2 and all(plain(field) in _WORDS for field in first):
        return True  # such as `id,name`, which is no edge
    return (
        not number
        and len(rows) >= _FEWEST
        and any(
            re.search(r"[^\W\d]", field) is not None
            and re.search(r"\d", field) is None
            and all(re.search(r"\d", value) for value in values if value)
            and any(values)
            for field, values in zip(first, below, strict=True)
        )
    )

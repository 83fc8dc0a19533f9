"""Roles of a table's columns: found by name, by place, or given by the user."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ekpnet_fast.errors import DataError, quote

__all__ = ["TABLES", "Match", "Role", "match_columns", "plain", "unused"]


@dataclass(frozen=True, slots=True)
class Role:
    """Role that a column can have.

    Attributes:
        name: of the role.
        known: column names that mean it, likeliest first, in lower case without marks.
        required: a table without it cannot be used.
        option: the option that names the column, as in Python.
    """

    name: str
    known: tuple[str, ...]
    required: bool = True
    option: str = ""

    @property
    def flag(self) -> str:
        """Option on the command line."""
        return "--" + self.option.replace("_", "-")


@dataclass(frozen=True, slots=True)
class Match:
    """Column of a role: its 0-based place, its name, and how it was found."""

    role: str
    index: int
    column: str
    how: str  # "as told", "by its name", "by its place", "by its values"


_USER = (
    "user userid uid customer customerid member memberid visitor visitorid account"
    " accountid reader readerid listener listenerid reviewer reviewerid person personid"
)
_ITEM = (
    "item itemid iid movie movieid film filmid book bookid isbn product productid parentasin asin"
    " sku artist artistid track trackid song songid article articleid news newsid game gameid"
    " anime animeid business businessid place placeid recipe recipeid"
)
_ENTITY = "entity entityid kgid node nodeid freebaseid mid wikidataid wikidata qid uri iri concept"
_NAME = "name title label fullname displayname"


def _role(name: str, known: str, *, required: bool = True, option: str = "") -> Role:
    return Role(name, tuple(known.split()), required, option or name)


TABLES: dict[str, tuple[Role, ...]] = {
    "interactions": (
        _role("user", _USER),
        _role("item", _ITEM),
        _role("label", "label clicked", required=False),
        _role(
            "rating",
            "rating score stars overall bookrating ratingvalue weight playcount plays",
            required=False,
        ),
        _role(
            "time",
            "timestamp time date datetime ts when unixtime unixreviewtime createdat",
            required=False,
        ),
    ),
    "kg": (
        _role("head", "head headid headentity h subject subjectid subj s source src from"),
        _role("relation", "relation relationid rel r predicate pred p property edge edgetype type"),
        _role("tail", "tail tailid tailentity t object objectid obj o target dst to"),
    ),
    "links": (
        _role("item", _ITEM, option="links_item"),
        _role("entity", _ENTITY, option="links_entity"),
    ),
    "users": (
        _role("user", f"{_USER} id", option="users_id"),
        _role("name", f"username {_NAME}", required=False, option="users_name"),
    ),
    "items": (
        _role("item", f"{_ITEM} id", option="items_id"),
        _role(
            "name", f"itemname movietitle booktitle {_NAME}", required=False, option="items_name"
        ),
    ),
    "entities": (
        _role("entity", f"{_ENTITY} id", option="entities_id"),
        _role("name", f"entityname {_NAME}", required=False, option="entities_name"),
    ),
}


def match_columns(
    path: Path,
    table: str,
    names: Sequence[str],
    told: Mapping[str, str],
    *,
    header: bool,
    edges: bool = False,
) -> tuple[Match, ...]:
    """Find the columns of a table's roles.

    Args:
        path: for messages.
        table: name in ``TABLES``.
        names: of all columns, in order.
        told: column by role, a name or a place counted from 1; a number is always a place.
        header: the names come from the file; without, columns go by their place.
        edges: two columns of triples may be heads and tails alone, by their names where they have
            any.

    Raises:
        DataError: a column that is not there, there twice, or cannot be guessed; names the option.
    """
    shown = ", ".join(names)
    roles = TABLES[table]
    if edges and len(names) == 2 and _are_ends(names, told, header=header):
        roles = tuple(role for role in roles if role.name != "relation")
    line = 1 if header else None
    known = {*told.values(), *(word for role in roles for word in role.known)}
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    twice = [name for name in twice if {name, plain(name)} & known]  # others are not used
    if twice:
        raise DataError.about(path, line, f"column {twice[0]!r} twice", "distinct column names")
    matches: dict[str, Match] = {}
    for role in roles:
        wanted = told.get(role.name)
        if wanted is None:
            continue
        place = int(wanted) if re.fullmatch("[0-9]{1,9}", wanted) else 0
        if 1 <= place <= len(names):
            index = place - 1
        elif not place and wanted in names:
            index = list(names).index(wanted)
        else:
            raise DataError.about(
                path, line, f"columns {shown}", f"{role.flag} {wanted!r}, a name or a place from 1"
            )
        matches[role.name] = Match(role.name, index, names[index], "as told")
    if header:
        words = [plain(name) for name in names]
        for role in roles:
            taken = {match.index for match in matches.values()}
            free = [k for k in role.known if k in words and words.index(k) not in taken]
            if role.name not in matches and free:
                index = words.index(free[0])
                alike = [name for name, word in zip(names, words, strict=True) if word == free[0]]
                if len(alike) > 1:
                    raise DataError.about(
                        path,
                        line,
                        f"columns {' and '.join(map(quote, alike))}",
                        f"one for {role.name}; say which: {role.flag} COLUMN",
                    )
                matches[role.name] = Match(role.name, index, names[index], "by its name")
    missing = [role for role in roles if role.required and role.name not in matches]
    optional = {role.name for role in roles if not role.required}
    if missing and (not matches if header else optional.issuperset(matches)):
        # No name is known, so the usual order is the best guess, for as many as there are.
        places = [r for r in roles if r.required or r.name in ("rating", "name")]
        places = [role for role in places if role.name not in matches]
        taken = {match.index for match in matches.values()}
        left = [index for index in range(len(names)) if index not in taken]
        if len(missing) <= len(left) and not (header and len(names) > len(missing)):
            for index, role in zip(left, places, strict=False):
                matches[role.name] = Match(role.name, index, names[index], "by its place")
            missing = []
    if missing:
        raise DataError.about(
            path,
            line,
            f"columns {shown}",
            f"one for {missing[0].name}; say which: {missing[0].flag} COLUMN",
        )
    clash = [
        m for m in matches.values() for n in matches.values() if m is not n and m.index == n.index
    ]
    if clash:
        both = " and ".join(match.role for match in clash[:2])
        raise DataError.about(
            path, line, f"column {clash[0].column!r} as {both}", "one column each"
        )
    return tuple(matches[role.name] for role in roles if role.name in matches)


def _are_ends(names: Sequence[str], told: Mapping[str, str], *, header: bool) -> bool:
    """Whether two columns of triples are heads and tails; names must say so where there are any."""
    known = {role.name: role.known for role in TABLES["kg"]}
    found = {role for role in known if role in told}
    if header:
        words = {plain(name) for name in names}
        found |= {role for role in known if words.intersection(known[role])}
    return "relation" not in found and (bool(found) or not header)


def plain(name: str) -> str:
    """A name in lower case, without marks."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def unused(matches: Sequence[Match], names: Sequence[str], skip: Sequence[str]) -> tuple[str, ...]:
    """Notes of columns that are not used, and of those whose role is not wanted."""
    known = {match.column for match in matches}
    others = [name for name in names if name not in known]
    notes = [f"columns not used: {', '.join(others)}"] if others else []
    return tuple(notes) + tuple(
        f"column {match.column} ({match.role}), dropped: another column decides what is a positive"
        for match in matches
        if match.role in skip
    )

"""Checks of imported data by statements, for what does not fit into memory.

They find what `checks` finds in memory, in the same words. Ids that look the same are told by the
engine's lower case, which for some letters outside ASCII (such as the German sharp s) is less than
Python's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ekpnet_fast.data.formats.frames import Frame, Texts
from ekpnet_fast.data.formats.mapping import Sheet
from ekpnet_fast.data.importing.checks import (
    FEWEST_POSITIVES,
    HUB_SHARE,
    LOWEST_SHARE,
    Stop,
    samples,
    what_would_match,
    why_unlinked,
    without_times,
)
from ekpnet_fast.data.stats import Finding
from ekpnet_fast.errors import quote

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["Sources", "examine_tables"]

_LOOKED_AT = 100_000  # ids of each side, where it is told what would make them meet
_BARE = (  # blanks, case, what nobody sees, leading zeros and ".0" after digits left out
    r"regexp_replace(lower(nfc_normalize(trim(regexp_replace(regexp_replace(text,"
    r" '[\x{ad}\x{200b}-\x{200f}\x{2060}\x{feff}]', '', 'g'), '\s+', ' ', 'g')))),"
    r" '^0*([0-9]+?)(?:[.]0*)?$', '\1')"
)


class Sources:
    """Files of an import: paths of the tables that there are, and what was asked for.

    Args:
        paths: the first file of each table.
        graded, labelled, with_times: whether interactions have ratings, labels, or times.
        threshold: smallest rating that is a positive.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        *,
        graded: bool,
        labelled: bool,
        with_times: bool,
        threshold: float | None,
    ) -> None:
        self.paths = paths
        self.graded = graded
        self.labelled = labelled
        self.with_times = with_times
        self.threshold = threshold

    @property
    def positive(self) -> str:
        """Condition in SQL that a numbered pair is a positive."""
        if self.labelled:
            return "label = 1"
        return "true" if self.threshold is None else f"rating >= {self.threshold!r}"


def examine_tables(
    connection: DuckDBPyConnection, sources: Sources
) -> tuple[tuple[Finding, ...], tuple[Stop, ...]]:
    """Check the numbered tables of an import.

    Returns:
        Findings and reasons to stop, as `checks.examine`.
    """

    def ask(select: str) -> tuple[Any, ...]:
        found: tuple[Any, ...] = connection.execute(select).fetchall()[0]
        return found

    positives = f"(SELECT * FROM pair WHERE {sources.positive})"
    items, users = ask("SELECT (SELECT count(*) FROM item_number), count(*) FROM user_number")
    entities = items + ask("SELECT count(*) FROM other_entity")[0]
    # Each entity in triples with the number of its triples, an own loop counted once.
    connection.execute(
        "CREATE TABLE degree AS SELECT entity, sum(count)::BIGINT AS count FROM ("
        "SELECT head AS entity, count(*) AS count FROM triple GROUP BY head UNION ALL"
        " SELECT tail, count(*) FROM triple WHERE head <> tail GROUP BY tail) GROUP BY entity"
    )
    triples, loops = ask("SELECT count(*), count(*) FILTER (WHERE head = tail) FROM triple")
    with_triples, of_items = ask(
        f"SELECT count(*), count(*) FILTER (WHERE entity < {items}) FROM degree"
    )
    distinct = ask("SELECT count(*) FROM (SELECT DISTINCT head, relation, tail FROM triple)")[0]
    clicks, clicked_once, several = ask(
        "SELECT coalesce(sum(n), 0)::BIGINT, count(*) FILTER (WHERE n = 1),"
        " count(*) FILTER (WHERE n > 1)"
        f' FROM (SELECT count(*) AS n FROM {positives} GROUP BY "user")'
    )
    clicked_items = ask(f"SELECT count(DISTINCT item) FROM {positives}")[0]
    touched_items = ask("SELECT count(DISTINCT item) FROM pair")[0]
    graph = triples > 0  # without, entities and items have no triples to miss
    findings = [
        Finding(
            "orphan entities", graph * (entities - with_triples), "entity ids without any triple"
        ),
        Finding(
            "items without triples",
            graph * (items - of_items),
            "their ripple sets are empty: only clicks tell about them",
        ),
        Finding("duplicate triples", triples - distinct, "drawn more often than others"),
        Finding("self-loops", loops, "triples from an entity to itself"),
        Finding(
            "items without rows",
            items - touched_items,
            "nobody touched them, but lists may have them",
        ),
        *_row_findings(connection, sources),
        Finding("users with one click", clicked_once, "it is in train or it is tested, never both"),
        Finding(
            "items without clicks",
            items - clicked_items,
            "negatives are drawn from them as well, which flatters AUC",
        ),
        *(_link_findings(connection) if "links" in sources.paths else ()),
        *([_hubs(connection, triples)] if triples else ()),
        *_alike(connection),
    ]
    stops: list[Stop] = []
    path = sources.paths["interactions"]
    if triples and not of_items:
        stops.append(Stop(_unlinked(connection, sources), False))
    elif triples and clicks:
        share = (
            ask(f"SELECT count(*) FROM {positives} SEMI JOIN degree ON item = entity")[0] / clicks
        )
        if share < LOWEST_SHARE:
            stops.append(
                Stop(
                    f"{path}: found {share:.1%} of the clicks on items with triples,"
                    f" expected {LOWEST_SHARE:.0%} or more, else the graph tells next to nothing",
                    True,
                )
            )
    stops += _click_stops(connection, sources, clicks, several, users, items)
    stops += _strangers(connection, sources)
    return tuple(finding for finding in findings if finding.count), tuple(stops)


def _row_findings(connection: DuckDBPyConnection, sources: Sources) -> list[Finding]:
    rows, pairs, dropped = connection.execute(
        'SELECT (SELECT count(*) FROM interactions SEMI JOIN user_number ON "user" = text),'
        ' (SELECT count(*) FROM pair), (SELECT count(DISTINCT "user") FROM interactions)'
        " - (SELECT count(*) FROM user_number)"
    ).fetchall()[0]
    untimed = 0
    if sources.with_times:
        untimed = connection.execute(
            "SELECT count(*) FROM interactions WHERE time IS NULL"
        ).fetchall()[0][0]
    graded = sources.graded
    findings = [
        Finding(
            "repeated interactions",
            rows - pairs,
            "counted once, by the best rating" if graded else "counted once",
        ),
        Finding(
            "users without a positive",
            dropped,
            "left out: there is nothing to learn or to test",
        ),
        without_times(untimed),
    ]
    if graded and sources.threshold is None:
        count, low, high = connection.execute(
            "SELECT count(*), min(rating), max(rating) FROM interactions"
        ).fetchall()[0]
        findings.append(
            Finding(
                "ratings without a threshold",
                count,
                f"from {low:g} to {high:g}; all count as clicks, --threshold makes the low ones"
                " none",
            )
        )
    return findings


def _link_findings(connection: DuckDBPyConnection) -> list[Finding]:
    shared = connection.execute("SELECT coalesce(sum(items - 1), 0) FROM first_link").fetchall()
    findings = []
    for name, select, meaning in (
        (
            "items without a link",
            "SELECT text, n.rowid AS place FROM item_number n ANTI JOIN links l ON n.text = l.item",
            "such as {}",
        ),
        (
            "links of unknown items",
            "SELECT l.item AS text, min(l.rowid) AS place FROM links l SEMI JOIN first_link f"
            " ON l.item = f.item ANTI JOIN item_number n ON l.item = n.text GROUP BY l.item",
            "such as {}; their entities stay ordinary ones",
        ),
    ):
        count = connection.execute(f"SELECT count(*) FROM ({select})").fetchall()[0][0]
        some = connection.execute(f"SELECT text FROM ({select}) ORDER BY place LIMIT 2").fetchall()
        findings.append(Finding(name, count, meaning.format(samples([row[0] for row in some]))))
    findings.append(
        Finding(
            "items that share an entity",
            int(shared[0][0]),
            "the first in the links has it, the others stay without",
        )
    )
    return findings


def _hubs(connection: DuckDBPyConnection, triples: int) -> Finding:
    top, degree = connection.execute(
        "SELECT entity, count FROM degree ORDER BY count DESC, entity LIMIT 1"
    ).fetchall()[0]
    count = connection.execute(
        f"SELECT count(*) FROM degree WHERE count > {max(100, HUB_SHARE * triples)!r}"
    ).fetchall()[0][0]
    name = connection.execute(f"SELECT text FROM entity_number WHERE number = {top}").fetchall()
    return Finding(
        "hubs",
        count,
        f"entities in more than {HUB_SHARE:.0%} of the triples; the largest,"
        f" {quote(name[0][0])}, is in {degree / triples:.0%}",
    )


def _alike(connection: DuckDBPyConnection) -> list[Finding]:
    """Findings of ids that are different but look the same."""
    findings = []
    for kind, table, place in (
        ("users", "user_number", "rowid"),
        ("items", "item_number", "rowid"),
        ("entities", "entity_number", "number"),
        ("relations", "relation_number", "rowid"),
    ):
        again = (
            f"(SELECT bare, count(*) AS count, min(place) AS place FROM"
            f" (SELECT {_BARE} AS bare, {place} AS place FROM {table})"
            f" GROUP BY bare HAVING count(*) > 1)"
        )
        count = connection.execute(f"SELECT coalesce(sum(count - 1), 0) FROM {again}").fetchall()
        if not count[0][0]:
            continue
        # The first that looks like an earlier one, and that one.
        pair = connection.execute(
            f"SELECT f.text, s.text FROM (SELECT text, {place} AS place, {_BARE} AS bare"
            f" FROM {table}) s JOIN {again} a ON s.bare = a.bare AND s.place > a.place"
            f" JOIN {table} f ON f.{place} = a.place ORDER BY s.place LIMIT 1"
        ).fetchall()[0]
        findings.append(
            Finding(
                f"{kind} that differ by blanks, case or zeros alone",
                int(count[0][0]),
                f"such as {' and '.join(map(quote, pair))}; they are kept apart",
            )
        )
    return findings


def _click_stops(
    connection: DuckDBPyConnection,
    sources: Sources,
    clicks: int,
    several: int,
    users: int,
    items: int,
) -> list[Stop]:
    path = sources.paths["interactions"]
    stops = []
    if sources.labelled:
        negatives = connection.execute("SELECT count(*) FROM pair WHERE label = 0").fetchall()[0][0]
        if not clicks or not negatives:
            stops.append(
                Stop(
                    f"{path}: found {clicks:,} labels 1 and {negatives:,} labels 0, expected"
                    " both; without --label every row is a click and negatives are drawn",
                    False,
                )
            )
    else:
        fewest = connection.execute(
            'SELECT min(n) FROM (SELECT count(*) AS n FROM pair GROUP BY "user")'
        ).fetchall()[0][0]
        if fewest == items:
            stops.append(
                Stop(
                    f"{path}: found users with all {items:,} items, expected some items"
                    " without a click, because negatives are drawn from them",
                    False,
                )
            )
    if 0 < clicks < FEWEST_POSITIVES:
        stops.append(
            Stop(
                f"{path}: found {clicks} clicks, expected {FEWEST_POSITIVES} or more to split"
                " them 6:2:2",
                False,
            )
        )
    if clicks and several < LOWEST_SHARE * users:
        stops.append(
            Stop(
                f"{path}: found {several:,} of {users:,} users with more than one"
                f" click, expected {LOWEST_SHARE:.0%} or more, because a history comes from earlier"
                " clicks; is the user column one of users?",
                several > 0,
            )
        )
    return stops


def _strangers(connection: DuckDBPyConnection, sources: Sources) -> list[Stop]:
    """Stops for tables of ids and names none of which occurs."""
    stops = []
    for table in ("users", "items", "entities"):
        if table not in sources.paths:
            continue
        where, column = "the triples", "SELECT text, place FROM entity_text"
        if table != "entities":
            where = "the interactions"
            column = (
                f'SELECT "{table[:-1]}" AS text, min(rowid) AS place FROM interactions GROUP BY 1'
            )
        if connection.execute(
            f"SELECT 1 FROM {table} SEMI JOIN ({column}) ON id = text LIMIT 1"
        ).fetchall():
            continue
        left = _some(connection, f"SELECT id AS text, rowid AS place FROM {table}")
        right = _some(connection, column)
        change = what_would_match(left, right)
        hint = f"; they match with {change}" if change else ""
        stops.append(
            Stop(
                f"{sources.paths[table]}: found no id of --{table} in {where} ({samples(left)} on"
                f" one side, {samples(right)} on the other), expected some{hint}",
                True,
            )
        )
    return stops


def _unlinked(connection: DuckDBPyConnection, sources: Sources) -> str:
    """Why no item has triples, by some ids of each side."""

    def sheet(table: str, columns: Mapping[str, str]) -> Sheet:
        texts = {role: Texts.of(_some(connection, select)) for role, select in columns.items()}
        return Sheet(sources.paths[table], Frame({k: v for k, v in texts.items()}, {}))

    def of(column: str, table: str) -> str:
        return f'SELECT "{column}" AS text, min(rowid) AS place FROM {table} GROUP BY 1'

    links = None
    if "links" in sources.paths:
        links = sheet("links", {role: of(role, "links") for role in ("item", "entity")})
    return why_unlinked(
        _some(connection, "SELECT text, rowid AS place FROM item_number"),
        sheet("interactions", {"user": of("user", "interactions")}),
        sheet("kg", {role: of(role, "kg") for role in ("head", "tail")}),
        links,
    )


def _some(connection: DuckDBPyConnection, select: str) -> list[str]:
    """First texts of a statement that gives text and place."""
    found = connection.execute(
        f"SELECT text FROM ({select}) ORDER BY place LIMIT {_LOOKED_AT}"
    ).fetchall()
    return [row[0] for row in found]

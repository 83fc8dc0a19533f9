"""Checks of imported data: oddities, and reasons that make training meaningless."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.formats.assemble import Assembled
from ekpnet_fast.data.formats.mapping import Sheet
from ekpnet_fast.data.stats import Finding, check
from ekpnet_fast.data.tables import Dataset
from ekpnet_fast.data.temporal import shown_time
from ekpnet_fast.errors import quote

__all__ = [
    "FEWEST_POSITIVES",
    "HUB_SHARE",
    "LOWEST_SHARE",
    "NO_TIME",
    "Stop",
    "examine",
    "samples",
    "times_note",
    "what_would_match",
    "why_unlinked",
    "without_times",
]

HUB_SHARE = 0.05  # of the triples; an entity with more is a hub
FEWEST_POSITIVES = 10  # fewer cannot be split 6:2:2 with both labels in every part
LOWEST_SHARE = 0.1  # below, an import stops unless forced


NO_TIME = "a row without a time", "a number or a date by ISO 8601, like that of the first row"


def times_note(low: float | None, high: float | None) -> str:
    """Note of a data set about the times of its pairs, from the earliest to the latest."""
    if low is None or high is None:
        return "times: none"
    return f"times: {shown_time(low)} to {shown_time(high)}"


def without_times(count: int) -> Finding:
    """Finding about rows of a column of times that have none."""
    return Finding(
        "rows without a time", count, "so times are not kept, and no split can be by time"
    )


@dataclass(frozen=True, slots=True)
class Stop:
    """Reason why training would be meaningless.

    Attributes:
        message: found and expected, on one line.
        forceable: whether ``--force`` may override it.
    """

    message: str
    forceable: bool


def examine(
    assembled: Assembled,
    interactions: Sheet,
    kg: Sheet,
    links: Sheet | None,
    given: Mapping[str, tuple[Path, Collection[str]]],
) -> tuple[tuple[Finding, ...], tuple[Stop, ...]]:
    """Check a data set assembled from files.

    Args:
        assembled: the data set.
        interactions, kg, links: its sources; without links an item is the
            entity of the same name.
        given: file and ids of each of the tables "users", "items" and "entities" that there is.

    Returns:
        Findings, those of :func:`stats.check` first, and reasons to stop.
    """
    dataset = assembled.dataset
    users, items = _positives(dataset)
    in_graph = np.zeros(dataset.num_items, dtype=np.bool_)
    for column in (dataset.heads, dataset.tails):
        in_graph[column[column < dataset.num_items]] = True
    per_user = np.bincount(users, minlength=dataset.num_users)
    per_item = np.bincount(items, minlength=dataset.num_items)
    findings = [
        *check(dataset),
        *_row_findings(assembled, interactions),
        Finding(
            "users with one click",
            int(np.count_nonzero(per_user == 1)),
            "it is in train or it is tested, never both",
        ),
        Finding(
            "items without clicks",
            int(np.count_nonzero(per_item == 0)),
            "negatives are drawn from them as well, which flatters AUC",
        ),
        *_link_findings(assembled, links),
        *(_hubs(dataset) if dataset.num_triples else ()),
        *_alike(dataset),
    ]
    stops: list[Stop] = []
    if dataset.num_triples and not in_graph.any():
        stops.append(Stop(why_unlinked(dataset.item_ids or (), interactions, kg, links), False))
    elif dataset.num_triples and len(items):
        share = float(in_graph[items].mean())
        if share < LOWEST_SHARE:
            stops.append(
                Stop(
                    f"{interactions.path}: found {share:.1%} of the clicks on items with triples,"
                    f" expected {LOWEST_SHARE:.0%} or more, else the graph tells next to nothing",
                    True,
                )
            )
    stops += _click_stops(dataset, interactions, per_user)
    stops += _strangers(interactions, kg, given)
    return tuple(finding for finding in findings if finding.count), tuple(stops)


def why_unlinked(items: Sequence[str], interactions: Sheet, kg: Sheet, links: Sheet | None) -> str:
    """Message about where the way from items to triples breaks, with the remedy."""
    entities = list(dict.fromkeys((*kg.frame.texts["head"].seen(), *kg.frame.texts["tail"].seen())))
    left: Sequence[str]
    right: Sequence[str]
    if links is None:
        where, left, right = kg.path, items, entities
        what = "entity named like an item"
        hint = "; without --links an item and its entity have one id"
    elif not {*items} & {*links.frame.texts["item"].seen()}:
        where, left, right = links.path, items, links.frame.texts["item"].seen()
        what, hint = "link of an item with clicks", ""
    else:
        where, left, right = links.path, links.frame.texts["entity"].seen(), entities
        what, hint = "linked entity in the triples", ""
    change = what_would_match(left, right)
    if change:
        hint = f"; they match with {change}"
    elif _match({*interactions.frame.texts["user"].seen()}, {*right}):
        hint = "; the users match, so the columns of users and items may be exchanged"
    return (
        f"{where}: found no {what} ({samples(left)} on one side, {samples(right)} on the"
        f" other), expected some{hint}"
    )


def _positives(dataset: Dataset) -> tuple[NDArray[Any], NDArray[Any]]:
    if dataset.rows is not None:
        chosen = dataset.rows.labels == 1
        return dataset.rows.users[chosen], dataset.rows.items[chosen]
    clicks = dataset.interactions
    assert clicks is not None
    return clicks.users[clicks.positive], clicks.items[clicks.positive]


def _row_findings(assembled: Assembled, interactions: Sheet) -> list[Finding]:
    frame, dataset = interactions.frame, assembled.dataset
    graded = "rating" in frame and dataset.interactions is not None
    findings = [
        Finding(
            "repeated interactions",
            assembled.repeated,
            "counted once, by the best rating" if graded else "counted once",
        ),
        Finding(
            "users without a positive",
            assembled.dropped_users,
            "left out: there is nothing to learn or to test",
        ),
        without_times(int(np.isnan(frame.numbers.get("time", np.zeros(0))).sum())),
    ]
    if graded and dataset.interactions is not None and dataset.interactions.threshold is None:
        ratings = frame.numbers["rating"]
        findings.append(
            Finding(
                "ratings without a threshold",
                len(frame),
                f"from {ratings.min():g} to {ratings.max():g}; all count as clicks, --threshold"
                " makes the low ones none",
            )
        )
    return findings


def _link_findings(assembled: Assembled, links: Sheet | None) -> list[Finding]:
    dataset, linked = assembled.dataset, assembled.links
    if links is None:
        return []
    item_ids = dataset.item_ids or ()
    known, tied = {*item_ids}, {*links.frame.texts["item"].seen()}
    unlinked = [item for item in item_ids if item not in tied]
    unknown = [item for item in linked.items if item not in known]
    return [
        Finding("items without a link", len(unlinked), f"such as {samples(unlinked)}"),
        Finding(
            "links of unknown items",
            len(unknown),
            f"such as {samples(unknown)}; their entities stay ordinary ones",
        ),
        Finding(
            "items that share an entity",
            linked.shared,
            "the first in the links has it, the others stay without",
        ),
    ]


def _hubs(dataset: Dataset) -> list[Finding]:
    size, triples = dataset.num_entities, dataset.num_triples
    loops = dataset.heads[dataset.heads == dataset.tails]
    degree = np.bincount(dataset.heads, minlength=size) + np.bincount(dataset.tails, minlength=size)
    degree -= np.bincount(loops, minlength=size)
    top = int(degree.argmax())
    assert dataset.entity_ids is not None
    return [
        Finding(
            "hubs",
            int(np.count_nonzero(degree > max(100, HUB_SHARE * triples))),
            f"entities in more than {HUB_SHARE:.0%} of the triples; the largest,"
            f" {quote(dataset.entity_ids[top])}, is in {degree[top] / triples:.0%}",
        )
    ]


def _click_stops(dataset: Dataset, interactions: Sheet, per_user: NDArray[Any]) -> list[Stop]:
    path, positives = interactions.path, int(per_user.sum())
    stops = []
    if dataset.rows is not None:
        negatives = len(dataset.rows) - positives
        if not positives or not negatives:
            stops.append(
                Stop(
                    f"{path}: found {positives:,} labels 1 and {negatives:,} labels 0, expected"
                    " both; without --label every row is a click and negatives are drawn",
                    False,
                )
            )
    elif dataset.interactions is not None:
        touched = np.bincount(dataset.interactions.users, minlength=dataset.num_users)
        if int(touched.min()) == dataset.num_items:
            stops.append(
                Stop(
                    f"{path}: found users with all {dataset.num_items:,} items, expected some items"
                    " without a click, because negatives are drawn from them",
                    False,
                )
            )
    if 0 < positives < FEWEST_POSITIVES:
        stops.append(
            Stop(
                f"{path}: found {positives} clicks, expected {FEWEST_POSITIVES} or more to split"
                " them 6:2:2",
                False,
            )
        )
    several = int(np.count_nonzero(per_user > 1))
    if positives and several < LOWEST_SHARE * dataset.num_users:
        stops.append(
            Stop(
                f"{path}: found {several:,} of {dataset.num_users:,} users with more than one"
                f" click, expected {LOWEST_SHARE:.0%} or more, because a history comes from earlier"
                " clicks; is the user column one of users?",
                several > 0,
            )
        )
    return stops


def _strangers(
    interactions: Sheet, kg: Sheet, given: Mapping[str, tuple[Path, Collection[str]]]
) -> list[Stop]:
    """Stops for tables of ids and names none of which occurs."""
    stops = []
    for table, (path, ids) in given.items():
        if table == "entities":
            column = [*kg.frame.texts["head"].seen(), *kg.frame.texts["tail"].seen()]
        else:
            column = interactions.frame.texts[table[:-1]].seen()
        if not {*ids} & {*column}:
            where = "the triples" if table == "entities" else "the interactions"
            change = what_would_match(list(ids), column)
            hint = f"; they match with {change}" if change else ""
            stops.append(
                Stop(
                    f"{path}: found no id of --{table} in {where} ({samples(list(ids))} on one"
                    f" side, {samples(column)} on the other), expected some{hint}",
                    True,
                )
            )
    return stops


def _alike(dataset: Dataset) -> list[Finding]:
    """Findings of ids that are different but look the same."""
    findings = []
    for kind, ids in (
        ("users", dataset.user_ids),
        ("items", dataset.item_ids),
        ("entities", dataset.entity_ids),
        ("relations", dataset.relation_names),
    ):
        first: dict[str, str] = {}
        again = []
        for text in filter(None, ids or ()):
            other = first.setdefault(_bare(text), text)
            if other != text:
                again.append((other, text))
        if again:
            shown = " and ".join(map(quote, again[0]))
            findings.append(
                Finding(
                    f"{kind} that differ by blanks, case or zeros alone",
                    len(again),
                    f"such as {shown}; they are kept apart",
                )
            )
    return findings


def _bare(text: str) -> str:
    """A text without case, blanks, what nobody sees, leading zeros, and ".0" after digits."""
    if not text.isascii():
        text = _UNSEEN.sub("", unicodedata.normalize("NFC", text).casefold())
    text = " ".join(text.lower().split())
    number = _WHOLE.fullmatch(text)
    return text if number is None else number[1]


_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_WHOLE = re.compile("0*([0-9]+?)(?:[.]0*)?")


_CHANGES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("blanks around ids taken off", str.strip),
    ("quotes around ids taken off", lambda text: text.strip("\"'")),
    ("'.0' at the end of ids taken off", lambda text: text.removesuffix(".0")),
    ("leading zeros of ids taken off", lambda text: re.sub(r"^0+(\d)", r"\1", text)),
    ("angle brackets around ids taken off", lambda text: text.strip("<>")),
    ("upper and lower case taken as one", str.lower),
    (
        "only the part of ids after the last '/', '#' or ':'",
        lambda text: re.split("[/#:]", text.strip("<>"))[-1],
    ),
)


def what_would_match(left: Collection[str], right: Collection[str]) -> str:
    """Change of ids that makes the two sides meet, or ""."""
    for words, change in _CHANGES:
        if _match({change(text) for text in left}, {change(text) for text in right}):
            return words
    return ""


def _match(left: Collection[str], right: Collection[str]) -> bool:
    """Whether a good part of the smaller side is on the other."""
    small, large = sorted(({*left}, {*right}), key=len)
    return len(small & large) > len(small) / 4


def samples(ids: Sequence[str]) -> str:
    """First ids in words."""
    return ", ".join(quote(text) for text in ids[:2])

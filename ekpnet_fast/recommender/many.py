"""Lists for many users, block by block: one file, or a folder of parts by several processes.

The users are cut into shards, and a shard's lists are one Parquet file, its part, written whole or
not at all. What the lists follow from stands in the part itself, so that a process that starts
again goes on where it was, and lists of something else are refused. Processes do not talk to each
other: process RANK of WORLD_SIZE, as torchrun or any scheduler sets them, takes every
WORLD_SIZE-th shard.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ekpnet_fast.errors import ConfigError, reason
from ekpnet_fast.native.processes import rank_and_size
from ekpnet_fast.recommender import store
from ekpnet_fast.recommender.answers import Recommendations
from ekpnet_fast.recommender.names import Id, Names
from ekpnet_fast.recommender.query import Candidates
from ekpnet_fast.recommender.recommender import Recommender
from ekpnet_fast.runs import run_folder
from ekpnet_fast.storage.files import write_whole
from ekpnet_fast.storage.parts import beside, remove_unfinished
from ekpnet_fast.storage.seals import read_json, text_hash
from ekpnet_fast.terminal import make_console

__all__ = [
    "Lists",
    "Share",
    "Written",
    "identity",
    "my_share",
    "numbers_of",
    "take_gpu",
    "write_file",
    "write_parts",
]

AT_ONCE = 256  # users that are scored between two moves of the bar
ROWS_AT_ONCE = 1 << 16  # held before they are written
SHARD = 100_000  # users of a shard, where nothing else is said
_ENTRY = "ekpnet_fast"  # of a part's metadata
_PART = re.compile(r"part-(\d{5,})-of-(\d{5,})\.parquet")

Columns: TypeAlias = dict[str, tuple[str, Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Lists:
    """Lists that are wanted.

    Attributes:
        users: [n] numbers, in the order of the lists.
        k: length of a list.
        exclude_seen: leave out what was touched already.
        items: the only items, None for all.
        candidates: how many items get exact scores.
    """

    users: NDArray[np.integer]
    k: int
    exclude_seen: bool = True
    items: Sequence[str] | None = None
    candidates: Candidates = None


@dataclass(frozen=True, slots=True)
class Share:
    """Share of a process: shards rank, rank + world, rank + 2 world, and so on."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True, slots=True)
class Written:
    """What a process wrote.

    Attributes:
        shards: number of all shards.
        parts: those that it wrote.
        found: those of its share that were there.
        lists, rows: in the parts that it wrote.
    """

    shards: int
    parts: tuple[int, ...]
    found: tuple[int, ...]
    lists: int
    rows: int


def my_share(environment: Mapping[str, str] | None = None) -> Share:
    """Share that RANK and WORLD_SIZE name; all without them.

    Raises:
        ConfigError: one of the two alone, or no numbers that go together.
    """
    return Share(*rank_and_size(environment))


def take_gpu() -> None:
    """Make the GPU that LOCAL_RANK names this process's, where there are several."""
    rank = os.environ.get("LOCAL_RANK", "")
    if rank.isdecimal() and torch.cuda.is_available():
        torch.cuda.set_device(int(rank) % torch.cuda.device_count())


def numbers_of(recommender: Recommender, users: Sequence[Id] | None) -> NDArray[np.int64]:
    """Numbers [n] of users; without ids of all that have a history.

    Raises:
        DataError: no such user.
    """
    state = recommender.state
    if users is None:
        return np.flatnonzero(np.diff(state.history_indptr.numpy()))
    return np.array(state.users.numbers(users), dtype=np.int64)


def identity(folder: Path, lists: Lists, *, everybody: bool) -> dict[str, Any]:
    """What lists follow from, as plain JSON values.

    Args:
        folder: of the recommender or the run.
        lists: that are wanted.
        everybody: whether they are for all users with a history.
    """
    manifest = folder / store.MANIFEST
    if not manifest.is_file():
        manifest = folder / run_folder.METRICS_FILE
    files = read_json(manifest, "the folder of a recommender or of a finished run").get("files")
    sealed = {
        name: seal.get("sha256")
        for name, seal in (files if isinstance(files, dict) else {}).items()
        if name != run_folder.REPORT_FILE
    }
    return {
        "run": text_hash(sealed)[:16],
        "users": "all" if everybody else text_hash(lists.users.tolist())[:16],
        "k": lists.k,
        "include_seen": not lists.exclude_seen,
        "items": "all" if lists.items is None else text_hash(sorted({*lists.items}))[:16],
        "candidates": "default" if lists.candidates is None else lists.candidates,
    }


# ---- writing -------------------------------------------------------------------------------------


def write_file(recommender: Recommender, lists: Lists, path: Path) -> int:
    """Write all lists as a Parquet or CSV file, which is whole or not there.

    Returns:
        The number of rows.

    Raises:
        ConfigError: it cannot be written.
        DataError: unknown items, or a user without a history.
    """
    with _bar(len(lists.users)) as advance:
        return _write(recommender, lists, lists.users, path, advance, None)


def write_parts(
    recommender: Recommender,
    lists: Lists,
    folder: Path,
    facts: Mapping[str, Any],
    share: Share,
    shards: int | None = None,
) -> Written:
    """Write a share of the parts ``part-SHARD-of-SHARDS.parquet``, those that are not there yet.

    Args:
        recommender: that makes the lists.
        lists: of all shards.
        folder: made where it is not there.
        facts: what the lists follow from, see `identity`.
        share: of this process.
        shards: number of all; without it that of the parts that are there, else one per 100,000
            users, as many for every process.

    Raises:
        ConfigError: other files in the folder, parts of other lists, or it cannot be written.
        DataError: unknown items, or a user without a history.
    """
    try:
        folder.mkdir(exist_ok=True)
        remove_unfinished(folder)
        there = _parts_of(folder, shards, facts)
    except OSError as error:
        raise ConfigError(f"--output {folder} cannot be written ({reason(error)})") from error
    users = lists.users
    if shards is None:
        shards = next(iter(there.values()), None) or _shards(len(users), share.world)
    mine = range(share.rank, shards, share.world)
    left = [shard for shard in mine if shard not in there]
    cuts = [len(users) * shard // shards for shard in range(shards + 1)]
    rows = 0
    count = sum(cuts[shard + 1] - cuts[shard] for shard in left)
    with _bar(count) as advance:
        for shard in left:
            path = folder / f"part-{shard:05}-of-{shards:05}.parquet"
            some = users[cuts[shard] : cuts[shard + 1]]
            rows += _write(recommender, lists, some, path, advance, facts)
    found = tuple(shard for shard in mine if shard in there)
    return Written(shards, tuple(left), found, count, rows)


def _shards(users: int, world: int) -> int:
    """Number of shards of up to `SHARD` users, as many for each process."""
    return -(-max(1, users) // (SHARD * world)) * world


def _parts_of(folder: Path, shards: int | None, facts: Mapping[str, Any]) -> dict[int, int]:
    """Number of shards by shard, of the parts in a folder, which all have to be of these lists."""
    found: dict[int, int] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue  # unfinished, of another process
        match = _PART.fullmatch(path.name)
        if match is None:
            raise ConfigError(f"{path}: found another file, expected a folder of lists alone")
        shard, of = int(match[1]), int(match[2])
        expected = shards if shards is not None else next(iter(found.values()), of)
        if of != expected:
            raise ConfigError(
                f"{path}: found a part of {of} shards, expected {expected}; --shards {of} goes on"
                " with it, or choose another folder"
            )
        _expect_own(path, facts)
        found[shard] = of
    return found


def _expect_own(path: Path, facts: Mapping[str, Any]) -> None:
    """Check that a part is of the same lists."""
    from ekpnet_fast.data.formats.parquet import read_metadata

    text = read_metadata(path).get(_ENTRY)
    found = {} if text is None else json.loads(text)
    for name, value in facts.items():
        if name not in found or found[name] != value:
            raise ConfigError(
                f"{path}: found lists of {name} {found.get(name, 'unknown')}, expected {value};"
                " choose another folder"
            )


def _write(
    recommender: Recommender,
    lists: Lists,
    users: NDArray[np.integer],
    path: Path,
    advance: Callable[[int], None],
    facts: Mapping[str, Any] | None,
) -> int:
    """Write the lists of some users; holds no more than a block. Returns the number of rows."""
    from ekpnet_fast.data.formats.engine import join_tables, write_table

    ids = recommender.state.users
    kinds = _kind(ids), _kind(recommender.state.items)
    size = max(1, ROWS_AT_ONCE // lists.k)
    rows = 0
    try:
        with beside(path) as folder:
            files: list[Path] = []
            for start in range(0, max(1, len(users)), size):
                block: list[Recommendations] = []
                for first in range(start, min(start + size, len(users)), AT_ONCE):
                    some = users[first : min(first + AT_ONCE, start + size)].tolist()
                    block += recommender.recommend_batch(
                        users=[ids.id(number) for number in some],
                        k=lists.k,
                        exclude_seen=lists.exclude_seen,
                        filter_items=lists.items,
                        candidates=lists.candidates,
                    )
                    advance(len(some))
                columns = _columns(block, *kinds)
                rows += len(columns["rank"][1])
                files.append(folder / f"{len(files):06}.parquet")
                write_table(files[-1], columns)
            metadata = {} if facts is None else {_ENTRY: json.dumps(facts, sort_keys=True)}
            write_whole(path, lambda part: join_tables(part, files, metadata))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({reason(error)})") from error
    return rows


@contextmanager
def _bar(users: int) -> Iterator[Callable[[int], None]]:
    """Context of a bar on a terminal; gives what moves it by so many users."""
    from rich.progress import Progress

    console = make_console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("recommending", total=users)
        yield lambda count: progress.advance(task, count)


def _columns(block: Sequence[Recommendations], user: str, item: str) -> Columns:
    """Types and columns of a block of lists, of ids of these types."""
    rows = [
        (best.user, rank, found.item, found.name, found.score)
        for best in block
        for rank, found in enumerate(best, 1)
    ]
    users, ranks, items, names, scores = zip(*rows, strict=True) if rows else ((),) * 5
    return {
        "user": (user, _as(user, users)),
        "rank": ("INTEGER", ranks),
        "item": (item, _as(item, items)),
        "name": ("VARCHAR", names),
        "score": ("FLOAT", scores),
    }


def _as(kind: str, ids: Sequence[Any]) -> Sequence[Id]:
    return [str(each) if kind == "VARCHAR" else int(each) for each in ids]


def _kind(names: Names) -> str:
    """Type of a column of ids: numbers where all are."""
    numbers = names.numbered and all(isinstance(names.id(i), int) for i in range(len(names)))
    return "BIGINT" if numbers else "VARCHAR"

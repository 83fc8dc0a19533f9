"""Lists of the best items for one user, or for all: `python -m ekpnet_fast.recommend RUN ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ekpnet_fast.errors import ConfigError
from ekpnet_fast.recommender.command import (
    add_candidates,
    add_run,
    add_subject,
    history_of,
    ids_of,
    opened,
    set_threads,
)
from ekpnet_fast.terminal import guarded, json_text, make_console, say

if TYPE_CHECKING:  # imported where they are used, so that one list does not wait for them
    from rich.table import Table

    from ekpnet_fast.recommender import Candidates, Id, Recommendations, Recommender

AT_ONCE = 256  # users between two moves of the bar


@guarded
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 2 for an error that the user can mend."""
    options = _parser().parse_args(arguments)
    _check(options)
    if options.recall is not None:
        _measure(options)
    elif options.output is not None:
        _write(options)
    else:
        _show(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ekpnet_fast.recommend",
        description="The best items for a user or for a history, or lists for many users as"
        " Parquet or CSV: user, rank, item, name, score.",
    )
    add_run(parser)
    add_subject(parser)
    parser.add_argument("--users", type=Path, metavar="FILE", help="users, an id a line")
    parser.add_argument("--all", action="store_true", help="all users with a history")
    parser.add_argument("-k", type=int, default=10, help="length of a list (default: 10)")
    parser.add_argument("--items", type=Path, metavar="FILE", help="only these, an id a line")
    add_candidates(parser)
    parser.add_argument(
        "--recall",
        type=int,
        metavar="USERS",
        help="say how much of the exact lists of so many drawn users the candidates hold",
    )
    parser.add_argument("--include-seen", action="store_true", help="what was touched already too")
    parser.add_argument("--explain", action="store_true", help="reasons for each item")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where lists for many users go, as .parquet or .csv",
    )
    parser.add_argument(
        "--threads",
        type=int,
        help="CPU threads (default: 1 for one list, else what the process may use)",
    )
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything is read."""
    chosen = [
        flag
        for flag, given in (
            ("--user", options.user is not None),
            ("--history", options.history is not None),
            ("--users", options.users is not None),
            ("--all", options.all),
            ("--recall", options.recall is not None),
        )
        if given
    ]
    if len(chosen) != 1:
        found = " and ".join(chosen) or "none"
        raise ConfigError(
            f"found {found}, expected one of --user, --history, --users, --all, --recall"
        )
    many = chosen[0] in ("--users", "--all")
    if many != (options.output is not None):
        raise ConfigError(
            f"{chosen[0]}: found no --output, expected a file for the lists"
            if many
            else f"--output: found it with {chosen[0]}, expected --users or --all"
        )
    for flag in ("explain", "json"):
        if many and getattr(options, flag):
            raise ConfigError(f"--{flag}: found it with {chosen[0]}, expected one user or history")
    if options.output is not None and options.output.suffix.lower() not in (".parquet", ".csv"):
        raise ConfigError(
            f"--output {options.output}: found {options.output.suffix or 'no ending'}, expected"
            " a name that ends with .parquet or .csv"
        )
    if options.output is not None and not options.output.resolve().parent.is_dir():
        raise ConfigError(f"--output {options.output}: found no such folder to write to")


def _filter(options: argparse.Namespace) -> list[str] | None:
    return None if options.items is None else ids_of(options.items, "--items")


def _measure(options: argparse.Namespace) -> None:
    """Print the recall of lists by candidates."""
    set_threads(options.threads, default=1)
    found = opened(options).recall(options.candidates, options.recall, k=options.k)
    if options.json:
        say(json_text(found.to_dict()))
        return
    say(
        f"recall@{found.k} {found.mean:.4f} of {found.users:,} exact lists, the lowest"
        f" {found.lowest:.2f}: {found.candidates:,} candidates and {found.representatives:,}"
        f" representatives of {found.items:,} items, {found.seconds * 1e3:.1f} ms a list"
        f" ({found.exact_seconds * 1e3:.1f} ms exact)"
    )


def _show(options: argparse.Namespace) -> None:
    """Print one list."""
    set_threads(options.threads, default=1)
    recommender, history = opened(options), history_of(options)
    best = recommender.recommend(
        options.user,
        history,
        options.k,
        exclude_seen=not options.include_seen,
        filter_items=_filter(options),
        candidates=_of_one(recommender, options),
    )
    reasons = []
    if options.explain:
        reasons = [recommender.explain(options.user, i.item, history=history) for i in best]
    if options.json:
        found = best.to_dict()
        for item, explanation in zip(found["items"], reasons, strict=False):
            told = explanation.to_dict()
            names = ("reasons", "parts", "signals", "base", "covered", "rest")
            item.update({name: told[name] for name in names})
        say(json_text(found))
        return
    if options.explain:
        say("\n".join(explanation.to_text() for explanation in reasons))
    else:
        make_console().print(_table(best))
    for note in best.notes:
        say(f"note: {note}")


def _of_one(recommender: Recommender, options: argparse.Namespace) -> Candidates:
    """Candidates of a single list: all, unless an index was saved, as making one takes longer."""
    given: Candidates = options.candidates
    state = recommender.state
    return "all" if given is None and state.index.kept(state) is None else given


def _table(best: Recommendations) -> Table:
    from rich.table import Table

    whom = f"user {best.user}" if best.history is None else f"a history of {len(best.history)}"
    table = Table(title=f"Best items for {whom}", title_justify="left")
    table.add_column("", justify="right")
    for title in ("item", "name"):
        table.add_column(title)
    table.add_column("score", justify="right")
    for rank, item in enumerate(best, 1):
        table.add_row(str(rank), str(item.item), item.name or "", f"{item.score:.4f}")
    return table


def _write(options: argparse.Namespace) -> None:
    """Write lists for many users as Parquet or CSV; the file is whole or not there."""
    from ekpnet_fast.data.formats.engine import write_table
    from ekpnet_fast.storage.files import write_whole

    set_threads(options.threads, default=None)
    recommender = opened(options)
    users: Sequence[Id] = (
        [user for user in recommender.user_ids() if recommender.history(user)]
        if options.all
        else ids_of(options.users, "--users")
    )
    columns = _columns(recommender, _batches(recommender, users, options))
    path: Path = options.output
    write_whole(path, lambda part: write_table(part, columns))
    say(f"Written to {path}: {len(users):,} lists, {len(columns['rank'][1]):,} rows")


def _batches(
    recommender: Recommender, users: Sequence[Id], options: argparse.Namespace
) -> Iterator[list[Recommendations]]:
    from rich.progress import track

    console = make_console(stderr=True)
    blocks = [users[first : first + AT_ONCE] for first in range(0, len(users), AT_ONCE)]
    only = _filter(options)
    for block in track(
        blocks, "recommending", console=console, disable=not console.is_terminal, transient=True
    ):
        yield recommender.recommend_batch(
            users=block,
            k=options.k,
            exclude_seen=not options.include_seen,
            filter_items=only,
            candidates=options.candidates,
        )


def _columns(
    recommender: Recommender, batches: Iterator[list[Recommendations]]
) -> dict[str, tuple[str, Sequence[Any]]]:
    """Types and columns of the file; ids are numbers where all are."""
    rows = [
        (best.user, rank, item.item, item.name, item.score)
        for lists in batches
        for best in lists
        if best.user is not None
        for rank, item in enumerate(best, 1)
    ]
    users, ranks, items, names, scores = zip(*rows, strict=True) if rows else ((),) * 5
    user, item = _kind(recommender.user_ids()), _kind(recommender.item_ids())
    return {
        "user": (user, _as(user, users)),
        "rank": ("INTEGER", ranks),
        "item": (item, _as(item, items)),
        "name": ("VARCHAR", names),
        "score": ("FLOAT", scores),
    }


def _as(kind: str, ids: Sequence[Id]) -> Sequence[Id]:
    return [str(each) if kind == "VARCHAR" else int(each) for each in ids]


def _kind(ids: Sequence[Id]) -> str:
    return "BIGINT" if all(isinstance(given, int) for given in ids) else "VARCHAR"


if __name__ == "__main__":
    sys.exit(main())

"""Lists of the best items for one user, or for all: `python -m ekpnet_fast.recommend RUN ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

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
from ekpnet_fast.terminal import guarded, json_text, make_console, path_argument, say

if TYPE_CHECKING:  # imported where they are used, so that one list does not wait for them
    from rich.table import Table

    from ekpnet_fast.recommender import Candidates, Explanation, Recommendations, Recommender


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
        " Parquet or CSV: user, rank, item, name, score. Several processes share a folder, as"
        " RANK and WORLD_SIZE say.",
    )
    add_run(parser)
    add_subject(parser)
    parser.add_argument("--users", type=path_argument, metavar="FILE", help="users, an id a line")
    parser.add_argument("--all", action="store_true", help="all users with a history")
    parser.add_argument("-k", type=int, default=10, help="length of a list (default: 10)")
    parser.add_argument(
        "--items", type=path_argument, metavar="FILE", help="only these, an id a line"
    )
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
        type=path_argument,
        metavar="PATH",
        help="where lists for many users go: a .parquet or .csv file, or a folder of parts",
    )
    parser.add_argument(
        "--shards",
        type=int,
        metavar="N",
        help="parts of the users, each a file of the folder (default: one per 100,000 users, as"
        " many for each process of WORLD_SIZE)",
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
    if options.shards is not None and options.shards < 1:
        raise ConfigError(f"--shards: found {options.shards}, expected a whole number from 1")
    folder = options.output is not None and _is_folder(options.output)
    if options.shards is not None and not folder:
        raise ConfigError("--shards: found it without --output FOLDER, expected a folder of parts")
    endings = (".parquet", ".csv")
    if options.output is not None and not folder and options.output.suffix.lower() not in endings:
        raise ConfigError(
            f"--output {options.output}: found {options.output.suffix}, expected a name that ends"
            " with .parquet or .csv, or a folder"
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
    recommender = opened(options)
    history = history_of(options, recommender)
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
        say(_explanations(reasons))
    else:
        make_console().print(_table(best))
    for note in best.notes:
        say(f"note: {note}")


def _explanations(found: Sequence[Explanation]) -> str:
    """Text of several explanations, at whose end stands what is noted of every one."""
    shared = [
        note
        for note in (found[0].notes if len(found) > 1 else ())
        if all(note in each.notes for each in found)
    ]
    texts = [
        replace(each, notes=tuple(note for note in each.notes if note not in shared)).to_text()
        for each in found
    ]
    if shared:
        texts.append("\n".join(f"note: {note}" for note in shared))
    return "\n\n".join(texts)


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
    named = any(item.name for item in best)
    for title in ("item", "name") if named else ("item",):
        table.add_column(title)
    table.add_column("score", justify="right")
    for rank, item in enumerate(best, 1):
        name = (item.name or "",) if named else ()
        table.add_row(str(rank), str(item.item), *name, f"{item.score:.4f}")
    return table


def _write(options: argparse.Namespace) -> None:
    """Write lists for many users: a file, or this process's parts in a folder."""
    from ekpnet_fast.recommender import many
    from ekpnet_fast.recommender.query import check_positive

    path: Path = options.output
    share = many.my_share()
    whole = not _is_folder(path)
    if whole and share.world > 1:
        raise ConfigError(
            f"--output {path}: found a file for WORLD_SIZE {share.world}, expected a folder, in"
            " which each process has its parts"
        )
    k = check_positive(options.k)
    set_threads(options.threads, default=None)
    if options.device != "cpu":
        many.take_gpu()
    recommender = opened(options)
    users = None if options.all else ids_of(options.users, "--users")
    lists = many.Lists(
        many.numbers_of(recommender, users),
        k,
        exclude_seen=not options.include_seen,
        items=_filter(options),
        candidates=options.candidates,
    )
    if whole:
        rows = many.write_file(recommender, lists, path)
        say(f"Written to {path}: {len(lists.users):,} lists, {rows:,} rows")
        return
    facts = many.identity(options.run, lists, everybody=options.all)
    done = many.write_parts(recommender, lists, path, facts, share, options.shards)
    there = f", {len(done.found):,} were there" if done.found else ""
    say(
        f"Written to {path}: {len(done.parts):,} of {done.shards:,} parts{there};"
        f" {done.lists:,} lists, {done.rows:,} rows"
    )


def _is_folder(path: Path) -> bool:
    """Whether lists go to a folder of parts."""
    return path.is_dir() or not path.suffix


if __name__ == "__main__":
    sys.exit(main())

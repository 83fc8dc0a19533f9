"""Reasons for a recommended item: `python -m ekpnet_fast.explain RUN --user ID --item ID`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ekpnet_fast.errors import ConfigError
from ekpnet_fast.recommender.command import (
    add_run,
    add_subject,
    history_of,
    opened,
    set_threads,
)
from ekpnet_fast.storage.files import write_text
from ekpnet_fast.terminal import guarded, json_text, path_argument, say

if TYPE_CHECKING:
    from ekpnet_fast.recommender import Fidelity


@guarded
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 2 for an error that the user can mend."""
    options = _parser().parse_args(arguments)
    _check(options)
    set_threads(options.threads, default=1)
    if options.fidelity:
        _measure(options)
    else:
        _explain(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ekpnet_fast.explain",
        description="What an item's score is made of, and the paths of the graph that speak for it;"
        " or how much the scores rest on such reasons.",
    )
    add_run(parser)
    add_subject(parser)
    parser.add_argument("--item", metavar="ID", help="the item")
    parser.add_argument(
        "--top",
        type=int,
        default=5,
        help="reasons, at most; with --fidelity, as many are masked (default: 5)",
    )
    parser.add_argument("--svg", type=path_argument, metavar="FILE", help="draw them")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--fidelity",
        action="store_true",
        help="mask the first reasons, and random ones, for the recommendations of 100 users",
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: 1)")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything is read."""
    for flag in ("user", "history", "item", "svg"):
        if options.fidelity and getattr(options, flag) is not None:
            raise ConfigError(f"--fidelity: found it with --{flag}, expected one of the two")
    if not options.fidelity and options.item is None:
        raise ConfigError("found no --item, expected one, or --fidelity")


def _explain(options: argparse.Namespace) -> None:
    recommender = opened(options)
    found = recommender.explain(
        options.user, options.item, history=history_of(options, recommender), top=options.top
    )
    if options.svg is not None:
        write_text(options.svg, found.to_svg())
    say(json_text(found.to_dict()) if options.json else found.to_text())


def _measure(options: argparse.Namespace) -> None:
    found = opened(options).fidelity(masked=options.top)
    say(json_text(found.to_dict()) if options.json else _text(found))


def _text(found: Fidelity) -> str:
    attention = "" if found.attention is None else f", of most attention {found.attention:.4f}"
    covered = "" if found.covered is None else f" and cover {100 * found.covered:.0f} % of it"
    return (
        f"The logit falls on average by {found.top:.4f} without the first {found.masked} reasons"
        f"{attention}, of random ones {found.random:.4f};\nof the first reasons by more than of"
        f" random ones for {100 * found.larger:.0f} % of {found.pairs} users and items. The first"
        f" ones say {found.said:.4f}{covered}."
    )


if __name__ == "__main__":
    sys.exit(main())

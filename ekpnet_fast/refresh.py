"""Refresh of what is fitted to graph and clicks: `python -m ekpnet_fast.refresh RUN`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from ekpnet_fast.errors import ConfigError
from ekpnet_fast.recommender.command import add_run, opened, set_threads
from ekpnet_fast.terminal import guarded, path_argument, say


@guarded
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 2 for an error that the user can mend."""
    _refresh(_parser().parse_args(arguments))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ekpnet_fast.refresh",
        description="Fit the linear part of linear or ekpnet_plus anew, to the graph, the items and"
        " the clicks as they are now, without deep training, and write a recommender.",
    )
    add_run(parser)
    parser.add_argument(
        "--output",
        type=path_argument,
        metavar="FOLDER",
        help="a new folder; needed for a run (default: the recommender's own)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads (all that may be used)")
    return parser


def _refresh(options: argparse.Namespace) -> None:
    from ekpnet_fast.recommender.store import MANIFEST

    own = options.output is None
    if own and not (options.run / MANIFEST).is_file():
        raise ConfigError(
            f"{options.run}: found no {MANIFEST}, expected a recommender's folder, or --output for"
            " the recommender of a run"
        )
    set_threads(options.threads, None)
    recommender = opened(options)
    started = time.perf_counter()
    recommender.refresh()
    seconds = time.perf_counter() - started
    folder = options.run if own else options.output
    recommender.save(folder, overwrite=own)
    say(f"{folder}: {recommender}, refreshed in {seconds:.1f} s")


if __name__ == "__main__":
    sys.exit(main())

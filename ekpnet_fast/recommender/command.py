"""Options and checks that the commands `recommend`, `explain`, `export` and `serve` share.

Torch is imported when there is work to do, so that a wrong option is an error at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ekpnet_fast.errors import ConfigError, reason
from ekpnet_fast.native.cpus import choose_threads

if TYPE_CHECKING:
    from ekpnet_fast.recommender.query import Candidates
    from ekpnet_fast.recommender.recommender import Recommender
from ekpnet_fast.terminal import importing, path_argument


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the options for the recommender and its device."""
    parser.add_argument(
        "run",
        type=path_argument,
        metavar="RUN",
        help="folder of a run (train --output) or a recommender",
    )
    parser.add_argument(
        "--data-root",
        type=path_argument,
        help="where the data set of a run without its context is now",
    )
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="where to compute (default: a GPU where one can be used)",
    )


def add_subject(parser: argparse.ArgumentParser) -> None:
    """Add the options for a user or a history."""
    parser.add_argument("--user", metavar="ID", help="a user that training saw")
    parser.add_argument(
        "--history", metavar="ID,ID,...", help="items that a new user clicked; ids may hold commas"
    )


_COMMAS = 16  # in an id


def add_candidates(parser: argparse.ArgumentParser) -> None:
    """Add the option for the number of candidates."""
    parser.add_argument(
        "--candidates",
        type=_candidates,
        metavar="N|all",
        help="how many items get exact scores (all of up to 100,000, else 20,000)",
    )


def _candidates(text: str) -> Candidates:
    """Type for argparse: a whole number from 1, or "all"."""
    if text == "all":
        return "all"
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 1, or all")
    return int(text)


def opened(options: argparse.Namespace) -> Recommender:
    """Recommender of the options of `add_run`."""
    with importing():
        from ekpnet_fast.recommender.recommender import Recommender

    return Recommender.load(options.run, data_root=options.data_root, device=options.device)


def history_of(options: argparse.Namespace, recommender: Recommender) -> list[str] | None:
    """Ids of `--history`, which may hold commas: words that are no id join the next ones."""
    if options.history is None:
        return None
    find = recommender.state.items.find
    words = options.history.split(",")
    found, place = [], 0
    while place < len(words):
        ends = range(place + 1, min(place + 1 + _COMMAS, len(words)) + 1)
        joined = {end: ",".join(words[place:end]).strip() for end in ends}
        end = next((end for end, text in joined.items() if find(text) is not None), place + 1)
        if joined[end]:
            found.append(joined[end])
        place = end
    return found


def ids_of(path: Path, option: str) -> list[str]:
    """Ids in a text file, one a line.

    Raises:
        ConfigError: it cannot be read, or has none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{option} {path} cannot be read ({reason(error)})") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ConfigError(f"{option} {path}: found no id, expected one a line")
    return found


def set_threads(threads: int | None, default: int | None) -> None:
    """Set the CPU threads; without a default as many as the process may use.

    Raises:
        ConfigError: not 1 to 1024.
    """
    chosen = choose_threads(default if threads is None else threads)
    with importing():
        import torch

    torch.set_num_threads(chosen.count)

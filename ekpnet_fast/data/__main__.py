"""``python -m ekpnet_fast.data stats NAME``: Table 1's statistics and checks of a data set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ekpnet_fast.data.datasets import DATA_ROOT_VARIABLE, load_dataset
from ekpnet_fast.data.splits import prepare
from ekpnet_fast.data.stats import PAPER_TABLE_1, check, describe
from ekpnet_fast.data.tables import PreparedData
from ekpnet_fast.errors import EkpnetError

__all__ = ["main"]

Line = tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command.

    Returns:
        Exit code: 0, or 2 after an error, which is said on one line on stderr.
    """
    options = _parser().parse_args(arguments)
    try:
        dataset = load_dataset(options.name, options.data_root, threshold=options.threshold)
        _print_stats(prepare(dataset, options.seed))
    except EkpnetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ekpnet_fast.data", description="Statistics and checks of data sets."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    stats = commands.add_parser("stats", help="statistics and checks of a data set")
    stats.add_argument("name", help="'synthetic', a folder under the data root, or a path")
    stats.add_argument(
        "--data-root", type=Path, help=f"folder of data sets (default: ${DATA_ROOT_VARIABLE})"
    )
    stats.add_argument("--seed", type=int, default=0, help="of negatives and split (default: 0)")
    stats.add_argument(
        "--threshold", type=float, help="smallest rating that is a positive (raw and RecBole files)"
    )
    return parser


def _print_stats(data: PreparedData) -> None:
    dataset = data.dataset
    rows = describe(data).table()
    paper = PAPER_TABLE_1.get(dataset.name.split("/")[0])
    if paper is None:
        _print_table(f"{dataset.name}: statistics", ("", "here"), rows)
    else:
        padded = paper + ("",) * (len(rows) - len(paper))
        compared = [
            (label, value, theirs, "differs" if theirs and theirs != value else "")
            for (label, value), theirs in zip(rows, padded, strict=True)
        ]
        header = ("", "here", "paper's Table 1", "")
        _print_table(f"{dataset.name}: statistics", header, compared)
    splits: list[Line] = [
        (name, f"{len(part):,}")
        for name, part in (("train", data.train), ("valid", data.valid), ("test", data.test))
    ]
    _print_table(f"split 6:2:2, seed {data.seed}", ("", "rows"), splits)
    findings = [(f.name, f"{f.count:,}", f.meaning) for f in check(data)]
    _print_table("checks", ("", "count", ""), findings or [("nothing found", "", "")])
    for note in (dataset.source, *dataset.notes, f"prepared data hash: {data.hash}"):
        print(note)


def _print_table(title: str, header: Line, rows: Sequence[Line]) -> None:
    """A rich table on a terminal, aligned text elsewhere; the second column holds numbers."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, title_justify="left")
        for index, name in enumerate(header):
            table.add_column(name, justify="right" if index == 1 else "left")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    print(title)
    lines = [header, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    for line in lines:
        cells = [
            cell.rjust(width) if index == 1 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print(("  " + "  ".join(cells)).rstrip())
    print()


if __name__ == "__main__":
    sys.exit(main())

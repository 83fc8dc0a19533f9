"""``python -m ekpnet_fast.data``: import, fetch, export, and statistics of data sets."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ekpnet_fast.data.datasets import (
    DATA_ROOT_VARIABLE,
    check_dataset,
    load_dataset,
    needs_engine,
)
from ekpnet_fast.data.fetch import REMOTES, fetch
from ekpnet_fast.data.importing.columns import TABLES
from ekpnet_fast.data.splits import prepare
from ekpnet_fast.data.stats import PAPER_TABLE_1, check, describe
from ekpnet_fast.data.tables import PreparedData
from ekpnet_fast.errors import ConfigError, visible
from ekpnet_fast.terminal import guarded, make_console, path_argument, say

if TYPE_CHECKING:  # at run time it needs the table engine, which only some commands need
    from ekpnet_fast.data.importing.importer import ImportReport

__all__ = ["main"]

Line = tuple[str, ...]


@guarded
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command.

    Returns:
        Exit code: 0; 2 after an error, printed on one line on stderr; 1 where an import was
        stopped by checks that ``--force`` overrides.
    """
    options = _parser().parse_args(arguments)
    code: int = options.command(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ekpnet_fast.data",
        description="Import, fetch, export and describe data sets.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_import(commands)
    _add_import_numbered(commands)
    _add_fetch(commands)
    export = commands.add_parser(
        "export", help="write a data set, split or not, as RecBole's atomic files"
    )
    _add_data_set(export)
    export.add_argument(
        "out", type=path_argument, help="folder to write; its last part names the files"
    )
    export.add_argument("--overwrite", action="store_true", help="replace such files")
    export.set_defaults(command=_export)
    stats = commands.add_parser("stats", help="statistics and checks of a data set")
    _add_data_set(stats)
    stats.add_argument("--seed", type=int, default=0, help="of negatives and split (default: 0)")
    stats.set_defaults(command=_stats)
    return parser


def _add_data_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="'synthetic', a folder under the data root, or a path")
    parser.add_argument(
        "--data-root",
        type=path_argument,
        help=f"folder of data sets (default: ${DATA_ROOT_VARIABLE})",
    )
    parser.add_argument(
        "--threshold", type=float, help="smallest rating that is a positive (raw and RecBole files)"
    )


def _add_import(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "import",
        help="bring your own files: CSV, TSV, Parquet, JSON lines, RecBole's atomic files, RDF",
        allow_abbrev=False,
    )
    parser.set_defaults(command=_import)
    parser.add_argument(
        "out", type=path_argument, nargs="?", help="folder to write; --dataset takes it"
    )
    files = parser.add_argument_group(
        "files", "Any may be given several times, or be a folder of files of one table."
    )
    for table, required, words in (
        ("interactions", True, "who touched what"),
        ("valid", False, "the same of data that are split already: rows to choose on"),
        ("test", False, "and those to test on; --interactions are to train on then"),
        ("kg", False, "the triples, if there is a graph"),
        ("links", False, "which item is which entity (default: that of the same id)"),
        ("users", False, "ids and names, in the order to number"),
        ("items", False, "ids and names, in the order to number"),
        ("entities", False, "ids and names, in the order to number"),
    ):
        several = {"nargs": "+", "action": "extend"} if table == "kg" else {"action": "append"}
        files.add_argument(
            f"--{table}",
            required=required,
            type=path_argument,
            metavar="FILE",
            help=words,
            **several,
        )
    files.add_argument("--separator", help="of text tables (default: found, and shown)")
    files.add_argument(
        "--header", choices=("yes", "no"), help="of text tables (default: found, and shown)"
    )
    files.add_argument("--encoding", default="utf-8", help="of text tables (default: utf-8)")
    files.add_argument("--language", default="en", help="of names in RDF (default: en)")
    files.add_argument(
        "--lenient", action="store_true", help="leave out what cannot be read in RDF, and count it"
    )
    columns = parser.add_argument_group(
        "columns", "A name, or a place counted from 1; guessed and shown where not given."
    )
    for table, roles in TABLES.items():
        for role in roles:
            columns.add_argument(role.flag, metavar="COLUMN", help=f"{role.name}, in --{table}")
    large = parser.add_argument_group("tables that do not fit into memory")
    large.add_argument(
        "--memory",
        metavar="SIZE",
        help="bound, such as 4GB: tables are on disk beside the folder (text and Parquet only)",
    )
    checks = parser.add_argument_group("what counts")
    checks.add_argument("--threshold", type=float, help="smallest rating that is a positive")
    checks.add_argument(
        "--linked-only", action="store_true", help="leave out items that the links do not know"
    )
    checks.add_argument("--force", action="store_true", help="go on where training is doubtful")
    checks.add_argument("--overwrite", action="store_true", help="replace an imported data set")


def _add_import_numbered(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "import-numbered", help="bring tables that a cluster has numbered, in folders of Parquet"
    )
    parser.set_defaults(command=_import_numbered)
    parser.add_argument(
        "source",
        type=path_argument,
        help="folder of users, items, entities, relations, interactions, triples",
    )
    parser.add_argument("out", type=path_argument, help="folder to write; --dataset takes it")
    parser.add_argument(
        "--memory", metavar="SIZE", default="4GB", help="bound, such as 4GB (the default)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an imported data set")


def _add_fetch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("fetch", help="download a public data set and verify it")
    parser.set_defaults(command=_fetch)
    parser.add_argument("name", choices=sorted(REMOTES))
    parser.add_argument(
        "--data-root",
        type=path_argument,
        help=f"folder of data sets (default: ${DATA_ROOT_VARIABLE})",
    )


def _import(options: argparse.Namespace) -> int:
    with needs_engine():
        from ekpnet_fast.data.importing.importer import (
            UnfitDataError,
            import_bounded_dataset,
            import_dataset,
        )
    out = options.out
    if out is None and options.kg and len(options.kg) > 1:
        out = options.kg.pop()  # --kg takes all words that follow it, the folder too
    if out is None:
        raise ConfigError("found no folder to write, expected one; `import --help` shows the order")
    told = {role.option for roles in TABLES.values() for role in roles}
    values = vars(options)
    columns = {option: values.pop(option) for option in told}
    values.pop("command")
    values.pop("out")
    if values["header"] is not None:
        values["header"] = values["header"] == "yes"
    values["columns"] = {key: value for key, value in columns.items() if value}
    memory = values.pop("memory")
    try:
        if memory is None:
            done = import_dataset(out, **values)
            dataset = done.dataset
            report, notes = done.report, dataset.notes
            counts: Mapping[str, int] = {
                "users": dataset.num_users,
                "items": dataset.num_items,
                "entities": dataset.num_entities,
                "relations": dataset.num_relations,
                "triples": dataset.num_triples,
            }
        else:
            if values.pop("lenient") or values.pop("language") != "en":
                raise ConfigError("--memory: found it with an option for RDF, expected neither")
            bounded = import_bounded_dataset(out, memory, on_stage=_tell_stage, **values)
            report, notes, counts = bounded.report, bounded.notes, bounded.counts
    except UnfitDataError as error:
        _print_import(error.report)
        for stop in error.report.stops:
            print(visible(f"error: {stop.message}"), file=sys.stderr)
        if not error.forceable:
            return 2
        print("nothing was written; --force imports it all the same", file=sys.stderr)
        return 1
    _print_import(report)
    for stop in report.stops:
        say(f"forced: {stop.message}")
    say(f"{notes[0]}; weights play no part in training")
    say(notes[1])
    _say_written(out, counts)
    return 0


def _import_numbered(options: argparse.Namespace) -> int:
    with needs_engine():
        from ekpnet_fast.data.importing.numbered import import_numbered
    counts = import_numbered(
        options.source,
        options.out,
        options.memory,
        overwrite=options.overwrite,
        on_stage=_tell_stage,
    )
    _say_written(options.out, counts)
    return 0


def _say_written(out: Path, counts: Mapping[str, int]) -> None:
    say(f"written to {out}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))
    command = "python -m ekpnet_fast.train --model ekpnet_plus --dataset"
    say(f"train on it: {command} {shlex.quote(str(out))}")


def _tell_stage(stage: str) -> None:
    """Say what a long import does next, and when."""
    print(visible(f"{time.strftime('%H:%M:%S')} {stage}"), file=sys.stderr, flush=True)


def _print_import(report: ImportReport) -> None:
    lines: list[Line] = []
    for file in report.files:
        for place, column in enumerate(file["columns"] or [None]):
            first = (file["path"], f"{file['rows']:,}", file["form"]) if not place else ("",) * 3
            last = (column["role"], column["column"], column["how"]) if column else ("",) * 3
            lines.append((*first, *last))
    _print_table("files", ("", "rows", "read as", "for", "column", "found"), lines)
    findings = [(f.name, f"{f.count:,}", f.meaning) for f in report.findings]
    _print_table("checks", ("", "count", ""), findings or [("nothing found", "", "")])
    for file in report.files:
        for note in file["notes"]:
            say(f"{file['path']}: {note}")


def _fetch(options: argparse.Namespace) -> int:
    root = options.data_root
    if root is None and os.environ.get(DATA_ROOT_VARIABLE):
        root = Path(os.environ[DATA_ROOT_VARIABLE])
    if root is None:
        raise ConfigError(f"no data root is set, expected --data-root DIR or {DATA_ROOT_VARIABLE}")
    remote = REMOTES[options.name]
    # In a folder of their own, so that they do not mix with files in another format.
    for line in fetch(options.name, root / options.name / "raw", remote):
        say(line)
    say(remote.terms)
    say(f"train on it: python -m ekpnet_fast.train --dataset {options.name}/raw --data-root {root}")
    return 0


def _export(options: argparse.Namespace) -> int:
    dataset = load_dataset(options.name, options.data_root, threshold=options.threshold)
    with needs_engine():
        from ekpnet_fast.data.formats.export import export_recbole, needed_threshold
    for path in export_recbole(dataset, options.out, overwrite=options.overwrite):
        say(str(path))
    threshold = needed_threshold(dataset)
    if threshold is not None:
        say(f"ratings from {threshold:g} on are positives: load with --threshold {threshold:g}")
    return 0


def _stats(options: argparse.Namespace) -> int:
    check_dataset(options.name, options.data_root)
    dataset = load_dataset(options.name, options.data_root, threshold=options.threshold)
    protocol = "ripplenet" if dataset.split is None else "fixed"
    _print_stats(prepare(dataset, options.seed, protocol))
    return 0


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
    how = "6:2:2" if data.counts is None else "of the files"
    _print_table(f"split {how}, seed {data.seed}", ("", "rows"), splits)
    findings = [(f.name, f"{f.count:,}", f.meaning) for f in check(data)]
    _print_table("checks", ("", "count", ""), findings or [("nothing found", "", "")])
    told = () if data.counts is None else data.counts.words()
    for note in (dataset.source, *dataset.notes, *told, f"prepared data hash: {data.hash}"):
        say(note)


def _print_table(title: str, header: Line, rows: Sequence[Line]) -> None:
    """A rich table on a terminal, aligned text elsewhere; the second column holds numbers."""
    if sys.stdout.isatty():
        from rich.table import Table

        table = Table(title=title, title_justify="left")
        for index, name in enumerate(header):
            table.add_column(name, justify="right" if index == 1 else "left")
        for row in rows:
            table.add_row(*row)
        make_console().print(table)
        return
    say(title)
    lines = [tuple(map(visible, line)) for line in (header, *rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    for line in lines:
        cells = [
            cell.rjust(width) if index == 1 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        say(("  " + "  ".join(cells)).rstrip())
    say()


if __name__ == "__main__":
    sys.exit(main())

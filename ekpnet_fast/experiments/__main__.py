"""Tables and figures of the paper beside ours: `python -m ekpnet_fast.experiments table3`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from ekpnet_fast.data import Dataset, load_dataset
from ekpnet_fast.data.datasets import DATA_ROOT_VARIABLE, is_split
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.experiments.cache import Store
from ekpnet_fast.experiments.plan import (
    DATASETS,
    EXPERIMENTS,
    QUICK_DATASETS,
    QUICK_SEEDS,
    Cell,
    Plan,
    Settings,
)
from ekpnet_fast.experiments.plus import VARIANTS, run_plus
from ekpnet_fast.experiments.runner import Runner
from ekpnet_fast.experiments.tables import sections_of
from ekpnet_fast.experiments.tables_io import PROTOCOLS, write_statistics, write_table
from ekpnet_fast.experiments.topk import BUDGET, USERS, run_topk
from ekpnet_fast.experiments.topk import DATASETS as TOPK_DATASETS
from ekpnet_fast.experiments.topk import PROTOCOLS as TOPK_PROTOCOLS
from ekpnet_fast.experiments.topk import ROWS as TOPK_ROWS
from ekpnet_fast.models import MODELS
from ekpnet_fast.runs import plotting, run_folder
from ekpnet_fast.terminal import guarded, make_console, path_argument

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["main"]

BESIDE = ("plus", "topk")
"""Tables that are not the paper's."""
PRESETS = sorted({"default", *(name for model in MODELS.values() for name in model.presets)})


@guarded
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        Exit code: 0; 1 where runs failed; 2 after an error that the user can mend; 130 where the
        user stopped it.
    """
    options = _parser().parse_args(arguments)
    names = list(dict.fromkeys(options.names))
    if "all" in names:
        names = [*EXPERIMENTS, *(name for name in names if name in BESIDE)]
    try:
        failed = 0
        if "topk" in names:
            names = [name for name in names if name != "topk"]
            failed = _run_topk(options, make_console())
        if names:
            settings = _settings(options)
            if names == ["plus"] and options.protocol is None and _are_split(settings):
                settings = replace(settings, protocol="fixed")
            failed |= _run(names, settings, options.rows, make_console())
        return failed
    except KeyboardInterrupt:
        print("stopped; the finished runs are kept, the same command goes on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name}  {title}" for name, title in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m ekpnet_fast.experiments",
        description="Run what a table or figure of the paper needs and write it as Markdown, CSV"
        f" and SVG (Table 1 without a picture):\n\n{listed}\n  all\n\nBeside the paper:\n"
        "  plus  EKPNet+, its parts and options (seeds from 10 on; no picture)\n"
        "  topk  all systems on data that come split, beside published numbers (no picture)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME", choices=[*EXPERIMENTS, *BESIDE, "all"], help="see above"
    )
    parser.add_argument(
        "--output", type=path_argument, required=True, help="folder of results and runs"
    )
    parser.add_argument(
        "--data-root",
        type=path_argument,
        help=f"folder of data sets (default: ${DATA_ROOT_VARIABLE})",
    )
    parser.add_argument("--seeds", type=int, help="runs per cell, seeds 0 .. N - 1 (default: 3)")
    parser.add_argument(
        "--datasets",
        nargs="+",
        help=f"default: {' '.join(DATASETS)}; of topk: {' '.join(TOPK_DATASETS)}",
    )
    parser.add_argument("--models", nargs="+", default=[], help="rows beside item popularity")
    parser.add_argument(
        "--rows",
        nargs="+",
        default=[],
        choices=list(dict.fromkeys([*VARIANTS, *TOPK_ROWS])),
        help="of plus and topk; default: all",
    )
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument(
        "--protocol",
        choices=[*PROTOCOLS, *TOPK_PROTOCOLS],
        help="default: ripplenet, and fixed for topk and for plus on data that come split; topk"
        f" takes {', '.join(TOPK_PROTOCOLS)}, plus all, the others {' and '.join(PROTOCOLS)}",
    )
    parser.add_argument(
        "--cut",
        type=_cut,
        help="where test begins with --protocol temporal of topk, as train takes it",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=BUDGET,
        help="seconds of a run of topk, after which it is left out (default: %(default)s)",
    )
    parser.add_argument(
        "--users",
        type=int,
        default=USERS,
        help="users of test, drawn by seed, for whom systems of topk rank that score every pair of"
        " user and item (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads (default: what the process may use)"
    )
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="where to compute (default: a GPU where one can be used)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"one epoch, {QUICK_SEEDS} seeds and {' '.join(QUICK_DATASETS)}, if not said"
        " otherwise: to see that it works",
    )
    return parser


def _cut(text: str) -> float | str:
    """Share or time as a number; a date stays text."""
    try:
        return float(text)
    except ValueError:
        return text


def _run_topk(options: argparse.Namespace, console: Console) -> int:
    settings = _settings(options, TOPK_DATASETS, "fixed")
    datasets = [load_dataset(name, settings.data_root) for name in settings.datasets]
    failed = run_topk(settings, datasets, options.rows, options.budget, options.users, console)
    return 1 if failed else 0


def _settings(
    options: argparse.Namespace,
    datasets: Sequence[str] | None = None,
    protocol: str = "ripplenet",
) -> Settings:
    """Settings of the command, by the data sets and the protocol of a table where none is said."""
    seeds = QUICK_SEEDS if options.quick else 3
    datasets = datasets or (QUICK_DATASETS if options.quick else DATASETS)
    datasets = tuple(options.datasets or datasets)
    if len(set(datasets)) < len(datasets):
        raise ConfigError(f"--datasets {' '.join(datasets)} names one twice, expected each once")
    return Settings(
        output=options.output,
        data_root=options.data_root,
        datasets=datasets,
        models=tuple(options.models),
        seeds=seeds if options.seeds is None else options.seeds,
        preset=options.preset,
        protocol=options.protocol or protocol,
        cut=options.cut,
        threads=options.threads,
        device=options.device,
        quick=options.quick,
    )


def _are_split(settings: Settings) -> bool:
    return all(is_split(name, settings.data_root) for name in settings.datasets)


def _run(names: Sequence[str], settings: Settings, rows: Sequence[str], console: Console) -> int:
    of_paper = [name for name in names if name != "plus"]
    if of_paper and settings.protocol not in PROTOCOLS:
        raise ConfigError(
            f"--protocol is {settings.protocol}, expected {' or '.join(PROTOCOLS)}: {of_paper[0]}"
            " is about splits that are drawn"
        )
    # Looked for before the folder is made, so that a wrong name leaves nothing behind.
    datasets = [load_dataset(name, settings.data_root) for name in settings.datasets]
    for name, dataset in zip(settings.datasets, datasets, strict=True):
        if dataset.split is not None and settings.protocol in PROTOCOLS:
            console.print(
                f"{name} comes split, and is split anew by --protocol {settings.protocol}: its rows"
                " of test are trained on too; topk, and plus with --protocol fixed, keep them apart"
            )
    failed = 0
    if "plus" in names:
        names = [name for name in names if name != "plus"]
        failed = run_plus(settings, datasets, rows, console)
    if not names:
        return 1 if failed else 0
    plan = Plan(settings, datasets)
    if not plotting.has_matplotlib() and set(names) != {"table1"}:
        console.print(plotting.MISSING)
    with Store.opened(settings.output) as store:
        runner = Runner(plan, store, console)
        cells = {name: plan.cells(name) for name in names}
        runner.check([cell for name in names for cell in cells[name]])
        for name in names:
            runner.run(cells[name])
            for path in _write(name, settings, plan, runner, cells[name], datasets):
                console.print(f"Written: {path}")
    return 1 if failed or runner.failures else 0


def _write(
    name: str,
    settings: Settings,
    plan: Plan,
    runner: Runner,
    cells: Sequence[Cell],
    datasets: Sequence[Dataset],
) -> list[Path]:
    if name == "table1":
        return write_statistics(settings, datasets)
    found = {cell: runner.found[cell] for cell in cells if cell in runner.found}
    failures = {cell: runner.failures[cell] for cell in cells if cell in runner.failures}
    files = [runner.folder(cell) / run_folder.METRICS_FILE for cell in found]
    dates = [date.fromtimestamp(file.stat().st_mtime) for file in files]
    return write_table(name, plan, sections_of(name, plan, found), found, failures, dates)


if __name__ == "__main__":
    sys.exit(main())

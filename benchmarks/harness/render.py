"""Benchmark page, made from stored results: `python -m benchmarks.harness.render`.

Every number on the page comes from a file in `benchmarks/results/`; the text around them says what
was done. Needs the extra `bench` (matplotlib).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import results
from benchmarks.harness.goals import GOALS, Goal
from benchmarks.harness.results import Result
from benchmarks.harness.series import Entry, goals_found, grouped, label_of, peers_of, seconds_of

BENCHMARKS = Path(__file__).parents[1]
PAGE, PLOTS = "README.md", "plots"

Cell = Callable[[Entry], str]

MORE = "../docs/architecture.md#the-propagation-on-a-cpu"
INTRODUCTION = """\
# Benchmarks

<!-- Made by `python -m benchmarks.harness.render` from benchmarks/results/*.json: do not edit. -->

Nothing here passes or fails on a time. To measure everything, store the results and make this page:

```bash
pip install '.[bench]' && python -m benchmarks.run
```

which takes about 17 minutes on two quiet cores. `python -m benchmarks.run SUITE ...` measures some
suites, `python -m benchmarks.run -- --large` adds graphs of 10^8 triples, whole epochs of the peers
and whole runs, and `pytest benchmarks --benchmark-only` measures without storing.
`python -m benchmarks.harness.render` makes the page alone. Real data sets are found through
`EKPNET_DATA`, and what needs them skips without. RecBole comes with the extra `recbole`, or stays
in an interpreter of its own that `-- --recbole-python PATH` names. Accuracy is measured by
`python -m ekpnet_fast.experiments`, GPUs by `bash benchmarks/gpu.sh`.

**How times are compared.** Two programs take turns in one run; "x faster" is the ratio of their
median times per unit of work, in parentheses its smallest and largest value over the rounds. Each
turn opens with a call that is not timed. What is called MovieLens has the real interactions and a
drawn graph of the size of RippleNet's, D 16, H 2, M 32; Book-Crossing is all real, D 4, H 3, M 32.
Steps have 8,192 pairs unless said otherwise, those of plain torch 1,024 as published.

**Floors.** Operations and bytes are counted from the equations
(`benchmarks/harness/operation_counts.py`): the fewest that any implementation must do. The share of
the floor is the time they would take at the speed of a large matrix product and of a large copy,
measured in the same run with the same threads, over the time taken.
"""

SECTIONS = {
    "step": "Training step",
    "epoch": "Epochs and runs",
    "contention": "On a busy machine",
    "recbole": "Beside RecBole",
    "sampler": "Sampler",
    "ranking": "Ranking",
    "answers": "Answers, one at a time",
    "serve": "Web server",
    "start": "Start of the commands",
    "loading": "Loading",
    "floor": "Shapes, and the floor of matrix products",
    "ops": "Single ops",
    "isa": "Instruction sets",
    "scale": "Size of table and graph",
}

NOTES = {
    "step": "One call is a step of the first stage and one of the second. A turn beside a peer is a"
    " whole epoch of ours, with its draw of ripple sets and its shuffling.",
    "epoch": "`ekpnet_fast.training.loop.train` with validation. A call is an epoch of each stage"
    " without its validation; epochs of the peers are extrapolated from some steps.",
    "contention": "Steps of EKPNet's first stage for half a second, with the mini-batches of the"
    " preset: 4,096 pairs on MovieLens, 1,024 on Book-Crossing; each epoch with its draw of ripple"
    " sets. All rows take turns in every round, on two CPUs. Busy processes are plain loops; the"
    " program with OpenMP multiplies and adds matrices with two threads of torch. Of two trainings"
    " at a time the samples are those of both, each with that many threads. A quota is set by a"
    " cgroup where one can be made, else one CPU is all that the process is given (`taskset`).",
    "recbole": "RecBole's own models on the same files, embedding width, hops, memory, batch size"
    " and threads; ours is EKPNet, both stages. Importing RecBole's models switches autograd's"
    " anomaly mode on: it is switched off here (a column says what it would cost RecBole), and the"
    " triples that its trainer would draw beside are left out, as neither model uses them. With"
    " NumPy 2 it needs three names back that NumPy removed (`benchmarks/peers/recbole_worker.py`).",
    "sampler": "Samples are users. Numba draws the same sets, number for number.",
    "ranking": "Samples are pairs of user and item. The peer scores B x I pairs with EKPNet's"
    " forward pass in plain torch, 4,096 at a time or one user's, as RecBole's KGCN does; turns"
    " rank for some users, and times are taken per pair. Memory is the process's peak above what it"
    " held before ranking: tables, graph, ripple sets.",
    "answers": "`Recommender.recommend` and `explain` in a process, ids in and names out: ripple"
    " sets are drawn, all items scored in one group, the best of them taken. One thread is the"
    " setting for answers: with two, and something else running, both wait for the slower one. The"
    " own graph is the public one of 20,195 triples, the drawn one has 1.24 million. Weights are"
    " not trained, which does not change the work.",
    "serve": "`POST /recommend` with the history of a user of MovieLens-1M, for the best 10 of all"
    " items; its own graph, D 16, H 2, M 32. Clients keep a connection over the loopback, send"
    " their next request when they have the answer to the one before, and compute on the same"
    " cores as the server. A call computes on one thread, and answers those requests together that"
    " came while all threads computed.",
    "start": "A call is a process from its start to its end, with the drawn default data where it"
    " needs a run. The column says by how much it takes longer than a process that only imports"
    " torch, in turns.",
    "loading": "Files of MovieLens' size, drawn: read, numbered, checked, split, histories, graph."
    " The peer reads the final text files whatever the format of ours.",
    "floor": "Both passes of an op on generated batches. *Products alone* is the time that the"
    " matrix products of both passes take in torch's library (MKL on Intel and AMD), over the time"
    " of the op: the products with operands per group of pairs or with shared ones, whichever are"
    " faster. Their operands lie side by side; *products and rows* adds what torch takes to copy"
    " the rows that the batch names, once, without their gradient.",
    "ops": "On the first batch of training. Samples are pairs of the batch; of `triple_loss`"
    " triples, of `row_adam_` rows, of `top_items` pairs of user and item.",
    "isa": "The set is chosen when the library loads (`EKPNET_CPU_ISA`), so each runs in a process"
    " of its own.",
    "scale": "Items are the same at every size, so a step touches about as many rows. Samples of"
    " ripple sets are users, who click items (1 in 75 entities) or anything.",
}

# Columns of a table from `extra_info`, where it has them: heading, and format of a value.
COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "threads": ("threads", str),
    "beside_torch_s": ("beside torch", lambda x: f"{x:+.2f} s"),
    "entities": ("entities", lambda x: f"{x:,}"),
    "triples": ("triples", lambda x: f"{x:,}"),
    "p95_ms": ("95th percentile, ms", lambda x: f"{x:.2f}"),
    "samples_per_s": ("samples/s", lambda x: f"{x:,.0f}"),
    "samples_per_s_range": ("lowest - highest", lambda x: f"{x[0]:,.0f} - {x[1]:,.0f}"),
    "samples_per_cpu_s": ("samples per CPU second", lambda x: f"{x:,.0f}"),
    "limited_by": ("limited by", str),
    "requests_per_s": ("requests/s", lambda x: f"{x:,.0f}"),
    "seconds_p95": ("95 % within", lambda x: duration(x)),
    "seconds_p99": ("99 % within", lambda x: duration(x)),
    "seconds_cpu": ("CPU of the server per request", lambda x: duration(x)),
    "users_per_s": ("users/s", lambda x: f"{x:,.0f}"),
    "bytes_per_s": ("GB/s", lambda x: f"{x / 1e9:.2f}"),
    "operations_per_s": ("G operations/s", lambda x: f"{x / 1e9:.1f}"),
    "share_of_floor": ("share of the floor", lambda x: f"{100 * x:.0f} %"),
    "products_alone_percent": ("products alone", lambda x: f"{x:.0f} %"),
    "products_and_rows_percent": ("products and rows", lambda x: f"{x:.0f} %"),
    "peer_slower_with_anomaly": ("RecBole's time with anomaly mode", lambda x: f"{x:.2f} x"),
    "rows_touched": ("rows touched", lambda x: f"{x:,}"),
    "time_over_1e5": ("time over that at 10^5", lambda x: f"{x:.2f}"),
    "time_over_1e6": ("time over that at 10^6", lambda x: f"{x:.2f}"),
    "table_mb": ("table, MB", lambda x: f"{x:,}"),
    "graph_mb": ("graph, MB", lambda x: f"{x:,}"),
    "peak_mb": ("peak memory, MB", lambda x: f"{x:,.0f}"),
    "peak_mb_above_tables": ("memory above the tables, MB", lambda x: f"{x:,.0f}"),
    "seconds_pretrain_epoch": ("first stage, s per epoch", lambda x: f"{x:.2f}"),
    "seconds_train_epoch": ("second stage, s per epoch", lambda x: f"{x:.2f}"),
    "seconds_validation": ("validation, s", lambda x: f"{x:.2f}"),
    "epochs": ("epochs", lambda x: f"{x:g}"),
    "seconds_total": ("whole run, s", lambda x: f"{x:.1f}"),
    "auc": ("test AUC", lambda x: f"{x:.4f}"),
}


def write(folder: Path = results.FOLDER, target: Path = BENCHMARKS) -> Path:
    """Make the page and its plots in `target`; returns the page.

    Raises:
        ValueError: there are no results, or a file that is none.
        ImportError: matplotlib is missing.
    """
    from benchmarks.harness import plots  # the one module that needs matplotlib

    found = results.newest(folder)
    if not found:
        raise ValueError(f"{folder}: found no result, expected some: python -m benchmarks.run")
    drawn = plots.draw(found, target / PLOTS)
    page = target / PAGE
    page.write_text(text_of(found, drawn), encoding="utf-8")
    return page


def text_of(found: dict[str, Result], drawn: dict[str, str]) -> str:
    """Text of the page. `drawn` names the plot of a suite, relative to the page."""
    parts = [INTRODUCTION, "## Goals", goals_text(found)]
    if "goals" in drawn:
        parts.append(f"![Reached over asked for, per goal]({drawn['goals']})")
    for suite, result in found.items():
        parts += [f"## {SECTIONS[suite]}", NOTES[suite]]
        for group, entries in grouped(result).items():
            parts += [f"**{group[0].upper()}{group[1:]}**", table_of(entries)]
        if suite in drawn:
            parts.append(f"![{SECTIONS[suite]}]({drawn[suite]})")
        parts.append(facts_of(result))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def goals_text(found: dict[str, Result]) -> str:
    """Table of goals, and a sentence that counts them."""
    reached = goals_found(found)
    rows, reasons = [], []
    met = missed = 0
    for key, goal in GOALS.items():
        entry = reached.get(key)
        if entry is None:
            rows.append([goal.work, goal.against, goal.bound_text(), "-", "not measured"])
            continue
        good = goal.met(entry["value"])
        met, missed = met + good, missed + (not good)
        if not good and goal.why:
            reasons.append(f"- {goal.work}: {goal.why}.")
        value = f"{entry['value']:,.3g}" if entry["value"] < 1000 else f"{entry['value']:,.0f}"
        value += goal.unit + _range(entry.get("range"))
        rows.append([goal.work, goal.against, goal.bound_text(), value, _verdict(goal, entry)])
    header = ["work", "against", "goal", "measured", ""]
    left = len(GOALS) - met - missed
    counted = f"{met} of {len(GOALS)} goals were reached, {missed} missed"
    counted += f", {left} not measured." if left else "."
    text = f"{counted} Two threads unless said.\n\n{table(header, rows, left=3)}"
    if reasons:
        text += f"\n\nWhat stands between ([more]({MORE})):\n\n" + "\n".join(reasons)
    return text


def _verdict(goal: Goal, entry: Entry) -> str:
    if not goal.met(entry["value"]):
        return "**missed**"
    if goal.stretch is not None and entry["value"] >= goal.stretch:
        return "reached, stretch too"
    return "reached"


def table_of(entries: list[Entry]) -> str:
    """Table with a row per benchmark, and the columns that at least one of them has."""
    columns: dict[str, Cell] = {"": label_of}
    for key, (heading, text) in COLUMNS.items():
        if any(key in entry["extra_info"] for entry in entries):
            columns[heading] = _column(key, text)
        if key == "triples":  # the last column that names the work
            columns["median time"] = lambda entry: duration(seconds_of(entry))
    for peer in peers_of(entries):
        columns[f"x faster than {peer}"] = _peer(peer)
    rows = [[cell(entry) for cell in columns.values()] for entry in entries]
    return table(list(columns), rows)


def _column(key: str, text: Callable[[Any], str]) -> Cell:
    def cell(entry: Entry) -> str:
        value = entry["extra_info"].get(key)
        return "-" if value is None else text(value)

    return cell


def _peer(name: str) -> Cell:
    def cell(entry: Entry) -> str:
        found = entry["extra_info"].get("peers", {}).get(name)
        return "-" if found is None else f"{found['ratio']:.3g}" + _range(found["range"])

    return cell


def _range(bounds: list[float] | None) -> str:
    if bounds is None or bounds[0] == bounds[1]:  # of one round
        return ""
    return f" ({bounds[0]:,.3g} - {bounds[1]:,.3g})"


def duration(seconds: float) -> str:
    """Text of a duration, with three digits."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def facts_of(result: Result) -> str:
    """Machine, software, commit and command of a result."""
    info = result["machine_info"]
    lines = [
        f"{info['processor']}, {info['cores']} cores, {info['memory_gb']} GB; instruction set"
        f" {info['isa']}, torch {info['torch']} ({info['torch_isa']}), NumPy {info['numpy']},"
        f" Python {info['python']}, {info['compiler']}; load {info['load']} at the start;"
        f" commit {info['commit']}, {info['date']}: `{info['command']}`",
    ]
    for versions in {
        tuple(entry["extra_info"]["peer_versions"].items())
        for entry in result["benchmarks"]
        if "peer_versions" in entry["extra_info"]
    }:
        listed = ", ".join(f"{name} {value}" for name, value in versions)
        lines.append(f"The peer ran on {listed}")
    return "<sub>" + ". ".join(lines) + ".</sub>"


def table(header: list[str], rows: list[list[str]], left: int = 1) -> str:
    """Markdown table; columns after the first `left` are right-aligned."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, rule, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def main() -> int:
    """Make the page; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harness.render")
    parser.add_argument("--results", type=Path, default=results.FOLDER, help="folder of results")
    parser.add_argument("--target", type=Path, default=BENCHMARKS, help="folder of the page")
    arguments = parser.parse_args()
    try:
        print(write(arguments.results, arguments.target))
    except ImportError as error:
        print(f"error: plots need matplotlib ({error}): pip install '.[bench]'", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

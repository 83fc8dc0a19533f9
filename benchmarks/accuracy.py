"""Accuracy on the real data sets, beside item popularity and the paper.

`python -m benchmarks.accuracy --data-root DIR --seeds 3 --preset default`

Each seed draws its own split, ripple sets and initial values. The epoch is chosen on validation;
test is looked at once, after training.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from ekpnet_fast import run
from ekpnet_fast.models import MODELS
from ekpnet_fast.options import parse_run

DATASETS = ("movielens-1m", "book-crossing", "last-fm")
RANKED = ("ekpnet",)  # models whose runs also rank all items

HEADER = ("data", "model", "AUC", "ACC", "AUC c>=1", "GAUC", "NDCG@10", "Recall@20", "seconds")

# AUC, and ACC where given: Table 3, and Table 4 for EKPNet's variants.
PAPER = {
    ("movielens-1m", "ripplenet"): ("0.917", "0.844"),
    ("book-crossing", "ripplenet"): ("0.698", "0.640"),
    ("movielens-1m", "ekpnet"): ("0.928", "0.856"),
    ("movielens-1m", "ekp_no"): ("0.9172",),
    ("movielens-1m", "ekp_att"): ("0.9213",),
    ("movielens-1m", "ekp_frame"): ("0.9219",),
    ("book-crossing", "ekpnet"): ("0.741", "0.677"),
    ("book-crossing", "ekp_no"): ("0.7006",),
    ("book-crossing", "ekp_att"): ("0.7105",),
    ("book-crossing", "ekp_frame"): ("0.7251",),
}


def train(arguments: argparse.Namespace, dataset: str, model: str, seed: int) -> dict[str, Any]:
    """One run's metrics."""
    options: dict[str, Any] = {
        "dataset": dataset,
        "data-root": arguments.data_root,
        "preset": arguments.preset,
        "model": model,
        "seed": seed,
        "epochs": arguments.epochs,
        "threads": arguments.threads,
        "ranking": str(model in RANKED).lower(),
    }
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return run.run(parse_run(given))


def rows_of(dataset: str, runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of one data set: popularity, then each model followed by the paper's number."""
    models = list(dict.fromkeys(found["model"] for found in runs))
    # Popularity depends on the split alone, so the runs of one model tell all of it.
    chosen = next((model for model in models if model in RANKED), models[0])
    per_seed = [found for found in runs if found["model"] == chosen]
    rows = [[dataset, "item popularity", *_cells(per_seed, "popularity", "popularity_ranking"), ""]]
    for model in models:
        own = [found for found in runs if found["model"] == model]
        seconds = report.mean_sd([found["seconds"]["total"] for found in own], 1)
        rows.append([dataset, model, *_cells(own, "test", "ranking"), seconds])
        paper = PAPER.get((dataset, model))
        if paper is not None:
            blank = [""] * (len(HEADER) - 2 - len(paper))
            rows.append([dataset, f"{model}, the paper", *paper, *blank])
    return rows


def _cells(runs: Sequence[dict[str, Any]], click: str, ranking: str) -> list[str]:
    names = ("auc", "acc", "auc_seen", "gauc")
    cells = [report.mean_sd([found[click][name] for found in runs], 4) for name in names]
    ranked = [found[ranking] for found in runs if found[ranking] is not None]
    for k, name in ((10, "ndcg"), (20, "recall")):
        cells.append(report.mean_sd([at[k][name] for at in ranked], 4))
    return cells


def main() -> None:
    """Run, print a Markdown table, write all metrics."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N - 1")
    parser.add_argument("--preset", choices=("default", "paper"), default="default")
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["ekpnet"])
    parser.add_argument("--epochs", type=int, help="of both stages, instead of the preset's")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, help="JSON file, rewritten after each run")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds is {arguments.seeds}, expected at least 1")
    runs: list[dict[str, Any]] = []
    for dataset in arguments.datasets:
        for model in arguments.models:
            for seed in range(arguments.seeds):
                runs.append(train(arguments, dataset, model, seed))
                line = f"{dataset} {model} seed {seed}: AUC {runs[-1]['test']['auc']:.4f}"
                print(line, file=sys.stderr, flush=True)
                facts = report.facts("benchmarks.accuracy", runs[-1]["environment"])
                if arguments.output is not None:
                    content = json.dumps({"facts": facts, "runs": runs}, indent=1)
                    arguments.output.write_text(content + "\n")
    rows = []
    for dataset in arguments.datasets:
        rows += rows_of(dataset, [found for found in runs if found["dataset"] == dataset])
    print(report.table(HEADER, rows))
    print(f"\nMean ± standard deviation over {arguments.seeds} seeds, preset {arguments.preset}.\n")
    print(report.facts_text(facts))


if __name__ == "__main__":
    main()

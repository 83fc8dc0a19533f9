"""HTML report `report.html`: one run on one page that needs nothing else, on screen or on paper.

Curves of training, of click prediction on the test examples and of top-K lists, times, the data
set's card, options and environment. Pictures are inline SVG, each with a text that says what it
shows; the numbers behind them are in tables. Needs matplotlib (the extra `report`).
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import PreparedData
from ekpnet_fast.data.stats import check, describe
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.evaluation.columns import COLUMNS, metric
from ekpnet_fast.evaluation.metrics import TOPK_NAMES
from ekpnet_fast.runs.run_folder import REPORT_FILE
from ekpnet_fast.storage.files import write_text

__all__ = ["REPORT_FILE", "calibration", "check_available", "precision_recall", "roc", "write"]

POINTS = 200  # of a curve, so that a page of millions of examples stays small
BINS = 10

Reals = NDArray[np.float64]

_PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
caption { text-align: left; font-weight: 600 }
th, td { border-bottom: 1px solid #bbb; padding: .2rem .8rem .2rem 0; text-align: right;
  vertical-align: top; overflow-wrap: anywhere }
th:first-child, td.text { text-align: left }
figure { margin: 1rem 0 } figure svg { max-width: 100%; height: auto }
@page { margin: 15mm }
@media print { body { font-size: 10pt; max-width: none; margin: 0 }
  figure, tr { break-inside: avoid } h2 { break-after: avoid } }
</style></head><body><main>
<h1>$title</h1>
$body
</main></body></html>
""")


def check_available() -> None:
    """Refuse early a report that cannot be drawn in the end.

    Raises:
        ConfigError: matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "--report needs matplotlib, which is missing; pip install 'ekpnet_fast[report]'"
        ) from error


def roc(positive: NDArray[np.bool_], scores: NDArray[Any]) -> tuple[Reals, Reals]:
    """False and true positive rate where each distinct score is the threshold, from (0, 0)."""
    true, false = _counts(positive, scores)
    return false / max(false[-1], 1), true / max(true[-1], 1)


def precision_recall(positive: NDArray[np.bool_], scores: NDArray[Any]) -> tuple[Reals, Reals]:
    """Recall and precision where each distinct score is the threshold, highest first."""
    true, false = _counts(positive, scores)
    true, false = true[1:], false[1:]
    return true / max(true[-1], 1), true / (true + false)


def calibration(
    positive: NDArray[np.bool_], probabilities: NDArray[Any], bins: int = BINS
) -> tuple[Reals, Reals]:
    """Mean probability and share of positives in bins of as many examples each, by probability."""
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    mean = np.array([probabilities[part].mean(dtype=np.float64) for part in parts])
    return mean, np.array([positive[part].mean() for part in parts])


def _counts(positive: NDArray[np.bool_], scores: NDArray[Any]) -> tuple[Reals, Reals]:
    """True and false positives above each distinct score, from none to all."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
    true = np.cumsum(positive[order])[ends]
    return np.append(0.0, true), np.append(0.0, ends + 1 - true)


def write(
    path: Path,
    metrics: Mapping[str, Any],
    config: RunConfig,
    prepared: PreparedData,
    logits: NDArray[Any] | None,
) -> None:
    """Write the page.

    Args:
        path: the file.
        metrics: as in `metrics.json`.
        config: of the run.
        prepared: its data.
        logits: of the test examples [N]; None under a protocol without negatives.

    Raises:
        ConfigError: matplotlib is missing, or the file cannot be written.
    """
    check_available()
    title = f"{metrics['model']} on {metrics['dataset']}, seed {metrics['seed']}"
    drawn = itertools.count(1)
    body = [_results(metrics)]
    if metrics["epochs"]:
        body += _training(metrics["epochs"], drawn)
    if logits is not None and len(set(prepared.test.labels.tolist())) == 2:
        body += _clicks(prepared.test.labels == 1, logits, drawn)
    if metrics["ranking"] is not None:
        body += _lists(metrics, drawn)
    parts = [(k, v) for k, v in metrics["seconds"].items() if k != "total"]
    body += [
        "<h2>Time</h2>",
        _bars("Seconds per part of the run", parts, drawn),
        _table(
            "Seconds",
            ("part", "s"),
            [*parts, ("total", metrics["seconds"]["total"]), ("CPU", metrics["cpu_seconds"])],
        ),
        "<h2>Data set</h2>",
        _table("What the data set has", ("", "here"), describe(prepared).table()),
        _table(
            "Checks",
            ("", "count", "meaning"),
            [(f.name, f"{f.count:,}", f.meaning) for f in check(prepared)]
            or [("nothing found", "", "")],
        ),
        *(f"<p>{escape(note)}</p>" for note in (prepared.dataset.source, *prepared.dataset.notes)),
        f"<p>Hash of the prepared data: {escape(metrics['data_hash'])}</p>",
        "<h2>Options and environment</h2>",
        _table("Options", ("option", "value"), _flat(config.as_dict())),
        _table(
            "Environment",
            ("", ""),
            [
                ("ekpnet_fast", metrics["version"]),
                *metrics["environment"].items(),
                ("peak memory, MiB", metrics["peak_rss_mb"]),
            ],
        ),
    ]
    write_text(path, _PAGE.substitute(title=escape(title), body="\n".join(body)))


def _results(metrics: Mapping[str, Any]) -> str:
    columns = COLUMNS[metrics["protocol"]]
    rows: list[tuple[Any, ...]] = []
    for name, clicks, ranking in (
        ("item popularity", metrics["popularity"], metrics["popularity_ranking"]),
        (metrics["model"], metrics["test"], metrics["ranking"]),
        ("best possible", {"auc": metrics["oracle_auc"]}, None),
    ):
        values = [metric(key, clicks, ranking) for key in columns.values()]
        if not all(map(math.isnan, values)):
            rows.append((name, *values))
    return _table("Test metrics, item popularity first", ("", *columns), rows)


def _training(epochs: Sequence[Mapping[str, Any]], drawn: Iterator[int]) -> list[str]:
    names = ["loss", "pairs", "kg", "l2_weights", "l2_rows", "valid_auc", "valid_mrr", "valid_ndcg"]
    names = [n for n in names if any(_number(record[n]) is not None for record in epochs)]
    valid = [name for name in names if name.startswith("valid")]
    x = np.arange(len(epochs)) + min(epochs[0]["epoch"], 1)

    def curves(chosen: Sequence[str]) -> dict[str, tuple[Any, Any]]:
        return {n: (x, [math.nan if r[n] is None else r[n] for r in epochs]) for n in chosen}

    terms = [name for name in names if name not in valid]
    stages = ", then ".join(dict.fromkeys(record["stage"] for record in epochs))
    found = [
        "<h2>Training</h2>",
        _plot(f"Loss and its terms by epoch ({stages})", "epoch", "per pair", curves(terms), drawn),
    ]
    if valid:
        found.append(_plot("Validation by epoch", "epoch", "", curves(valid), drawn))
    rows = [(r["stage"], r["epoch"], *(r[n] for n in names), r["seconds"]) for r in epochs]
    return [*found, _table("Epochs", ("stage", "epoch", *names, "s"), rows)]


def _clicks(positive: NDArray[np.bool_], logits: NDArray[Any], drawn: Iterator[int]) -> list[str]:
    recall, precision = precision_recall(positive, logits)
    probabilities = 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))
    expected, found = calibration(positive, probabilities)
    share = float(positive.mean())
    base = {"no skill": ([0, 1], [share, share])}
    diagonal = {"no skill": ([0, 1], [0, 1])}
    true = np.where(positive, probabilities, 1 - probabilities)
    rows = [
        ("Brier score", float(((probabilities - positive) ** 2).mean())),
        ("log loss", float(-np.log(np.maximum(true, 1e-12)).mean())),
        ("largest gap of a bin", float(np.abs(expected - found).max())),
    ]
    return [
        "<h2>Click prediction on the test rows</h2>",
        _plot(
            "ROC curve",
            "false positive rate",
            "true positive rate",
            {"model": _thinned(*roc(positive, logits)), **diagonal},
            drawn,
        ),
        _plot(
            "Precision and recall",
            "recall",
            "precision",
            {"model": _thinned(recall, precision), **base},
            drawn,
        ),
        _plot(
            f"Calibration, {len(expected)} bins of as many rows",
            "mean probability",
            "share of positives",
            {"model": (expected, found), "perfect": ([0, 1], [0, 1])},
            drawn,
        ),
        _table("Calibration", ("", "value"), rows),
        _table(
            "Bins",
            ("mean probability", "share of positives"),
            list(zip(expected, found, strict=True)),
        ),
    ]


def _lists(metrics: Mapping[str, Any], drawn: Iterator[int]) -> list[str]:
    systems = {
        "item popularity": metrics["popularity_ranking"],
        metrics["model"]: metrics["ranking"],
    }
    ks = [int(k) for k in metrics["ranking"]]

    def of(lists: dict[Any, Any], k: int, name: str) -> float:
        return metric(f"{name}@{k}", None, lists)

    found = ["<h2>Top-K lists</h2>"]
    for name in ("precision", "recall"):
        curves = {s: (ks, [of(lists, k, name) for k in ks]) for s, lists in systems.items()}
        title = f"{name.title()} at K, test"
        found.append(_plot(title, "K", name, curves, drawn, logarithmic=True))
    names = (*TOPK_NAMES, "coverage", "gini", "novelty")
    for system, lists in systems.items():
        rows = [(k, *(_with_interval(partial(of, lists, k), name) for name in names)) for k in ks]
        found.append(_table(f"Lists of {system}", ("K", *names), rows))
    found.append(
        "<p>In brackets the interval of 95 % of an average over users, by draws of users.</p>"
    )
    return found


# ---- pieces of a page ----------------------------------------------------------------------------


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _with_interval(of: Callable[[str], float], name: str) -> float | str:
    """Value of a metric, with its interval if it is an average over users."""
    value, low, high = (of(key) for key in (name, f"{name}_low", f"{name}_high"))
    return value if math.isnan(low) else f"{_shown(value)} [{_shown(low)}, {_shown(high)}]"


def _shown(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.4g}" if math.isfinite(value) else ""
    return "" if value is None else escape(str(value))


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(
        "<tr>"
        + f'<th scope="row">{_shown(row[0])}</th>'
        + "".join(f"<td>{_shown(value)}</td>" for value in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _flat(values: Mapping[str, Any], start: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{start}{name}.")
        else:
            found.append((start + name, value))
    return found


def _thinned(x: Reals, y: Reals) -> tuple[Reals, Reals]:
    """Thin a curve to at most `POINTS` points, the ends among them."""
    kept = np.unique(np.linspace(0, len(x) - 1, POINTS).astype(np.int64))
    return x[kept], y[kept]


def _plot(
    title: str,
    x: str,
    y: str,
    curves: Mapping[str, tuple[Any, Any]],
    drawn: Iterator[int],
    *,
    logarithmic: bool = False,
) -> str:
    from matplotlib.figure import Figure

    from ekpnet_fast.runs.plotting import COLOURS, MARKERS

    figure = Figure(figsize=(6.5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, (at, values)) in enumerate(curves.items()):
        mark = MARKERS[i % len(MARKERS)] if len(at) <= 50 else None
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(at, values, marker=mark, markersize=4, color=colour, label=name)
    axes.set(xlabel=x, ylabel=y)
    if logarithmic:
        axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _figure(
        figure, title, f"{title}: {y or 'value'} against {x} of {', '.join(curves)}", drawn
    )


def _bars(title: str, rows: Sequence[tuple[str, float]], drawn: Iterator[int]) -> str:
    from matplotlib.figure import Figure

    from ekpnet_fast.runs.plotting import COLOURS

    figure = Figure(figsize=(6.5, 0.6 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh([name for name, _ in rows], [value for _, value in rows], color=COLOURS[0])
    axes.invert_yaxis()
    axes.set(xlabel="s")
    text = ", ".join(f"{name} {value:.2f}" for name, value in rows)
    return _figure(figure, title, f"{title}: {text}", drawn)


def _figure(figure: Any, title: str, text: str, drawn: Iterator[int]) -> str:
    """Inline SVG, its ids made the page's own."""
    import matplotlib

    from ekpnet_fast.runs.plotting import RC

    number = next(drawn)
    file = io.StringIO()
    # As in the figures of experiments: the same bytes for the same numbers.
    with matplotlib.rc_context(RC):
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{number}-", svg[svg.index("<svg") :])
    label = f'<svg role="img" aria-label="{escape(text, quote=True)}"'
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{svg.replace('<svg', label, 1)}</figure>"
    )

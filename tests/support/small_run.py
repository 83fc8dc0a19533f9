"""Run on a tiny synthetic data set: its options, and what does not differ from run to run."""

from __future__ import annotations

import json

SYNTHETIC = [
    *["--synthetic.users", "60", "--synthetic.items", "80", "--synthetic.positives", "10"],
    *["--synthetic.attributes", "16", "--synthetic.parents", "4", "--synthetic.triples", "435"],
]
SMALL = [
    *["--threads", "1", "--shape.width", "4", "--shape.slots", "8"],
    *["--pretrain.batch_size", "128", "--train.batch_size", "128"],
    *SYNTHETIC,
]
TIMES = ("seconds", "cpu_seconds", "samples_per_second", "peak_rss_mb", "resumed")
SEALS = ("files", "sha256")


def metrics_but_times(folder):
    """Metrics of a run but for times, the memory, how often it was resumed, and seals of all."""
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in (*TIMES, *SEALS):
        del metrics[name]
    for record in metrics["epochs"]:
        del record["seconds"], record["samples_per_second"]
    return metrics

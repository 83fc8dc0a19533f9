"""Training steps of an installed RecBole in a worker (see `benchmarks.harness.worker_protocol`).

`PYTHON benchmarks/peers/recbole_worker.py MODEL --data DIR --threads N ...`; PYTHON is an
interpreter with RecBole 1.2 and torch, in which this project need not be installed.

Needs of RecBole 1.2.1 with today's releases, all met here:

- It requires ray <= 2.6.3, which has wheels for Python 3.11 at most, so the interpreter is one.
- NumPy 2 removed names that RecBole's `Config` reads: they are put back before the import.
- `get_model` imports all its models, one of which (sine.py) switches autograd's anomaly mode on for
  the whole process; it is switched off again, and its cost is measured (`--anomaly`).
- `Config` takes the options of whatever program runs: they are hidden from it.
- RecBole's files are named after the data set: links with that name are made in a temporary folder.

A step is that of RecBole's trainer: the next batch of its loader, with one negative drawn per
positive, `calculate_loss`, backward, Adam over all parameters. The loader yields interactions
alone: its own trainer draws corrupted triples beside them too, which neither RippleNet nor KGCN
uses, so leaving that out favours RecBole.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.harness.worker_protocol import serve

NAME = "data"  # of the data set, for RecBole


def put_names_back() -> None:
    """Restore the aliases of NumPy 1 that RecBole reads."""
    for name, kind in {
        "float_": np.float64,
        "complex_": np.complex128,
        "unicode_": np.str_,
    }.items():
        if name not in np.__dict__:
            setattr(np, name, kind)


def step_of(arguments: argparse.Namespace, folder: str) -> Callable[[], int]:
    """Training step per call; returns its number of samples."""
    put_names_back()
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import KGDataLoaderState, get_model, init_seed

    linked = Path(folder) / NAME
    linked.mkdir()
    for path in Path(arguments.data).iterdir():
        (linked / f"{NAME}{path.suffix}").symlink_to(path.resolve())
    config = Config(
        model=arguments.model,
        dataset=NAME,
        config_dict={
            "data_path": folder,
            "load_col": {
                "inter": ["user_id", "item_id", "rating"],
                "kg": ["head_id", "relation_id", "tail_id"],
                "link": ["item_id", "entity_id"],
            },
            "val_interval": {"rating": f"[{arguments.threshold},inf)"},
            "embedding_size": arguments.width,
            "n_hop": arguments.hops,
            "n_memory": arguments.slots,
            "n_iter": arguments.hops,
            "train_batch_size": arguments.batch_size,
            "use_gpu": False,
            "show_progress": False,
            "state": "ERROR",
        },
    )
    init_seed(0, True)
    train, _, _ = data_preparation(config, create_dataset(config))
    model = get_model(arguments.model)(config, train._dataset)
    torch.autograd.set_detect_anomaly(arguments.anomaly)
    torch.set_num_threads(arguments.threads)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train.set_mode(KGDataLoaderState.RS)

    def endless() -> Iterator[object]:
        while True:
            yield from train

    batches = endless()

    def step() -> int:
        batch = next(batches)
        optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        optimizer.step()
        return len(batch)  # type: ignore[arg-type]

    return step


def main() -> None:
    """Serve one model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=["RippleNet", "KGCN"])
    parser.add_argument("--data", required=True, help="folder of atomic files")
    parser.add_argument("--threshold", type=float, required=True, help="smallest positive rating")
    parser.add_argument("--anomaly", action="store_true", help="leave autograd's checks on")
    for name in ("threads", "width", "hops", "slots", "batch-size"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    del sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole writes logs into the working folder
        step = step_of(arguments, folder)
        import recbole

        versions = {
            "recbole": recbole.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "anomaly": torch.is_anomaly_enabled(),
        }
        serve(lambda _: step(), lambda: {"versions": versions})


if __name__ == "__main__":
    main()

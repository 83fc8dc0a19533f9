"""Loading, from files to ids, split and graph, beside numpy.loadtxt and Python dicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness import goals
from benchmarks.harness.compare import alternate, time_rounds, write_rates
from benchmarks.harness.datasets import MOVIELENS_ENTITIES, MOVIELENS_RELATIONS, MOVIELENS_TRIPLES
from benchmarks.peers import ripplenet_loader
from ekpnet_fast.data import load_dataset, prepare
from ekpnet_fast.sampling.graph import Graph

USERS, ITEMS, ROWS = 6_036, 2_445, 753_772  # as in MovieLens-1M
FORMATS = ["final .txt", "final .npy", "RecBole"]


def tables() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Examples user, item, label, half of them positive and no pair twice; triples."""
    draw = np.random.default_rng(0)
    pairs = draw.choice(USERS * ITEMS, ROWS, replace=False)
    labels = np.arange(ROWS) % 2
    rows = np.stack([pairs // ITEMS, pairs % ITEMS, labels], axis=1)
    limits = (MOVIELENS_ENTITIES, MOVIELENS_RELATIONS, MOVIELENS_ENTITIES)
    triples = np.stack([draw.integers(0, n, MOVIELENS_TRIPLES) for n in limits], axis=1)
    return rows, triples


def write_text(path: Path, table: NDArray[np.int64], header: str = "") -> None:
    lines = ["\t".join(map(str, row)) for row in table.tolist()]
    path.write_text("\n".join(([header] if header else []) + lines) + "\n")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a data set of MovieLens' size in each format."""
    rows, triples = tables()
    root = tmp_path_factory.mktemp("loading")
    found = {name: root / f"{number}" for number, name in enumerate(FORMATS)}
    for folder in found.values():
        folder.mkdir()
    text, arrays, recbole = found.values()
    write_text(text / "ratings_final.txt", rows)
    write_text(text / "kg_final.txt", triples)
    np.save(arrays / "ratings_final.npy", rows)
    np.save(arrays / "kg_final.npy", triples)
    write_text(recbole / "data.inter", rows, "user_id:token\titem_id:token\trating:float")
    write_text(recbole / "data.kg", triples, "head_id:token\trelation_id:token\ttail_id:token")
    links = np.repeat(np.arange(ITEMS), 2).reshape(-1, 2)
    write_text(recbole / "data.link", links, "item_id:token\tentity_id:token")
    return found


def loader(folder: Path, threshold: float | None) -> Callable[[], Graph]:
    """Loader: all the work of a run before it draws ripple sets."""

    def call() -> Graph:
        dataset = load_dataset(str(folder), threshold=threshold)
        prepare(dataset, seed=0)
        return Graph.from_dataset(dataset, inverse=False)

    return call


@pytest.mark.benchmark(group="loading and preparing, MovieLens size")
@pytest.mark.parametrize("files", FORMATS)
def test_loading(benchmark: BenchmarkFixture, folders: dict[str, Path], files: str) -> None:
    """Samples are rows and triples. The peer reads the same rows and triples as final text.

    RecBole's files have positives and negatives, so their loader draws negatives beside; the peer
    does not.
    """
    folder = folders[files]
    ours = loader(folder, 1.0 if files == "RecBole" else None)
    assert ours().num_triples == MOVIELENS_TRIPLES
    seconds = time_rounds(benchmark, ours, rounds=5, warmup=1)
    info = benchmark.extra_info
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    write_rates(info, seconds, samples=ROWS + MOVIELENS_TRIPLES, num_bytes=num_bytes)
    text = folders[FORMATS[0]]

    def peer() -> object:
        return ripplenet_loader.load(text)

    # The peer takes seconds, and is the same for every format.
    comparison = alternate(ours, peer, rounds=3 if files == FORMATS[0] else 1)
    comparison.write(info, "numpy.loadtxt and dicts")
    if files == FORMATS[0]:
        goals.reach(info, "loading", comparison)

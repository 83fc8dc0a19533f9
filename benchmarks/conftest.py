"""What the benchmarks share: options, data sets, threads."""

from __future__ import annotations

import os
from pathlib import Path

import numba
import pytest
import torch

from benchmarks import workloads


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ekpnet_fast")
    group.addoption("--large", action="store_true", help="also the graph of 10^8 triples")
    group.addoption("--threads", type=int, help="CPU threads; all cores without it")


@pytest.fixture(scope="session", autouse=True)
def threads(request: pytest.FixtureRequest) -> int:
    """Threads of torch and numba alike."""
    wanted = request.config.getoption("--threads") or len(os.sched_getaffinity(0))
    torch.set_num_threads(wanted)
    numba.set_num_threads(wanted)
    return wanted


@pytest.fixture(autouse=True)
def record_threads(request: pytest.FixtureRequest, threads: int) -> None:
    """Every benchmark says how many threads it ran with."""
    if "benchmark" in request.fixturenames:
        request.getfixturevalue("benchmark").extra_info["threads"] = threads


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets."""
    root = Path(os.environ.get("EKPNET_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no data sets at {root}: set EKPNET_DATA")
    return root


def _need(data_root: Path, name: str) -> None:
    if not (data_root / name).is_dir():
        pytest.skip(f"no data set {name} in {data_root}")


@pytest.fixture(scope="session")
def movielens(data_root: Path) -> workloads.Setting:
    _need(data_root, "movielens-1m")
    return workloads.movielens(data_root)


@pytest.fixture(scope="session")
def book_crossing(data_root: Path) -> workloads.Setting:
    _need(data_root, "book-crossing")
    return workloads.book_crossing(data_root)

"""Shared options and fixtures of the benchmarks, and the facts stored with a result."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import pytest
import torch

from benchmarks.harness import datasets, facts, goals


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ekpnet_fast")
    group.addoption(
        "--large", action="store_true", help="also 10^8 triples, and whole epochs of the peers"
    )
    group.addoption("--threads", type=int, help="CPU threads (default: what may be used)")
    group.addoption(
        "--recbole-python", help="interpreter that has RecBole; this one without the option"
    )


@pytest.fixture(scope="session", autouse=True)
def threads(request: pytest.FixtureRequest) -> int:
    """Number of threads, of torch and numba alike."""
    wanted: int | None = request.config.getoption("--threads")
    if wanted is None:
        # Imported here, so that with the option an older package can be measured too.
        from ekpnet_fast.native.cpus import choose_threads

        wanted = choose_threads().count
    torch.set_num_threads(wanted)
    numba.set_num_threads(wanted)
    return wanted


@pytest.fixture(scope="session", autouse=True)
def kept_memory() -> None:
    """Free a large array once, as every run does before it trains.

    From then on glibc keeps memory of such sizes. Before, it gives it back after every call of an
    op, and half of the time that is measured is the system's, for pages that it clears anew.
    """
    torch.empty(31 << 20, dtype=torch.uint8)  # the most that raises what it keeps


@pytest.fixture(autouse=True)
def record_threads(request: pytest.FixtureRequest, threads: int) -> None:
    """Record the number of threads of every benchmark."""
    if "benchmark" in request.fixturenames:
        request.getfixturevalue("benchmark").extra_info["threads"] = threads


@pytest.fixture(scope="session")
def large(request: pytest.FixtureRequest) -> bool:
    """Whether the long measurements run."""
    return bool(request.config.getoption("--large"))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets."""
    root = datasets.data_root()
    if not root.is_dir():
        pytest.skip(f"no data sets at {root}: set EKPNET_DATA")
    return root


@pytest.fixture(scope="session")
def need(data_root: Path) -> Callable[[str], None]:
    """Check that skips where a setting's data set is missing; for loading in another process."""

    def check(name: str) -> None:
        if not (data_root / datasets.FOLDERS[name]).is_dir():
            pytest.skip(f"no data set {datasets.FOLDERS[name]} in {data_root}")

    return check


@pytest.fixture(scope="session")
def movielens(data_root: Path, need: Callable[[str], None]) -> datasets.Setting:
    need("movielens")
    return datasets.movielens(data_root)


@pytest.fixture(scope="session")
def book_crossing(data_root: Path, need: Callable[[str], None]) -> datasets.Setting:
    need("book_crossing")
    return datasets.book_crossing(data_root)


@pytest.fixture(scope="session")
def setting_named(request: pytest.FixtureRequest) -> Callable[[str], datasets.Setting]:
    """Settings by name; skips where a data set is missing."""
    return request.getfixturevalue


# ---- stored facts ------------------------------------------------------------------------------


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Facts that a reader needs, instead of the list of all that the machine has."""
    command = ["pytest", *_public(config.invocation_params.args)]
    machine_info.clear()
    machine_info.update(facts.machine(), command=shlex.join(command))


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]
) -> None:
    """Drop the times of single rounds, so that files stay small enough to keep."""
    for entry in output_json["benchmarks"]:
        entry["stats"].pop("data", None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the goals that this session measured."""
    if not goals.reached:
        return
    terminalreporter.section("goals")
    for key, entry in goals.reached.items():
        goal = goals.GOALS[key]
        terminalreporter.write_line(
            f"{goal.work}, against {goal.against}: {entry['value']:g}{goal.unit}"
            f" ({goal.bound_text()}: {'reached' if goal.met(entry['value']) else 'missed'})"
        )


def _public(arguments: tuple[str, ...]) -> Iterator[str]:
    """Words of the command without paths of this machine: of its result and of RecBole."""
    after = ""
    for word in map(str, arguments):
        if after == "--recbole-python":
            yield "PYTHON"
        elif not word.startswith("--benchmark-json"):
            yield "--recbole-python=PYTHON" if word.startswith("--recbole-python=") else word
        after = word

"""Web server under load: latency and requests per second by number of clients."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness import goals
from benchmarks.harness.compare import time_rounds
from benchmarks.programs import http_load
from benchmarks.programs.web_server import Served
from ekpnet_fast.recommender import Recommender

pytest.importorskip("uvicorn", reason="needs the extra `serve`")

USERS, K = 1000, 10


@pytest.fixture(scope="module")
def recommender(data_root: Path, need: Callable[[str], None], threads: int) -> Recommender:
    """Recommender of MovieLens-1M with its own graph; its quality changes no time."""
    need("movielens")
    return Recommender.fit(
        "movielens-1m", epochs=1, threads=threads, device="cpu", data_root=data_root
    )


@pytest.fixture(scope="module")
def questions(recommender: Recommender) -> list[bytes]:
    """Requests with the histories of some users, drawn by a seed."""
    users = np.array(recommender.user_ids())
    found = []
    for user in np.random.default_rng(0).permutation(users).tolist():
        history = recommender.history(user)
        if history:
            body = json.dumps({"history": history, "k": K}).encode()
            found.append(http_load.post("/recommend", body))
        if len(found) == USERS:
            break
    return found


@pytest.fixture(scope="module")
def served(
    recommender: Recommender, threads: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served") / "movielens"
    recommender.save(folder)
    with Served(folder, "--threads", str(threads)) as served:
        yield served


@pytest.mark.data
@pytest.mark.benchmark(group="recommend by history over HTTP")
@pytest.mark.parametrize("clients", ["1 client", "8 clients", "32 clients"])
def test_recommend(
    benchmark: BenchmarkFixture, served: Served, questions: list[bytes], clients: str
) -> None:
    """Load by number of clients; the median time of the table is that of a request."""
    _measure(benchmark, served, questions, clients, status=200)
    info = benchmark.extra_info
    if clients == "32 clients":
        goals.reach(info, "served", info["requests_per_s"])
        goals.reach(info, "served_p99", 1000 * info["seconds_p99"])


@pytest.mark.data
@pytest.mark.benchmark(group="recommend by a history with an unknown item over HTTP")
@pytest.mark.parametrize("clients", ["1 client", "32 clients"])
def test_unknown_item(
    benchmark: BenchmarkFixture, served: Served, recommender: Recommender, clients: str
) -> None:
    """The same load, refused: the answer names ids that come close."""
    known = max(recommender.item_ids(), key=int)
    questions = [
        http_load.post("/recommend", json.dumps({"history": [int(known) + i]}).encode())
        for i in range(1, USERS)
    ]
    _measure(benchmark, served, questions, clients, status=422)


def _measure(
    benchmark: BenchmarkFixture, served: Served, questions: list[bytes], clients: str, status: int
) -> None:
    address = urlsplit(served.address)
    assert address.hostname is not None and address.port is not None
    host, port, info = address.hostname, address.port, benchmark.extra_info
    count = int(clients.split()[0])

    def load(seconds: float) -> http_load.Load:
        return http_load.run(
            host, port, questions, clients=count, status=status, warm=0.0, seconds=seconds
        )

    load(1.0)  # all requests of the next one count, so that the server's CPU time is theirs
    found: list[http_load.Load] = []
    before = served.cpu_seconds()
    time_rounds(benchmark, lambda: found.append(load(5.0)), rounds=1, warmup=0)
    cpu = served.cpu_seconds() - before
    info["seconds"] = found[0].within(0.5)
    info["seconds_p95"] = found[0].within(0.95)
    info["seconds_p99"] = found[0].within(0.99)
    info["requests"] = len(found[0].latencies)
    info["requests_per_s"] = found[0].requests_per_s
    info["seconds_cpu"] = cpu / len(found[0].latencies)

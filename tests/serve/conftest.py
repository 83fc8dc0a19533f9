"""The cinema of `cinema.py`, served."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the server needs the extra `serve`")
pytest.importorskip("httpx", reason="its tests need httpx")

from fastapi.testclient import TestClient

from ekpnet_fast.recommender import Recommender
from ekpnet_fast.serve.app import Limits, create_app
from ekpnet_fast.serve.engine import RecommenderEngine
from support.cinema import fitted


@pytest.fixture(autouse=True)
def one_thread(threads):
    """These problems are too small to share."""
    threads(1)


@pytest.fixture(scope="session")
def recommender() -> Recommender:
    return fitted()


@pytest.fixture(scope="session")
def engine(recommender) -> RecommenderEngine:
    return RecommenderEngine(recommender)


@pytest.fixture
def client(engine):
    with TestClient(create_app(engine, Limits(threads=2)), "http://127.0.0.1") as client:
        yield client


@pytest.fixture
def serving():
    """Makes clients of other engines and limits."""
    clients = []

    def make(engine, hosts=(), **limits):
        limits = Limits(**{"threads": 1, **limits})
        client = TestClient(
            create_app(engine, limits, frozenset(hosts)),
            "http://127.0.0.1",
            raise_server_exceptions=False,
        )
        clients.append(client)
        return client.__enter__()

    yield make
    for client in clients:
        client.__exit__(None, None, None)

"""What commands do to the process that runs them."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def surroundings(threads, monkeypatch):
    """Commands set torch's threads and look at EKPNET_DATA."""
    threads(1)
    monkeypatch.delenv("EKPNET_DATA", raising=False)

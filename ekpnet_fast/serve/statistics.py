"""Counts and latencies of requests since the start, in memory that does not grow with them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

BUCKETS_PER_DOUBLING = 8  # neighbouring bounds differ by 9 %, so a quantile is off by 4.5 % at most
FASTEST = 1e-5  # seconds; a faster one counts as this fast
DOUBLINGS = 24  # up to 168 s; a slower one counts as this slow
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(slots=True)
class Latencies:
    """Histogram of durations over buckets that grow by a constant factor."""

    counts: list[int] = field(default_factory=lambda: [0] * (BUCKETS_PER_DOUBLING * DOUBLINGS + 1))
    total: int = 0
    slowest: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        place = math.ceil(math.log2(max(seconds, FASTEST) / FASTEST) * BUCKETS_PER_DOUBLING)
        self.counts[min(place, len(self.counts) - 1)] += 1
        self.total += 1
        self.slowest = max(self.slowest, seconds)

    def quantile(self, q: float) -> float | None:
        """Quantile: the seconds that a share `q` of all do not exceed; None without any."""
        rank, passed = q * self.total, 0
        for place, count in enumerate(self.counts):
            passed += count
            if count and passed >= rank:
                # The geometric middle of the bucket.
                return FASTEST * float(2 ** ((place - 0.5) / BUCKETS_PER_DOUBLING))
        return None


@dataclass(slots=True)
class Endpoint:
    """Statuses and latencies of one endpoint."""

    statuses: dict[int, int] = field(default_factory=dict)
    latencies: Latencies = field(default_factory=Latencies)


class Statistics:
    """Statistics of requests by endpoint, unlocked because only the event loop uses them.

    Args:
        endpoints: the paths that are counted apart; any other path counts as "other", so that no
            client can make the table grow.
    """

    def __init__(self, endpoints: frozenset[str]) -> None:
        self.started = time.monotonic()
        self._known = endpoints
        self.endpoints: dict[str, Endpoint] = {}

    def add(self, path: str, status: int, seconds: float) -> None:
        """Count one request."""
        endpoint = self.endpoints.setdefault(path if path in self._known else "other", Endpoint())
        endpoint.statuses[status] = endpoint.statuses.get(status, 0) + 1
        endpoint.latencies.add(seconds)

    def uptime(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

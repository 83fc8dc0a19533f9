"""HTTP load generator: clients that each send the next request when the last is answered."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Load:
    """Latencies of all requests that some clients sent.

    Attributes:
        seconds: from the first counted question to the last answer.
        latencies: [n] seconds of each answer.
    """

    seconds: float
    latencies: np.ndarray

    @property
    def requests_per_s(self) -> float:
        """Rate of answers, of all clients together."""
        return len(self.latencies) / self.seconds

    def within(self, share: float) -> float:
        """Seconds in which a share of the answers came."""
        return float(np.quantile(self.latencies, share))


class _Client(asyncio.Protocol):
    """Client of one kept connection, with as little work per answer as can be: cores are shared."""

    def __init__(self, questions: Iterator[bytes], status: int, warm: float, end: float) -> None:
        self.questions, self.warm, self.end = questions, warm, end
        self.expected = f"HTTP/1.1 {status} ".encode()
        self.latencies: list[float] = []
        self.first = self.last = 0.0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self.answer = b""
        self.sent = time.perf_counter()
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.write(next(self.questions))

    def data_received(self, data: bytes) -> None:
        self.answer += data
        head, found, body = self.answer.partition(b"\r\n\r\n")
        if not found:
            return
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return
        self.last = time.perf_counter()
        if not head.startswith(self.expected):
            self.done.set_exception(RuntimeError(f"answered with {self.answer[:300]!r}"))
            return
        if self.sent >= self.warm:
            self.first = self.first or self.sent
            self.latencies.append(self.last - self.sent)
        if self.last >= self.end:
            self.transport.close()
            self.done.set_result(None)
        else:
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"the server closed the connection ({error})"))


async def _all(
    host: str,
    port: int,
    questions: Sequence[bytes],
    clients: int,
    status: int,
    warm: float,
    seconds: float,
) -> Load:
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    order = itertools.cycle(questions)
    made = []
    for _ in range(clients):
        _, client = await loop.create_connection(
            lambda: _Client(order, status, started + warm, started + warm + seconds), host, port
        )
        made.append(client)
    await asyncio.gather(*(client.done for client in made))
    latencies = np.concatenate([client.latencies for client in made])
    first = min(client.first for client in made)
    return Load(max(client.last for client in made) - first, latencies)


def run(
    host: str,
    port: int,
    questions: Sequence[bytes],
    *,
    clients: int,
    status: int = 200,
    warm: float = 1.0,
    seconds: float = 5.0,
) -> Load:
    """Run some clients for a while.

    Args:
        host: of the server.
        port: of the server.
        questions: whole HTTP/1.1 requests, which clients take in turns.
        clients: connections.
        status: that every answer has to have.
        warm: seconds at the start that do not count.
        seconds: that count.

    Raises:
        RuntimeError: an answer of another status.
    """
    return asyncio.run(_all(host, port, questions, clients, status, warm, seconds))


def post(path: str, body: bytes) -> bytes:
    """Request with a JSON body."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body

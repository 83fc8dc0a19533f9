"""Limits of connections: how long headers may be and take, and how many may wait with half of one.

Headers come before anything that the application could refuse. A parser would put an endless one
together piece by piece, and a connection that never ends its headers would be kept for ever.
"""

from __future__ import annotations

import asyncio
import json
import resource
from collections import OrderedDict
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.auto import AutoHTTPProtocol

__all__ = ["MOST_HEADERS", "LimitedProtocol", "most_waiting"]

MOST_HEADERS = 64 * 1024  # bytes of a request's first line and headers
HEADER_SECONDS = 10.0
MOST_WAITING = 1024

_PHRASES = {408: "Request Timeout", 431: "Request Header Fields Too Large"}
_Base: Any = AutoHTTPProtocol


def most_waiting() -> int:
    """Connections without a whole request that are kept: at most half of what may be open.

    Asks the system for as many files as that takes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MOST_WAITING
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MOST_WAITING if soft == resource.RLIM_INFINITY else min(MOST_WAITING, soft // 2)


class LimitedProtocol(_Base):  # httptools' or h11's, as is installed
    """HTTP on one connection, closed with 431 or 408 where its headers pass a limit.

    A connection waits until its headers are there, and again when it is answered. Of those that
    wait only so many are kept: beyond, the one that has waited longest is closed, so that others
    get in however many were opened to keep them out.
    """

    most = MOST_WAITING
    _of_servers: ClassVar[WeakKeyDictionary[Any, Any]] = WeakKeyDictionary()

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waiting: OrderedDict[LimitedProtocol, None] = self._of_servers.setdefault(
            self.server_state, OrderedDict()
        )
        self._timer: asyncio.TimerHandle | None = None
        self._in_headers = False  # as httptools tells; h11 has a limit of its own
        self._bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEADER_SECONDS, self._late)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._go_on()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data, and count what belongs to headers."""
        if self in self._waiting and self._timer is None:  # the next request's first bytes
            self._timer = self.loop.call_later(HEADER_SECONDS, self._late)
        for first in range(0, len(data), MOST_HEADERS):
            before, piece = self.cycle, data[first : first + MOST_HEADERS]
            was_in_headers = self._in_headers
            super().data_received(piece)
            if self.transport.is_closing():
                return
            if self.cycle is not before:
                self._go_on()
            if self._in_headers:
                self._bytes += len(piece) if was_in_headers else 0
                if self._bytes > MOST_HEADERS:
                    self._close(
                        431, f"headers: found more than {MOST_HEADERS:,} bytes, expected fewer"
                    )
                    return

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        self._in_headers, self._bytes = True, 0

    def on_headers_complete(self) -> None:
        """Begin with the body."""
        self._in_headers = False
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request; the time until it begins has a limit of its own."""
        super().on_response_complete()
        if not self.transport.is_closing() and self.cycle.response_complete:
            self._wait()

    def _wait(self) -> None:
        self._waiting[self] = None
        while len(self._waiting) > self.most:
            oldest, _ = self._waiting.popitem(last=False)
            oldest._go_on()
            oldest.transport.abort()

    def _go_on(self) -> None:
        self._waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._close(408, f"headers: incomplete after {HEADER_SECONDS:g} s, expected all of them")

    def _close(self, status: int, message: str) -> None:
        self._go_on()
        if self.transport.is_closing():
            return
        body = json.dumps({"message": message, "field": None}).encode()
        head = (
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

"""HTTP server: uvicorn, which says when it is ready and ends in order."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

import uvicorn

from ekpnet_fast.serve.connections import MOST_HEADERS, LimitedProtocol, most_waiting
from ekpnet_fast.serve.guard import App

CONNECTIONS = 1024  # with a request, at a time; more are answered with 503
GRACE = 10  # seconds that requests have to end after SIGTERM


class Server(uvicorn.Server):
    """Server on a socket that is bound already.

    Args:
        app: the application.
        ready: called when connections are taken.
    """

    def __init__(self, app: App, ready: Callable[[], None]) -> None:
        LimitedProtocol.most = most_waiting()
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                http=LimitedProtocol,
                h11_max_incomplete_event_size=MOST_HEADERS,
                limit_concurrency=CONNECTIONS + LimitedProtocol.most,
                timeout_graceful_shutdown=GRACE,
            )
        )
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to take connections."""
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

    def serve_on(self, listener: socket.socket) -> None:
        """Serve until SIGINT or SIGTERM, then answer the requests that have begun."""
        # uvicorn sets handlers of its own, and raises the signal once more for those it found:
        # these, because a server that is stopped has not failed.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(self, "should_exit", True))
        self.run(sockets=[listener])

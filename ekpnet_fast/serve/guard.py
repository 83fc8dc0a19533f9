"""Middleware that guards the application.

Every request passes it before and after: the host that it names, its size, the time that it may
take to arrive, the headers of the answer, and the count of requests.

Plain ASGI, because every request pays for it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ekpnet_fast.serve.statistics import Statistics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Of answers that are no page: nothing in them may be run or framed, should a browser show one.
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
CLOSED = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")

FAILED = "the server failed on this request; its log says why"

_HOST = re.compile(r"(?:\[(?P<address>[^\[\]]*)\]|(?P<name>[^:\[\]]*))(?::\d{0,5})?", re.ASCII)

log = logging.getLogger("ekpnet_fast.serve")


class _Refused(Exception):  # noqa: N818 - an answer, not a fault
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Guard:
    """Middleware around the application.

    Args:
        app: the application.
        statistics: of the requests.
        hosts: names that a Host header may have, beside addresses and localhost.
        max_body: bytes of a request's body.
        body_timeout: seconds in which it has to arrive.
    """

    def __init__(
        self,
        app: App,
        *,
        statistics: Statistics,
        hosts: frozenset[str],
        max_body: int,
        body_timeout: float,
    ) -> None:
        self.app = app
        self.statistics = statistics
        self.hosts = hosts | {"localhost"}
        self.max_body = max_body
        self.body_timeout = body_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0  # of an answer that has not begun

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), *HEADERS]
                if not any(name == CLOSED[0] for name, _ in headers):
                    headers.append(CLOSED)
                message = {**message, "headers": headers}
            await send(message)

        try:
            self._check_host(scope)
            await self.app(scope, replay(await self._body(scope, receive), receive), answer)
        except _Refused as refused:
            await _refuse(answer, refused.status, refused.message)
        except Exception:
            # The server stays up whatever happens, and says no more than that it happened.
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not status:
                await _refuse(answer, 500, FAILED)
        finally:
            self.statistics.add(scope["path"], status or 500, time.perf_counter() - started)

    def _check_host(self, scope: Scope) -> None:
        """Refuse names of others: a page elsewhere could point its own name at this machine.

        An address cannot be rebound, so every address is fine.
        """
        found = [value for name, value in scope["headers"] if name == b"host"]
        if len(found) > 1:
            raise _Refused(400, f"Host: found {len(found)} of them, expected one")
        host = b"".join(found).decode("latin-1").lower()
        parts = _HOST.fullmatch(host)
        name = "" if parts is None else parts["name"] or parts["address"] or ""
        if name in self.hosts or _is_address(name):
            return
        raise _Refused(
            421,
            f"Host: found {host[:60]!r}, expected this server's address, or a name given by"
            " --allow-host",
        )

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Read the whole body, before anything else does; it is small."""
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self.max_body:
                raise self._too_large(f"{int(value):,} bytes")
        deadline = time.monotonic() + self.body_timeout
        body, complete = b"", False
        while not complete:
            try:
                message = await _within(deadline - time.monotonic(), receive())
            except asyncio.TimeoutError:
                raise _Refused(
                    408, f"body: incomplete after {self.body_timeout:g} s, expected all of it"
                ) from None
            if message["type"] == "http.disconnect":
                raise _Refused(400, "body: the connection ended before it was complete")
            body += message.get("body", b"")
            complete = not message.get("more_body", False)
            if len(body) > self.max_body:
                raise self._too_large(f"more than {self.max_body:,} bytes")
        return body

    def _too_large(self, found: str) -> _Refused:
        return _Refused(413, f"body: found {found}, expected at most {self.max_body:,}")


async def _within(seconds: float, message: Awaitable[Message]) -> Message:
    """Message that comes in time; raises asyncio.TimeoutError."""
    if sys.version_info >= (3, 11):
        async with asyncio.timeout(seconds):  # without the task that `wait_for` may make
            return await message
    else:
        return await asyncio.wait_for(message, max(0.0, seconds))


def replay(body: bytes, receive: Receive) -> Receive:
    """Make a `receive` that gives a body which was read already, then the messages after it."""
    message: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def replayed() -> Message:
        nonlocal message
        if message is None:
            return await receive()
        first, message = message, None
        return first

    return replayed


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps({"message": message, "field": None}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # the rest of the body may still be under way
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

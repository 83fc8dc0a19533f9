"""Middleware that answers well-formed questions itself.

Most requests are these. FastAPI would find their route among all, make objects of their headers,
resolve parameters and check answers, which takes several times as long as reading the question and
sending the answer. Whatever is not plainly well-formed is FastAPI's, which says what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from pydantic import BaseModel

from ekpnet_fast.serve.guard import App, Receive, Scope, Send, replay
from ekpnet_fast.serve.refusals import REFUSED, refusal_of

Routes: TypeAlias = Mapping[str, tuple[type[BaseModel], Callable[[Any], Awaitable[bytes]]]]
"""By path, the schema of a question that is posted there and what gives its answer in JSON."""

JSON = (b"content-type", b"application/json")


class Direct:
    """Middleware around the application, behind the guard, who has read the whole body.

    Args:
        app: the application.
        routes: that are answered here.
    """

    def __init__(self, app: App, *, routes: Routes) -> None:
        self.app, self.routes = app, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if (
            scope["type"] != "http"
            or scope["method"] != "POST"
            or scope["path"] not in self.routes
            or JSON not in scope["headers"]
        ):
            await self.app(scope, receive, send)
            return
        schema, answer = self.routes[scope["path"]]
        body: bytes = (await receive())["body"]
        try:
            question = schema.model_validate(json.loads(body))
        except (ValueError, RecursionError):
            await self.app(scope, replay(body, receive), send)
            return
        try:
            content = await answer(question)
        except REFUSED as error:
            await refusal_of(error)(scope, receive, send)
            return
        headers = [(b"content-length", str(len(content)).encode()), JSON]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

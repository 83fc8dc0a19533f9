"""Refusals: what is answered in place of what was asked for, each a `Problem`."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ekpnet_fast.errors import EkpnetError, quote
from ekpnet_fast.serve.guard import FAILED
from ekpnet_fast.serve.pool import Busy, Overdue
from ekpnet_fast.serve.schemas import Problem

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "The body is no JSON.",
        413: "The body is too large.",
        422: "An unknown id, a value of a wrong type or out of range.",
        503: "Too many requests at a time; try again after `Retry-After` seconds.",
        504: "It took too long.",
    }.items()
}

_JSON = re.compile(r"application/([\w.-]+\+)?json\b", re.IGNORECASE)

REFUSED = (EkpnetError, Busy, Overdue)
"""What the computation of an answer raises for `refusal_of`."""


def add_refusals(app: FastAPI) -> None:
    """Add handlers that make every refusal a `Problem`."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        kind = request.headers.get("content-type", "")
        if request.method == "POST" and not _JSON.match(kind):
            found = quote(kind) if kind else "none"
            return _problem(
                422, f"content-type: found {found}, expected application/json", "content-type"
            )
        if first["type"] == "json_invalid":
            return _problem(400, f"body: found no JSON ({first['ctx']['error']})")
        field = ".".join(str(part) for part in first["loc"][1:]) or "body"
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] != "missing" and not message.startswith("found "):
            message = f"found {quote(str(first['input']))}, {message[0].lower()}{message[1:]}"
        return _problem(422, f"{field}: {message}", field)

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path[:60]}: {error.detail}"
        if error.status_code == 400:  # FastAPI's, of a body that Python's JSON cannot take
            message = "body: found no JSON (not UTF-8, nested too deep, or too long a number)"
        return _problem(error.status_code, message, headers=error.headers)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        return _problem(500, FAILED)  # goes on to the guard, who logs it

    async def refused(_: Request, error: Exception) -> JSONResponse:
        return refusal_of(error)

    for kind in REFUSED:
        app.add_exception_handler(kind, refused)


def refusal_of(error: Exception) -> JSONResponse:
    """Refusal for what the computation of an answer raised, one of `REFUSED`."""
    if isinstance(error, Busy):
        message = "every thread computes and the queue is full; try again in a second"
        return _problem(503, message, headers={"retry-after": "1"})
    if isinstance(error, Overdue):
        return _problem(504, "the answer took too long")
    return _problem(422, str(error))


def _problem(
    status: int, message: str, field: str | None = None, headers: Any = None
) -> JSONResponse:
    content = Problem(message=message, field=field).model_dump()
    return JSONResponse(content, status, headers)

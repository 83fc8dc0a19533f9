"""Endpoints that change what is served: triples, items and clicks, and a refresh.

Changes are made one after the other on a thread of their own, while answers go on with the state as
it was. The threads that answer all read the one state of the engine's recommender, which a change
replaces at once; an answer that has begun ends with the state that it began with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fastapi import FastAPI, HTTPException, Response

from ekpnet_fast.serve import schemas
from ekpnet_fast.serve.answers import written
from ekpnet_fast.serve.pool import Pool
from ekpnet_fast.serve.refusals import REFUSALS

__all__ = ["CHANGES", "Changing", "add_changes", "refuse_changes"]

# A change that has begun is made whatever its client waits for, so it has no shorter limit.
SECONDS = 86_400.0
CHANGES = ("add_triples", "remove_triples", "add_items", "add_clicks", "refresh")
NOT_ALLOWED = "this server takes no changes; it does if it is started with --allow-changes"


class Changing(Protocol):
    """Engine that changes: methods as those of `Recommender` and of its graph.

    Called from one thread; raises EkpnetError for bad requests. What they return has the fields of
    a `schemas.Change`.
    """

    def add_triples(self, request: schemas.AddTriplesRequest) -> Mapping[str, Any]:
        """Add triples to the graph."""

    def remove_triples(self, request: schemas.RemoveTriplesRequest) -> Mapping[str, Any]:
        """Remove triples from the graph."""

    def add_items(self, request: schemas.AddItemsRequest) -> Mapping[str, Any]:
        """Add items to the catalogue."""

    def add_clicks(self, request: schemas.AddClicksRequest) -> Mapping[str, Any]:
        """Add clicks of known users and of new ones."""

    def refresh(self) -> Mapping[str, Any]:
        """Fit anew what is fitted to all clicks and triples."""


def refuse_changes(app: FastAPI) -> None:
    """Answer the endpoints of changes with 403, whatever their body."""

    async def refused() -> None:
        raise HTTPException(403, NOT_ALLOWED)

    for name in CHANGES:
        app.post(f"/{name}", name=name, include_in_schema=False)(refused)


def add_changes(app: FastAPI, engine: Changing, queue: int) -> Pool:
    """Add the endpoints of changes, and return the pool that makes them, to be closed.

    Args:
        app: the application.
        engine: that changes.
        queue: changes that may wait.
    """
    pool = Pool(1, queue, SECONDS)

    async def made(change: Callable[[], Mapping[str, Any]]) -> Response:
        return Response(
            await pool.run(lambda _: [written(change())], None), media_type="application/json"
        )

    @app.post("/add_triples", response_model=schemas.Change, responses=REFUSALS)
    async def add_triples(request: schemas.AddTriplesRequest) -> Response:
        """Add triples; heads and tails that are not known are new entities."""
        return await made(lambda: engine.add_triples(request))

    @app.post("/remove_triples", response_model=schemas.Change, responses=REFUSALS)
    async def remove_triples(request: schemas.RemoveTriplesRequest) -> Response:
        """Remove triples, all of them or, where one is not in the graph, none."""
        return await made(lambda: engine.remove_triples(request))

    @app.post("/add_items", response_model=schemas.Change, responses=REFUSALS)
    async def add_items(request: schemas.AddItemsRequest) -> Response:
        """Add items to the catalogue, each with its triples."""
        return await made(lambda: engine.add_items(request))

    @app.post("/add_clicks", response_model=schemas.Change, responses=REFUSALS)
    async def add_clicks(request: schemas.AddClicksRequest) -> Response:
        """Add clicks of known users, and of new ones."""
        return await made(lambda: engine.add_clicks(request))

    @app.post("/refresh", response_model=schemas.Change, responses=REFUSALS)
    async def refresh(_: schemas.RefreshRequest) -> Response:
        """Fit anew what is fitted to all clicks and triples, without deep training."""
        return await made(engine.refresh)

    return pool

"""Answers in JSON: an engine's, computed on the threads of a pool."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel
from pydantic_core import to_json

from ekpnet_fast.serve import schemas
from ekpnet_fast.serve.pool import Pool

Request = TypeVar("Request")


class Engine(Protocol):
    """Engine of answers.

    Called from several threads at a time; raises EkpnetError for bad requests. Answers have the
    fields of their schema. Those that are asked for most often are no instances of it, because
    checking what was just made takes as long as making it.
    """

    def facts(self) -> schemas.Facts:
        """Model, data set and sizes, as they are now; on the event loop, so it must be quick."""

    def together(self, request: schemas.RecommendRequest) -> tuple[Hashable, int]:
        """Kind of requests that are answered at once, and how many at most; quick too."""

    def recommend_together(
        self, requests: Sequence[schemas.RecommendRequest]
    ) -> Sequence[Mapping[str, Any] | Exception]:
        """List the best items for each: a `Recommendations`, or why there is none."""

    def score(self, request: schemas.ScoreRequest) -> Mapping[str, Any]:
        """Score some items: a `Scores`."""

    def explain(self, request: schemas.ExplainRequest) -> schemas.Explanation:
        """Explain an item's score."""

    def users(self, query: str, skip: int, limit: int) -> schemas.Matches:
        """Find users with a history, by id or name."""

    def items(self, query: str, skip: int, limit: int) -> schemas.Matches:
        """Find items, by id or name."""


class Answers:
    """Answers to requests, in JSON; raises what the engine and the pool raise.

    Args:
        engine: of the answers.
        pool: that computes them.
    """

    def __init__(self, engine: Engine, pool: Pool) -> None:
        self._engine, self._pool = engine, pool

    async def recommend(self, request: schemas.RecommendRequest) -> bytes:
        """List the best items."""
        kind, most = self._engine.together(request)
        return await self._pool.run(self._lists, request, kind, most)

    async def score(self, request: schemas.ScoreRequest) -> bytes:
        """Score some items."""
        return await self._alone(lambda: self._engine.score(request))

    async def explain(self, request: schemas.ExplainRequest) -> bytes:
        """Explain an item's score."""
        return await self._alone(lambda: self._engine.explain(request))

    async def users(self, query: str, skip: int, limit: int) -> bytes:
        """Find users."""
        return await self._alone(lambda: self._engine.users(query, skip, limit))

    async def items(self, query: str, skip: int, limit: int) -> bytes:
        """Find items."""
        return await self._alone(lambda: self._engine.items(query, skip, limit))

    def _lists(self, requests: Sequence[schemas.RecommendRequest]) -> list[bytes | Exception]:
        return [
            found if isinstance(found, Exception) else written(found)
            for found in self._engine.recommend_together(requests)
        ]

    async def _alone(self, work: Callable[[], BaseModel | Mapping[str, Any]]) -> bytes:
        return await self._pool.run(lambda _: [written(work())], None)


def written(answer: BaseModel | Mapping[str, Any]) -> bytes:
    """Answer in JSON."""
    # Written on the thread that computed it, because the event loop serves everybody.
    return to_json(answer, inf_nan_mode="null")

"""Application of the server: endpoints over an engine, with their limits, types and errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response

from ekpnet_fast.errors import ConfigError, quote
from ekpnet_fast.native.build import __version__
from ekpnet_fast.serve import page, schemas
from ekpnet_fast.serve.answers import Answers, Engine
from ekpnet_fast.serve.changes import CHANGES, Changing, add_changes, refuse_changes
from ekpnet_fast.serve.direct import Direct, Routes
from ekpnet_fast.serve.guard import Guard
from ekpnet_fast.serve.pool import Pool
from ekpnet_fast.serve.refusals import REFUSALS, add_refusals
from ekpnet_fast.serve.statistics import QUANTILES, Statistics

DESCRIPTION = """\
Recommendations over a knowledge graph, and the reasons for them. Answers have the fields of the
Python API's dataclasses. A request that is refused is answered with a status of 4xx and a
`Problem`; 503 with `Retry-After` means that every thread computes and the queue is full."""

Text = Annotated[str, Query(max_length=schemas.LONGEST_ID, description="Part of a name, or an id.")]
Skip = Annotated[int, Query(ge=0, le=10**9, description="Matches to leave out first.")]
Limit = Annotated[int, Query(ge=1, le=schemas.MOST_RECOMMENDED)]

# Endpoints that are counted apart.
ENDPOINTS = frozenset(
    f"/{name}"
    for name in (
        *("", "openapi.json", "health", "metrics"),
        *("recommend", "score", "explain", "users", "items"),
        *CHANGES,
    )
)


@dataclass(frozen=True)
class Limits:
    """Bounds that keep the server up.

    Attributes:
        threads: that compute at a time.
        queue: requests that may wait for one of them, and changes for the one before.
        timeout: seconds that a request may wait and compute.
        max_body: bytes of a request's body.
        body_timeout: seconds in which a body has to arrive.
    """

    threads: int
    queue: int = 64
    timeout: float = 30.0
    max_body: int = 256 * 1024
    body_timeout: float = 10.0


def create_app(
    engine: Engine,
    limits: Limits,
    hosts: frozenset[str] = frozenset(),
    changing: Changing | None = None,
) -> Guard:
    """Make the application, an ASGI one.

    Args:
        engine: of the answers.
        limits: its bounds.
        hosts: names that requests may call this server by, beside addresses and localhost.
        changing: what clients may change; without it they may not.
    """
    pool = Pool(limits.threads, limits.queue, limits.timeout)
    pools = [pool]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for each in pools:
            each.close()

    app = FastAPI(
        title="ekpnet_fast",
        version=__version__,
        description=DESCRIPTION,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    answers, statistics = Answers(engine, pool), Statistics(ENDPOINTS)
    add_refusals(app)
    _add_answers(app, answers)
    _add_state(app, engine, pool, statistics, changing is not None)
    if changing is None:
        refuse_changes(app)
    else:
        pools.append(add_changes(app, changing, limits.queue))
    routes: Routes = {
        "/recommend": (schemas.RecommendRequest, answers.recommend),
        "/score": (schemas.ScoreRequest, answers.score),
        "/explain": (schemas.ExplainRequest, answers.explain),
    }
    return Guard(
        Direct(app, routes=routes),
        statistics=statistics,
        hosts=hosts,
        max_body=limits.max_body,
        body_timeout=limits.body_timeout,
    )


def _add_answers(app: FastAPI, answers: Answers) -> None:
    def written(body: bytes) -> Response:
        return Response(body, media_type="application/json")

    @app.post("/recommend", response_model=schemas.Recommendations, responses=REFUSALS)
    async def recommend(request: schemas.RecommendRequest) -> Response:
        """Recommend the best items to a user, or to a new one by history."""
        return written(await answers.recommend(request))

    @app.post("/score", response_model=schemas.Scores, responses=REFUSALS)
    async def score(request: schemas.ScoreRequest) -> Response:
        """Predict the probabilities that a user, or a new one with a history, clicks some items."""
        return written(await answers.score(request))

    @app.post("/explain", response_model=schemas.Explanation, responses=REFUSALS)
    async def explain(request: schemas.ExplainRequest) -> Response:
        """Explain an item's score: the ripple set with its attention, and the reasons."""
        return written(await answers.explain(request))

    search: dict[str, Any] = {
        "response_model": schemas.Matches,
        "responses": REFUSALS,
        "dependencies": [Depends(_expect_known)],
    }

    @app.get("/users", **search)
    async def users(query: Text = "", skip: Skip = 0, limit: Limit = 20) -> Response:
        """Users with a history, the most active first; with a query those that it fits."""
        return written(await answers.users(query, skip, limit))

    @app.get("/items", **search)
    async def items(query: Text = "", skip: Skip = 0, limit: Limit = 20) -> Response:
        """Items, the most clicked first; with a query those that it fits."""
        return written(await answers.items(query, skip, limit))


async def _expect_known(request: Request) -> None:
    """Refuse parameters of a search that are none: all would be found, whatever they say."""
    known = ("query", "skip", "limit")
    other = next((name for name in request.query_params if name not in known), None)
    if other is not None:
        raise ConfigError(f"{quote(other)}: found it in the query, expected {', '.join(known)}")


def _add_state(
    app: FastAPI, engine: Engine, pool: Pool, statistics: Statistics, changes: bool
) -> None:
    document = page.build()
    headers = {"content-security-policy": document.policy, "cache-control": "no-cache"}

    @app.get("/health")
    async def health() -> schemas.Health:
        """Status of the server, and the model and data that it serves."""
        return schemas.Health(
            status="ok",
            version=__version__,
            threads=pool.threads,
            pending=pool.pending,
            changes=changes,
            uptime_seconds=statistics.uptime(),
            **dict(engine.facts()),
        )

    @app.get("/metrics")
    async def metrics() -> schemas.Metrics:
        """Requests since the start: counts by endpoint and status, and latencies."""
        return schemas.Metrics(
            uptime_seconds=statistics.uptime(),
            endpoints={
                path: schemas.EndpointMetrics(
                    requests=endpoint.latencies.total,
                    statuses={str(status): n for status, n in sorted(endpoint.statuses.items())},
                    latency_seconds=schemas.Latency(
                        **{f"p{q * 100:.0f}": endpoint.latencies.quantile(q) for q in QUANTILES},
                        max=endpoint.latencies.slowest,
                    ),
                )
                for path, endpoint in sorted(statistics.endpoints.items())
            },
        )

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(document.content, media_type="text/html; charset=utf-8", headers=headers)

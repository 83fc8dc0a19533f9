"""Schemas of requests and answers over HTTP.

Answers have the fields of the Python API's dataclasses (`ekpnet_fast.recommender`), so that both
are learned once; fields beyond those are named as such.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    model_validator,
)

from ekpnet_fast.recommender.parts import PartKind

__all__ = [
    "ExplainRequest",
    "Explanation",
    "Fact",
    "Facts",
    "Health",
    "Hop",
    "Match",
    "Matches",
    "Metrics",
    "Node",
    "Part",
    "Problem",
    "Reason",
    "RecommendRequest",
    "Recommendation",
    "Recommendations",
    "ScoreRequest",
    "Scores",
    "Step",
    "Triple",
]

LONGEST_ID = 200  # characters
LONGEST_HISTORY = 2000  # items
MOST_RECOMMENDED = 1000
MOST_SCORED = 5000
MOST_FILTERED = 20_000
MOST_REASONS = 500
MOST_CHANGED = 5000  # triples, new items, or users with new clicks, of a request
LONGEST_NAME = 1000  # characters


def _id(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("expected an id: a text or a whole number")
    if not 1 <= len(value if isinstance(value, str) else "-") <= LONGEST_ID:
        raise ValueError(f"expected an id of 1 to {LONGEST_ID} characters")
    return value


Id = Annotated[
    int | str,
    PlainValidator(_id, json_schema_input_type=int | str),
    Field(description="An id as in the data: a text, or a number where the data have numbers."),
]


class RequestBody(BaseModel):
    """Base of requests: unknown fields and values of other types are refused, not guessed at."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Subject(RequestBody):
    """Base of requests for a user or a history: exactly one of the two."""

    user: Id | None = Field(None, description="A user that training saw.")
    history: Annotated[list[Id], Field(min_length=1, max_length=LONGEST_HISTORY)] | None = Field(
        None, description="Items that a new user clicked, in any order."
    )

    @model_validator(mode="after")
    def _one(self) -> Subject:
        if (self.user is None) == (self.history is None):
            found = "neither" if self.user is None else "both"
            raise ValueError(f"found {found} of user and history, expected exactly one")
        return self


class RecommendRequest(Subject):
    """Request for the best items for a user or a history."""

    k: Annotated[StrictInt, Field(ge=1, le=MOST_RECOMMENDED)] = 10
    exclude_seen: StrictBool = Field(True, description="Leave out what was touched before.")
    filter_items: Annotated[list[Id], Field(max_length=MOST_FILTERED)] | None = Field(
        None, description="Recommend among these items alone."
    )


class ScoreRequest(Subject):
    """Request for the scores of some items for a user or a history."""

    items: Annotated[list[Id], Field(min_length=1, max_length=MOST_SCORED)]


class ExplainRequest(Subject):
    """Request for the reasons of an item's score for a user or a history."""

    item: Id
    top: Annotated[StrictInt, Field(ge=1, le=MOST_REASONS)] = Field(
        50, description="Reasons, at most."
    )


class Name(RequestBody):
    """Name of something new, for people to read."""

    id: Id
    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


Names = Annotated[
    list[Name], Field(max_length=MOST_CHANGED, description="Of what is new; others keep theirs.")
]
Triples = Annotated[
    list[tuple[Id, Id, Id]],
    Field(
        min_length=1,
        max_length=MOST_CHANGED,
        description="Of the graph, each [head, relation, tail].",
    ),
]


class AddTriplesRequest(RequestBody):
    """Request to add triples; heads and tails that are not known are new entities."""

    triples: Triples
    names: Names = []


class RemoveTriplesRequest(RequestBody):
    """Request to remove triples, which have to be there."""

    triples: Triples


class NewItem(RequestBody):
    """Item to add."""

    id: Id
    triples: Annotated[list[tuple[Id, Id]], Field(max_length=MOST_CHANGED)] = Field(
        [], description="Its triples, each [relation, tail]."
    )


class AddItemsRequest(RequestBody):
    """Request to add items to the catalogue."""

    items: Annotated[list[NewItem], Field(min_length=1, max_length=MOST_CHANGED)]
    names: Names = []


class Clicks(RequestBody):
    """Clicks of a user, known or new."""

    user: Id
    items: Annotated[list[Id], Field(min_length=1, max_length=LONGEST_HISTORY)]


class AddClicksRequest(RequestBody):
    """Request to add clicks."""

    clicks: Annotated[list[Clicks], Field(min_length=1, max_length=MOST_CHANGED)]
    names: Names = []


class RefreshRequest(RequestBody):
    """Request to refresh, {}: a body of JSON, which no page elsewhere may send."""


class Answer(BaseModel):
    """Base of answers; takes the Python API's dataclasses."""

    model_config = ConfigDict(from_attributes=True, frozen=True)


class Problem(Answer):
    """Reason why a request was refused."""

    message: str
    field: str | None = Field(description="The field that was refused, where it was one.")


class Node(Answer):
    """Node of a path: an entity of the graph."""

    id: int | str
    name: str | None
    kind: Literal["item", "entity"]


class Recommendation(Answer):
    """Item of a recommendation list."""

    item: int | str
    name: str | None
    score: float = Field(description="Predicted probability of a click.")


class Recommendations(Answer):
    """List of the best items, best first. Beyond the Python API: `clicked`."""

    user: int | str | None
    history: list[int | str] | None
    items: list[Recommendation]
    notes: list[str]
    clicked: list[Node] = Field(description="The items that the recommendations follow from.")


class Scores(Answer):
    """Scores, predicted probabilities of a click, in the order of the request's items."""

    user: int | str | None
    history: list[int | str] | None
    items: list[Recommendation]
    notes: list[str]


class Step(Answer):
    """Step of a path: a triple as it is walked, from `start` to `end`."""

    start: Node
    relation: str
    end: Node
    backwards: bool = Field(description="Whether the graph has it as (end, relation, start).")
    attention: float | None = Field(description="Its share of its hop's attention (eq. 10).")


class Reason(Answer):
    """Reason: a path from the history, and the fall of the item's logit without its last triple."""

    steps: list[Step]
    match: Literal["is", "linked", "alike"]
    link: Step | None
    effect: float


class Fact(Answer):
    """Fact about the item that a part of its logit rests on."""

    relation: str
    end: Node
    backwards: bool = Field(description="Whether the graph has it as (end, relation, item).")
    effect: float


class Part(Answer):
    """Part of the item's logit: what a kind of signal adds, by an item of the history."""

    kind: PartKind
    because: Node | None = Field(description="The item of the history, where it follows from one.")
    text: str = Field(description="The part in words.")
    effect: float = Field(description="How much it adds to the logit; below 0 it speaks against.")
    signals: dict[str, float] = Field(description="The same by signal.")
    shared: list[Fact] = Field(description="Facts that it rests on, largest first.")


class Triple(Step):
    """Triple of the ripple set."""

    effect: float = Field(description="By how much the item's logit falls without it.")


class Hop(Answer):
    """Hop of the ripple set: its triples, by falling attention."""

    hop: int = Field(description="From 1.")
    triples: list[Triple]


class Explanation(Answer):
    """Explanation of an item's score. Beyond the Python API: `hops`."""

    user: int | str | None
    history: list[int | str] | None
    item: Node
    score: float
    logit: float
    reasons: list[Reason] = Field(description="Paths that speak for the item, by falling effect.")
    paths: int
    notes: list[str]
    hops: list[Hop] = Field(description="The whole ripple set, for and against the item.")
    base: float | None = Field(
        description="The logit that reasons come on top of: without paths, or of any item."
    )
    covered: float | None = Field(
        description="How much of the logit above the base the parts, or else the reasons, make up."
    )
    rest: float | None = Field(description="What is left: logit - base - covered.")
    parts: list[Part] = Field(
        description="The largest parts of the logit, of a model with a wide part."
    )
    all_parts: int = Field(description="How many parts there are.")
    signals: dict[str, float] = Field(
        description="What each signal adds to the base; they add up to the logit."
    )


class Change(Answer):
    """What a change did, and what it left."""

    users: int = Field(description="That were added, as were the clicks, items and entities.")
    clicks: int
    items: int
    entities: int
    triples: int = Field(description="That were added or removed.")
    as_fitted: list[str] = Field(description="What stays as it was fitted until a refresh.")


class Match(Answer):
    """Match of a search: a user or an item."""

    id: int | str
    name: str | None
    clicks: int = Field(description="Of this user, or of this item.")


class Matches(Answer):
    """Matches of a search, those with the most clicks first."""

    matches: list[Match]
    total: int = Field(description="How many there are; `matches` may hold fewer.")


class Facts(Answer):
    """Facts of the server: model, data set and sizes."""

    model: str
    dataset: str
    data_hash: str
    users: int = Field(description="With a history.")
    items: int
    entities: int
    relations: int
    triples: int
    histories: bool = Field(description="Whether the model can recommend for a history.")


class Health(Facts):
    """Health: status of the server, with the facts."""

    status: Literal["ok"]
    version: str
    threads: int
    pending: int = Field(description="Requests that wait or compute now.")
    changes: bool = Field(description="Whether clients may change what is served.")
    uptime_seconds: float


class Latency(Answer):
    """Latency: seconds from the first byte that the server reads to the last that it writes."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float


class EndpointMetrics(Answer):
    """Metrics of one endpoint: requests since the start."""

    requests: int
    statuses: dict[str, int] = Field(description="How many were answered with each status.")
    latency_seconds: Latency = Field(
        description="Quantiles of a histogram whose buckets grow by 9 %."
    )


class Metrics(Answer):
    """Metrics by endpoint: requests since the start; unknown paths are counted as "other"."""

    uptime_seconds: float
    endpoints: dict[str, EndpointMetrics]

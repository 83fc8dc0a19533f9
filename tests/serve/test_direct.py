"""Questions that are answered without FastAPI: as it would, and as the schemas say."""

from __future__ import annotations

import json

import pytest

from ekpnet_fast.errors import EkpnetError
from ekpnet_fast.serve import schemas
from ekpnet_fast.serve.direct import Direct
from ekpnet_fast.serve.engine import MOST_TOGETHER, RecommenderEngine
from support.cinema import fitted

HISTORY = {"history": ["alien", "dune"]}
QUESTIONS = [
    ("/recommend", {"user": "ann"}, 200),
    ("/recommend", {**HISTORY, "k": 3, "exclude_seen": False}, 200),
    ("/recommend", {"history": ["fargo"]}, 200),  # with a note, and without a name
    ("/recommend", {"history": ["dune", "dune"], "filter_items": ["alien", "eden"]}, 200),
    ("/score", {"user": "ann", "items": ["eden", "alien", "eden"]}, 200),
    ("/explain", {**HISTORY, "item": "eden", "top": 2}, 200),
    ("/recommend", {"user": "nobody"}, 422),
    ("/recommend", {"history": ["duke"]}, 422),
    ("/recommend", {"user": "ann", "k": 0}, 422),
    ("/recommend", {}, 422),
    ("/recommend", None, 422),
    ("/score", {"user": "ann"}, 422),
    ("/explain", {"user": "ann", "item": 3}, 422),
]


@pytest.mark.parametrize(("path", "question", "status"), QUESTIONS)
def test_the_same_as_by_fastapi(client, path, question, status):
    body = json.dumps(question)
    plain = {"content-type": "application/json"}
    direct = client.post(path, content=body, headers=plain)
    # A charset makes it a question that is not plain.
    other = client.post(
        path, content=body, headers={"content-type": "application/json; charset=utf-8"}
    )
    assert (direct.status_code, other.status_code) == (status, status)
    assert direct.content == other.content
    assert sorted(direct.headers.items()) == sorted(other.headers.items())


def test_well_formed_questions_do_not_reach_fastapi(client, monkeypatch):
    asked, direct = [], client.app.app
    assert isinstance(direct, Direct)
    fastapi = direct.app

    async def counted(scope, receive, send):
        asked.append(scope["path"])
        await fastapi(scope, receive, send)

    monkeypatch.setattr(direct, "app", counted)
    for path, question, _ in QUESTIONS:
        client.post(path, json=question)
    assert len(asked) == 4  # those of a wrong form; an unknown id is answered directly
    client.get("/health")
    client.post("/nothing", json={})
    assert asked[4:] == ["/health", "/nothing"]


@pytest.mark.parametrize(("path", "question", "status"), [q for q in QUESTIONS if q[2] == 200])
def test_answers_have_the_form_of_their_schema(client, path, question, status):
    schema = {
        "/recommend": schemas.Recommendations,
        "/score": schemas.Scores,
        "/explain": schemas.Explanation,
    }[path]
    answer = client.post(path, json=question)
    found = schema.model_validate_json(answer.content, strict=True)
    assert answer.content == found.model_dump_json().encode()
    assert list(answer.json()) == list(schema.model_fields)


@pytest.mark.parametrize("key", ["user", "history"])
def test_lists_together_are_lists_alone(recommender, engine, key):
    values = recommender.user_ids()[:7]
    if key == "history":
        values = [recommender.history(user) for user in values]
    requests = [schemas.RecommendRequest(**{key: value, "k": 4}) for value in values]
    alone = [engine.recommend(request) for request in requests]
    together = engine.recommend_together(requests)
    found = [schemas.Recommendations.model_validate(lists) for lists in together]
    assert found == alone  # to the last bit of the scores
    assert len({answer.model_dump_json() for answer in alone}) > 2


def test_one_unknown_id_refuses_one_list(engine):
    histories = [["alien"], ["alein"], ["dune"]]
    requests = [schemas.RecommendRequest(history=history) for history in histories]
    first, second, third = engine.recommend_together(requests)
    assert (first["history"], third["history"]) == (["alien"], ["dune"])
    assert isinstance(second, EkpnetError)
    assert "history: item: found 'alein', expected one of 6 ids such as 'alien'" in str(second)
    with pytest.raises(EkpnetError, match="found 'alein'"):
        engine.recommend(requests[1])


def test_kinds_of_requests_that_are_answered_together(engine):
    def kind(**fields):
        return engine.together(schemas.RecommendRequest(**fields))

    assert kind(user="ann") == kind(user="bob") != kind(history=["dune"])
    assert kind(history=["dune"]) == kind(history=["eden"]) != kind(history=["dune"], k=3)
    assert kind(user="ann") != kind(user="ann", exclude_seen=False)
    assert kind(user="ann", filter_items=["dune"]) == (None, 1)
    assert kind(user="ann")[1] == MOST_TOGETHER


def test_fewer_lists_together_of_a_large_catalogue(monkeypatch):
    from ekpnet_fast.evaluation import scoring

    engine = RecommenderEngine(fitted())
    monkeypatch.setitem(scoring.SCORED_PAIRS, "cpu", 13)  # two of six items
    assert engine.together(schemas.RecommendRequest(user="ann"))[1] == 2

"""Changes over HTTP: what the Python API does, one after the other, and only where allowed."""

from __future__ import annotations

import json
import threading

import httpx
import pytest
from fastapi.testclient import TestClient

from benchmarks.programs.web_server import Served
from ekpnet_fast.recommender import Recommender
from ekpnet_fast.serve.app import ENDPOINTS, Limits, create_app
from ekpnet_fast.serve.changes import CHANGES
from ekpnet_fast.serve.engine import RecommenderEngine
from ekpnet_fast.serve.schemas import Change
from support.cinema import fitted
from support.programs import PATIENCE

GLADIATOR = {"id": "gladiator", "triples": [["directed by", "m/ridley"], ["genre", "m/epic"]]}
TITLES = [{"id": "gladiator", "name": "Gladiator"}, {"id": "m/epic", "name": "Epic"}]
BODIES = {
    "add_triples": {"triples": [["m/eden", "directed by", "m/ridley"]]},
    "remove_triples": {"triples": [["m/dune", "genre", "m/scifi"]]},
    "add_items": {"items": [GLADIATOR], "names": TITLES},
    "add_clicks": {"clicks": [{"user": "ann", "items": ["fargo"]}]},
    "refresh": {},
}


@pytest.fixture(scope="module")
def trained() -> Recommender:
    return fitted("linear")


@pytest.fixture
def recommender(trained) -> Recommender:
    return trained.snapshot()


@pytest.fixture
def engine(recommender) -> RecommenderEngine:
    return RecommenderEngine(recommender)


@pytest.fixture
def changing(engine):
    """Client of a server that takes changes."""
    app = create_app(engine, Limits(threads=2), changing=engine)
    with TestClient(app, "http://127.0.0.1") as client:
        yield client


def changed(client, name, body):
    answer = client.post(f"/{name}", json=body)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == list(Change.model_fields)
    return answer.json()


def lists(recommender):
    return recommender.recommend_batch(k=9, exclude_seen=False)


def test_each_change_is_that_of_the_python_api(changing, recommender, trained):
    other = trained.snapshot()
    expected = {
        "add_triples": lambda: other.graph.add_triples([("m/eden", "directed by", "m/ridley")]),
        "remove_triples": lambda: other.graph.remove_triples([("m/dune", "genre", "m/scifi")]),
        "add_items": lambda: other.graph.add_items(
            {"gladiator": [("directed by", "m/ridley"), ("genre", "m/epic")]},
            names={"gladiator": "Gladiator", "m/epic": "Epic"},
        ),
        "add_clicks": lambda: other.add_clicks({"ann": ["fargo"]}),
        "refresh": other.refresh,
    }
    assert list(expected) == list(CHANGES)
    for name, change in expected.items():
        found = changed(changing, name, BODIES[name])
        assert found == json.loads(json.dumps(change().to_dict()))
        assert lists(recommender) == lists(other)
        (best,) = changing.post("/recommend", json={"user": "ann", "k": 1}).json()["items"]
        assert best == other.recommend("ann", k=1)[0].to_dict()
    assert lists(recommender) != lists(trained)
    assert changing.get("/metrics").json()["endpoints"]["/refresh"]["requests"] == 1


def test_new_users_and_names(changing, recommender):
    body = {
        "clicks": [{"user": 7, "items": ["dune"]}, {"user": "7", "items": ["alien", "alien"]}],
        "names": [{"id": 7, "name": "Zoe"}],
    }
    found = changed(changing, "add_clicks", body)
    assert (found["users"], found["clicks"]) == (1, 2) and "co-clicks" in found["as_fitted"]
    assert recommender.history("7") == ["alien", "dune"]
    matches = changing.get("/users", params={"query": "zoe"}).json()["matches"]
    assert matches == [{"id": "7", "name": "Zoe", "clicks": 2}]
    assert changing.post("/recommend", json={"user": 7}).status_code == 200


@pytest.mark.parametrize("name", CHANGES)
def test_a_server_takes_no_changes_unless_it_is_told_to(serving, engine, recommender, name):
    client, before = serving(engine), recommender.state
    for body in (BODIES[name], {"nonsense": 1}):
        answer = client.post(f"/{name}", json=body)
        assert answer.status_code == 403
        assert "takes no changes; it does if it is started with --allow-changes" in answer.text
    assert f"/{name}" not in client.get("/openapi.json").json()["paths"]
    assert client.get("/health").json()["changes"] is False
    assert recommender.state is before


def test_a_server_that_takes_changes_says_so(changing):
    assert changing.get("/health").json()["changes"] is True
    paths = changing.get("/openapi.json").json()["paths"]
    assert {f"/{name}" for name in CHANGES} <= paths.keys() <= ENDPOINTS


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("add_triples", {"triples": [["m/eden", "likes", "m/usa"]]}, "relation: found 'likes'"),
        ("add_triples", {"triples": [["m/eden", "genre"]]}, "triples.0.2: Field required"),
        ("add_triples", {"triples": []}, "triples: found '[]', list should have at least 1 item"),
        (
            "remove_triples",
            {"triples": [["m/dune", "genre", "m/scifi"], ["m/dune", "genre", "m/usa"]]},
            "expected one that is in the graph",
        ),
        ("add_items", {"items": [{"id": "alien"}]}, "expected ids that are no items yet"),
        ("add_items", {"items": [{"id": "heat"}]}, "found no triple of 'heat'"),
        ("add_items", {"items": [GLADIATOR, GLADIATOR]}, "found 'gladiator' twice"),
        ("add_clicks", {"clicks": [{"user": "ann", "items": ["heat"]}]}, "found 'heat'"),
        ("add_clicks", {"clicks": [{"user": "zoe", "items": []}]}, "clicks.0.items: found '[]'"),
        ("add_clicks", {"clicks": [{"user": "\ud800", "items": ["dune"]}]}, "Unicode text"),
        ("add_clicks", {"clicks": [{"user": True, "items": ["dune"]}]}, "expected an id"),
        ("add_clicks", {"clicks": [], "k": 3}, "clicks: found"),
        ("add_clicks", {"clicks": [{"user": "ann", "items": ["dune"] * 3000}]}, "at most 2000"),
    ],
)
def test_what_is_refused_changes_nothing(changing, recommender, name, body, message):
    before = recommender.state
    answer = changing.post(f"/{name}", content=json.dumps(body), headers=JSON)
    assert answer.status_code == 422 and message in answer.json()["message"], answer.text
    assert recommender.state is before


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_page_elsewhere_cannot_change_anything(changing, recommender, kind):
    """A browser sends these kinds without asking first; of JSON it asks, and is told no."""
    before = recommender.state
    body = json.dumps(BODIES["add_clicks"])
    answer = changing.post("/add_clicks", content=body, headers={"content-type": kind})
    assert answer.status_code == 422 and "content-type" in answer.json()["message"]
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    answer = changing.options("/add_clicks", headers=asked)
    assert answer.status_code == 405 and "access-control-allow-origin" not in answer.headers
    assert recommender.state is before


def test_a_refresh_of_a_page_elsewhere_is_refused(changing, recommender):
    before = recommender.state
    for body in (b"", b"{}"):
        answer = changing.post("/refresh", content=body, headers={"content-type": "text/plain"})
        assert answer.status_code == 422
    assert recommender.state is before


def test_a_model_that_follows_nothing_refuses(serving):
    engine = RecommenderEngine(fitted("mf", epochs=1))
    with TestClient(
        create_app(engine, Limits(threads=1), changing=engine), "http://127.0.0.1"
    ) as client:
        for name in CHANGES:
            answer = client.post(f"/{name}", json=BODIES[name])
            assert answer.status_code == 422 and "model mf" in answer.json()["message"]


def test_answers_do_not_wait_for_a_change(engine):
    """A change that takes long holds no thread that answers; the next change waits for it."""
    begun, finish = threading.Event(), threading.Event()
    refresh, add_clicks, order = engine.refresh, engine.add_clicks, []

    def slow():
        begun.set()
        assert finish.wait(PATIENCE)
        order.append("refresh")
        return refresh()

    def next_one(request):
        order.append("add_clicks")
        return add_clicks(request)

    engine.refresh, engine.add_clicks = slow, next_one
    app = create_app(engine, Limits(threads=1, queue=1), changing=engine)
    with TestClient(app, "http://127.0.0.1") as client:
        made = []
        asked = [
            threading.Thread(
                target=lambda name=name: made.append(changed(client, name, BODIES[name]))
            )
            for name in ("refresh", "add_clicks")
        ]
        asked[0].start()
        assert begun.wait(PATIENCE)
        asked[1].start()
        for _ in range(5):
            assert client.post("/recommend", json={"user": "ann"}).status_code == 200
        assert made == [] and order == []
        finish.set()
        for thread in asked:
            thread.join(PATIENCE)
    assert order == ["refresh", "add_clicks"]
    assert sorted(change["clicks"] for change in made) == [0, 1]


def test_every_thread_answers_from_the_same_state(engine, recommender):
    """Once a change is answered, no thread of the pool knows the state before it."""
    app = create_app(engine, Limits(threads=4, queue=64), changing=engine)
    with TestClient(app, "http://127.0.0.1") as client:
        for number in range(10):
            item = f"film{number}"
            triples = [["directed by", "m/ridley"]]
            changed(client, "add_items", {"items": [{"id": item, "triples": triples}]})
            statuses = []

            def ask(item=item, statuses=statuses):
                answer = client.post("/score", json={"history": ["alien"], "items": [item]})
                statuses.append(answer.status_code)

            askers = [threading.Thread(target=ask) for _ in range(8)]
            for asker in askers:
                asker.start()
            for asker in askers:
                asker.join(PATIENCE)
            assert statuses == [200] * 8


def test_the_command(recommender, tmp_path):
    recommender.save(tmp_path / "cinema")
    options = ("--threads", "1", "--allow-changes", "--host", "0.0.0.0")
    with Served(tmp_path / "cinema", *options) as served:
        port = served.address.rsplit(":", 1)[1]
        address = f"http://127.0.0.1:{port}"
        for name in CHANGES:
            answer = httpx.post(f"{address}/{name}", json=BODIES[name], timeout=PATIENCE)
            assert answer.status_code == 200, answer.text
        assert served.stop() == 0
        last = served.lines.get(timeout=PATIENCE)
        assert last == "stopped; changes since the start that were not saved: 5\n"
        assert "and change all that is served; there is no auth" in "".join(served.errors)

"""What the endpoints answer, refuse and survive."""

from __future__ import annotations

import json
import threading
import time

import pytest

from ekpnet_fast.serve import schemas
from ekpnet_fast.serve.app import ENDPOINTS
from ekpnet_fast.serve.changes import CHANGES
from ekpnet_fast.serve.engine import RecommenderEngine
from support.cinema import cinema, fitted, without_graph
from support.numbered import fitted_to_numbers, numbered_dataset
from support.programs import PATIENCE


class Delegate:
    """The engine, with something done before it recommends."""

    def __init__(self, engine, before):
        self._engine, self._before = engine, before

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def recommend_together(self, requests):
        self._before()
        return self._engine.recommend_together(requests)


def refused(answer, status):
    """The message of a refusal, which has the form of a Problem."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["message", "field"]
    return answer.json()["message"]


# ---- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", [{"user": "ann"}, {"history": ["alien", "dune"]}])
def test_recommend_is_what_the_python_api_says(client, recommender, subject):
    found = client.post("/recommend", json={**subject, "k": 3}).json()
    clicked = found.pop("clicked")
    expected = recommender.recommend(**subject, k=3)
    assert found == json.loads(json.dumps(expected.to_dict()))
    ids = subject["history"] if "history" in subject else recommender.history("ann")
    assert [node["id"] for node in clicked] == list(ids)
    assert {"id": "alien", "name": "Alien", "kind": "item"} in clicked or "user" in subject


def test_recommend_takes_every_option(client, recommender):
    options = {"k": 5, "exclude_seen": False, "filter_items": ["alien", "dune", "eden"]}
    found = client.post("/recommend", json={"history": ["alien"], **options}).json()
    expected = recommender.recommend(history=["alien"], **options)
    assert [item["item"] for item in found["items"]] == [item.item for item in expected]
    assert {item["item"] for item in found["items"]} == {"alien", "dune", "eden"}


def test_score_keeps_the_order_asked_for(client, recommender):
    items = ["eden", "alien", "dune", "alien"]
    found = client.post("/score", json={"user": "ann", "items": items}).json()
    assert [item["item"] for item in found["items"]] == items
    scores = [item["score"] for item in found["items"]]
    assert scores == pytest.approx(recommender.predict(["ann"] * 4, items).tolist(), abs=1e-6)
    again = client.post("/score", json={"history": ["dune"], "items": ["fargo"]}).json()
    (best,) = recommender.recommend(history=["dune"], filter_items=["fargo"])
    assert again["items"] == [best.to_dict()]


def test_explain_has_the_reasons_and_the_whole_ripple_set(client, recommender):
    asked = {"history": ["alien", "casablanca"], "item": "dune", "top": 3}
    found = client.post("/explain", json=asked).json()
    hops = found.pop("hops")
    expected = recommender.explain(history=asked["history"], item="dune", top=3)
    assert found == json.loads(expected.to_json())
    assert [hop["hop"] for hop in hops] == [1, 2]
    assert sum(len(hop["triples"]) for hop in hops) == found["paths"]
    for hop in hops:
        attention = [triple["attention"] for triple in hop["triples"]]
        assert sum(attention) == pytest.approx(1, abs=1e-5)
        assert attention == sorted(attention, reverse=True)
    assert {triple["start"]["id"] for triple in hops[0]["triples"]} <= set(asked["history"])
    effects = [triple["effect"] for hop in hops for triple in hop["triples"]]
    best = max(effects)
    assert best == pytest.approx(found["reasons"][0]["effect"]) and best > 0


def test_parts_stand_alone_where_there_is_no_graph(serving):
    client = serving(RecommenderEngine(fitted("ekpnet_plus", without_graph(cinema()))))
    found = client.post("/explain", json={"user": "ann", "item": "eden"}).json()
    assert found["parts"] and (found["notes"], found["paths"]) == ([], 0)


def test_a_model_without_paths_says_so(serving):
    client = serving(RecommenderEngine(fitted("mf", epochs=1)))
    assert client.get("/health").json()["histories"] is False
    found = client.post("/explain", json={"user": "ann", "item": "eden"}).json()
    assert (found["hops"], found["reasons"]) == ([], [])
    assert found["notes"] == ["model mf does not look at paths of the graph"]
    message = refused(client.post("/recommend", json={"history": ["dune"]}), 422)
    assert "mf scores users that it was trained on" in message


def test_lists_by_candidates(serving):
    engine = RecommenderEngine(fitted_to_numbers(numbered_dataset()), candidates=20)
    found = serving(engine).post("/recommend", json={"user": 3, "k": 2}).json()
    assert found["notes"][-1].startswith("60 of 80 items were scored")


def test_health_and_search(client):
    health = client.get("/health").json()
    assert (health["status"], health["model"], health["items"]) == ("ok", "ekpnet", 6)
    assert health["histories"] is True and health["threads"] == 2
    found = client.get("/items", params={"query": "BLADE run"}).json()
    assert found["total"] == 1 and found["matches"][0]["name"] == "Blade Runner"
    everybody = client.get("/users", params={"limit": 3}).json()
    assert everybody["total"] == health["users"] and len(everybody["matches"]) == 3
    later = client.get("/users", params={"limit": 3, "skip": 2}).json()["matches"]
    assert later[0] == everybody["matches"][2]
    assert client.get("/users", params={"query": "nobody"}).json()["matches"] == []
    refused = client.get("/users", params={"q": "nobody"})  # would be all users
    message = "'q': found it in the query, expected query, skip, limit"
    assert (refused.status_code, refused.json()["message"]) == (422, message)


def test_openapi_is_typed(client):
    found = client.get("/openapi.json").json()
    assert set(found["paths"]) == {
        *("/recommend", "/score", "/explain", "/users", "/items", "/health", "/metrics")
    }
    changes = {f"/{name}" for name in CHANGES}  # which this server does not take
    assert set(found["paths"]) | {"/", "/openapi.json"} | changes == ENDPOINTS
    for path, methods in found["paths"].items():
        for operation in methods.values():
            answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
            assert answer["$ref"].startswith("#/components/schemas/"), path
            if path not in ("/health", "/metrics"):
                for status in ("413", "422", "503"):
                    content = operation["responses"][status]["content"]["application/json"]
                    assert content["schema"]["$ref"].endswith("/Problem")
    asked = found["components"]["schemas"]["RecommendRequest"]["properties"]
    assert asked["k"]["maximum"] == schemas.MOST_RECOMMENDED
    history = asked["history"]["anyOf"][0]
    for shown in (asked["user"]["anyOf"][0], history["items"]):
        assert shown["anyOf"] == [{"type": "integer"}, {"type": "string"}]
    assert history["maxItems"] == schemas.LONGEST_HISTORY


# ---- refusals ------------------------------------------------------------------------------------

ANN = {"user": "ann"}


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("recommend", {}, "found neither of user and history, expected exactly one"),
        ("recommend", {**ANN, "history": ["dune"]}, "found both of user and history"),
        ("recommend", {"user": "nobody"}, "user: found 'nobody', expected one of 20 ids such as"),
        ("recommend", {"user": 7}, "user: found '7', expected one of"),
        ("recommend", {"user": True}, "user: found 'True', expected an id"),
        ("recommend", {"user": 1.5}, "user: found '1.5', expected an id"),
        ("recommend", {"user": ""}, "expected an id of 1 to 200 characters"),
        ("recommend", {"user": "x" * 201}, "expected an id of 1 to 200 characters"),
        ("recommend", {"user": ["ann"]}, "user: found \"['ann']\", expected an id"),
        ("recommend", {"history": []}, "history: found '[]', list should have at least 1 item"),
        ("recommend", {"history": "dune"}, "history: found 'dune', input should be a valid list"),
        ("recommend", {"history": ["dune", {}]}, "history.1: found '{}', expected an id"),
        ("recommend", {"history": ["dune", "duke"]}, "history: item: found 'duke', expected one"),
        ("recommend", {"history": ["dune"] * 2001}, "should have at most 2000 items"),
        ("recommend", {**ANN, "k": 0}, "k: found '0', input should be greater than or equal to 1"),
        ("recommend", {**ANN, "k": 1001}, "k: found '1001', input should be less than or equal"),
        ("recommend", {**ANN, "k": "3"}, "k: found '3', input should be a valid integer"),
        ("recommend", {**ANN, "k": 2.0}, "k: found '2.0', input should be a valid integer"),
        ("recommend", {**ANN, "kk": 3}, "kk: found '3', extra inputs are not permitted"),
        ("recommend", {**ANN, "exclude_seen": 1}, "exclude_seen: found '1', input should be a"),
        ("recommend", {**ANN, "filter_items": ["x"]}, "filter_items: item: found 'x', expected"),
        ("recommend", [1], "body: found '[1]', input should be a valid dictionary"),
        ("score", ANN, "items: Field required"),
        ("score", {**ANN, "items": []}, "items: found '[]', list should have at least 1 item"),
        ("score", {**ANN, "items": ["dune"] * 5001}, "should have at most 5000 items"),
        ("explain", ANN, "item: Field required"),
        ("explain", {**ANN, "item": "duke"}, "item: found 'duke', expected one of 6 ids"),
        ("explain", {**ANN, "item": "dune", "top": 0}, "top: found '0', input should be"),
    ],
)
def test_bad_requests(client, path, body, expected):
    assert expected in refused(client.post(f"/{path}", json=body), 422)


def test_refusal_names_the_field(client):
    answer = client.post("/recommend", json={**ANN, "k": 0})
    assert answer.json()["field"] == "k"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"user": "ann",}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"user": ' + b"9" * 5000 + b"}",
        b'{"user": NaN}',
        b'{"user": "\\ud800"}',
        b"null",
    ],
)
def test_bodies_that_are_no_request(client, body):
    answer = client.post("/recommend", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422) and answer.json()["message"]
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/users?limit=0", 422), ("/users?limit=x", 422), ("/items?skip=-1", 422)),
        *((f"/items?query={'x' * 201}", 422), ("/nothing", 404), ("/recommend", 405)),
    ],
)
def test_bad_addresses(client, path, status):
    assert refused(client.get(path), status)


# ---- limits --------------------------------------------------------------------------------------


def test_a_body_over_the_limit_is_refused_before_it_is_read(serving, engine):
    client = serving(engine, max_body=1000)
    body = json.dumps({"history": ["dune"] * 500})
    message = refused(client.post("/recommend", content=body), 413)
    assert message == f"body: found {len(body):,} bytes, expected at most 1,000"

    def pieces():  # without a Content-Length
        for _ in range(100):
            yield b"x" * 100

    message = refused(client.post("/recommend", content=pieces()), 413)
    assert "more than 1,000 bytes" in message
    assert client.post("/recommend", json=ANN).status_code == 200


def test_a_full_queue_says_when_to_come_again(serving, engine):
    gate, entered = threading.Event(), threading.Semaphore(0)

    def wait():
        entered.release()
        gate.wait(PATIENCE)

    client = serving(Delegate(engine, wait), threads=1, queue=1)
    answers = []
    askers = [
        threading.Thread(target=lambda: answers.append(client.post("/recommend", json=ANN)))
        for _ in range(2)
    ]
    for asker in askers:
        asker.start()
    assert entered.acquire(timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while client.get("/health").json()["pending"] < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    refusal = client.post("/recommend", json=ANN)
    assert "queue is full" in refused(refusal, 503)
    assert refusal.headers["retry-after"] == "1"
    gate.set()
    for asker in askers:
        asker.join(PATIENCE)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert client.get("/health").json()["pending"] == 0


def test_an_answer_that_takes_too_long(serving, engine):
    gate = threading.Event()
    client = serving(Delegate(engine, lambda: gate.wait(PATIENCE)), timeout=0.05)
    assert refused(client.post("/recommend", json=ANN), 504) == "the answer took too long"
    gate.set()
    deadline = time.monotonic() + PATIENCE
    while client.get("/health").json()["pending"] and time.monotonic() < deadline:
        time.sleep(0.005)
    # The thread is free again; a limit this low may be missed by honest work, so none is done.
    assert client.get("/health").json()["pending"] == 0


def test_a_fault_inside_is_a_500_and_the_server_stays_up(serving, engine, caplog):
    def fail():
        raise RuntimeError("secret of the inside")

    client = serving(Delegate(engine, fail))
    message = refused(client.post("/recommend", json=ANN), 500)
    assert "secret" not in message
    assert "secret of the inside" in caplog.text
    caplog.clear()
    charset = {"content-type": "application/json; charset=utf-8"}  # by way of FastAPI
    again = client.post("/recommend", content=json.dumps(ANN), headers=charset)
    assert refused(again, 500) == message
    assert "secret of the inside" in caplog.text
    assert client.get("/metrics").json()["endpoints"]["/recommend"]["statuses"] == {"500": 2}
    assert client.post("/score", json={**ANN, "items": ["dune"]}).status_code == 200


def test_requests_compute_on_threads_of_the_pool_with_one_torch_thread(serving, engine):
    import torch

    found = []
    client = serving(
        Delegate(
            engine,
            lambda: found.append((threading.current_thread().name, torch.get_num_threads())),
        ),
        threads=1,
    )
    client.post("/recommend", json=ANN)
    assert found == [("compute_0", 1)]


# ---- who may ask, and what a browser may do ------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "fine"),
    [
        *(("127.0.0.1", True), ("localhost:8000", True), ("[::1]:80", True), ("10.1.2.3", True)),
        *(("films.example", True), ("FILMS.example:8000", True)),
        *(("evil.example", False), ("films.example.evil.example", False), ("", False)),
        *(("127.0.0.1.evil.example", False), ("[films.example]", True)),
    ],
)
def test_names_that_the_server_may_be_called_by(serving, engine, host, fine):
    client = serving(engine, hosts=["films.example"])
    answer = client.get("/health", headers={"host": host})
    if fine:
        assert answer.status_code == 200
    else:
        assert "expected this server's address" in refused(answer, 421)


def test_every_answer_has_the_headers(client):
    for answer in (client.get("/"), client.get("/health"), client.post("/recommend", json={})):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers


# ---- metrics -------------------------------------------------------------------------------------


def test_metrics_count_by_endpoint_and_status(client):
    for _ in range(3):
        client.post("/recommend", json=ANN)
    client.post("/recommend", json={})
    for i in range(50):
        client.get(f"/made-up-{i}")
    endpoints = client.get("/metrics").json()["endpoints"]
    assert endpoints["/recommend"]["requests"] == 4
    assert endpoints["/recommend"]["statuses"] == {"200": 3, "422": 1}
    latency = endpoints["/recommend"]["latency_seconds"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"] * 1.05
    assert endpoints["other"]["statuses"] == {"404": 50}
    assert set(endpoints) == {"/recommend", "other"}
    assert "/metrics" in client.get("/metrics").json()["endpoints"]

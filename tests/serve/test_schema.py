"""The server against its own OpenAPI schema: requests that fit it and requests that do not."""

from __future__ import annotations

import pytest

pytest.importorskip("schemathesis", reason="needs schemathesis")

import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from ekpnet_fast.serve.app import Limits, create_app
from ekpnet_fast.serve.engine import RecommenderEngine
from support import fuzzing
from support.numbered import fitted_to_numbers, numbered_dataset

CHECKS = (
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
)
WITH_ARGUMENTS = ("users", "items", "recommend", "score", "explain")
CHANGES = ("add_triples", "remove_triples", "add_items", "add_clicks")
TRIES = fuzzing.TRIES // 4

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def operations():
    """The server's operations by name, on a server that lasts for all of them."""
    engine = RecommenderEngine(fitted_to_numbers(numbered_dataset()))  # some ids are hit upon
    server = create_app(engine, Limits(threads=1), frozenset(["testserver"]), changing=engine)

    async def app(scope, receive, send):
        while scope["type"] == "lifespan":  # schemathesis would end it after the first request
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
        await server(scope, receive, send)

    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    found = [each.ok() for each in schema.get_all_operations()]
    return {operation.path.removeprefix("/"): operation for operation in found}


def check(operation, mode, tries):
    @seed(17)
    @settings(
        max_examples=tries, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def call(case):
        case.call_and_validate(checks=CHECKS)

    call()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", (*WITH_ARGUMENTS, *CHANGES))
def test_answers_are_those_of_the_schema(operations, name, mode):
    check(operations[name], mode, TRIES)


def test_answers_without_arguments_are_those_of_the_schema(operations):
    others = operations.keys() - {*WITH_ARGUMENTS, *CHANGES}
    assert others == {"health", "metrics", "refresh"}  # of which there is nothing for this model
    for name in others:
        check(operations[name], GenerationMode.POSITIVE, 1)
